"""``linformers pretrain``: masked-language-model pretraining from a recipe, on one process or many."""

from pathlib import Path
from typing import Annotated

import typer

from linformers.cli.training import calm_threads, leave_with


def pretrain(
    recipe: Annotated[
        Path, typer.Argument(help="A YAML recipe; the shipped ones are in recipes/.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as training.steps=1000.", show_default=False),
    ] = None,
) -> None:
    """Pretrain an encoder by masked language modelling.

    The same command again goes on where the run stopped, from the newest checkpoint that is whole. SIGTERM and Ctrl-C
    write a checkpoint first; exit codes: 0 done, 1 failed, 130 stopped by Ctrl-C, 143 by SIGTERM.

    On several devices or hosts: torchrun --nproc-per-node 8 -m linformers pretrain RECIPE [KEY=VALUE]...
    """
    calm_threads()

    from linformers.commands.pretrain import leave, run_recipe
    from linformers.training.recipe import load_recipe

    code = run_recipe(load_recipe(recipe, overrides or []))
    leave()
    leave_with(code)
