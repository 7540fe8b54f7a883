"""``linformers report``: one page from the results of a run."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run of any command.", show_default=False)],
) -> None:
    """Write report.html into the folder of a run: one page with its charts and their data, which opens offline.

    For the folder of any command but tokenizer. The page of finetune shows each class, the errors it was surest of with
    their texts, lengths, and a baseline.
    """
    from linformers.commands.report import write_report
    from linformers.reproduce.present import document_of
    from linformers.reproduce.run import KIND

    path = write_report(folder, {KIND: document_of})
    typer.echo(f"Report: {path}\nNext: open it in a browser ({path.absolute().as_uri()})")
