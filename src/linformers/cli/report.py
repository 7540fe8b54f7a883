"""``linformers report``: one page from the results of a run."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run of any command.", show_default=False)],
) -> None:
    """Write report.html into the folder of a run: one page with its charts and their data, which opens offline.

    For runs of pretrain, finetune, distil, spectrum, advise, benchmark, quickstart and reproduce.
    """
    from linformers.commands.report import write_report
    from linformers.reproduce.present import document_of
    from linformers.reproduce.run import KIND

    path = write_report(folder, {KIND: document_of})
    typer.echo(f"Report: {path}\nNext: open it in a browser ({path.absolute().as_uri()})")
