"""``linformers spectrum``: is the attention of an encoder low-rank on my text?"""

from typing import Annotated

import typer

from linformers.cli.reading import Delimiter, Encoding, MaxRejectShare
from linformers.files.sources import DocumentUnit


def spectrum(
    model: Annotated[str, typer.Option(help="Folder or hub id of an encoder.", show_default=False)],
    texts: Annotated[list[str], typer.Option(help="File, folder or glob of text. Repeatable.", show_default=False)],
    output: Annotated[str, typer.Option(help="Folder for figures, plots and tables.", show_default=False)],
    length: Annotated[int, typer.Option(help="Tokens of a text; shorter ones are passed over.")] = 512,
    max_texts: Annotated[int, typer.Option(help="Texts that are measured at most.")] = 200,
    windows_per_text: Annotated[int, typer.Option(help="Stretches of a text that are measured at most.")] = 1,
    index: Annotated[
        int | None,
        typer.Option(
            help="The heat map shows the share of so many singular values.",
            show_default="128, or a quarter of a --length of at most 128",
        ),
    ] = None,
    exact: Annotated[bool, typer.Option(help="Never approximate, at any length.")] = False,
    text_column: Annotated[
        str | None, typer.Option("--text", help="Column of the texts; found by itself if usual.")
    ] = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    documents: Annotated[DocumentUnit, typer.Option(help="A text of .txt files.")] = "file",
    max_reject_share: MaxRejectShare = 0.01,
) -> None:
    """Measure the singular values of an encoder's attention on text (Linformer, Figure 1).

    How fast they fall says how many slots a layer could do with. The same command again goes on where a run was
    stopped. Of a Linformer it is the map that its compression and attention make together.
    """
    options = {**locals(), "texts": tuple(texts)}

    from rich.console import Console

    from linformers.commands.spectrum import SpectrumSettings, run_spectrum

    run_spectrum(SpectrumSettings(**options), Console(highlight=False, soft_wrap=True, markup=False))
