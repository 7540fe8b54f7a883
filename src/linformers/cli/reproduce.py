"""``linformers reproduce``: the paper's tables and figures, run again."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from linformers.cli.training import calm_threads


def reproduce(
    target: Annotated[
        str, typer.Argument(help="table2, table3, figure1, figure2, figure3 or all.", show_default=False)
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Changes to the scale, such as table3.dims=[128].", show_default=False
        ),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="smoke (two minutes, nothing is learned), laptop (an hour and a half on two cores) or paper (GPUs)."
        ),
    ] = "smoke",
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data sets; what is missing is named.", show_default="none")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the results.", show_default="runs/reproduce/SCALE")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.", show_default="cuda where there is one")] = None,
) -> None:
    """Run tables and figures of the Linformer paper again; ours beside published, and whether each claim held.

    What is measured is kept by recipe, machine, versions and code: the same command again goes on where it was stopped.
    The scales are recipes/reproduce/*.yaml. figure1 and figure3 can do with the books that ship with the package.
    """
    calm_threads()

    import torch
    from rich.console import Console

    from linformers.reproduce.run import reproduce as run

    run(
        target,
        scale,
        output=output or Path("runs/reproduce") / scale,
        data=data,
        changes=changes or [],
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        console=Console(highlight=False, width=None if sys.stdout.isatty() else 160),
    )
