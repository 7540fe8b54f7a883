"""``linformers advise``: which k does each layer need?"""

from typing import Annotated

import typer

from linformers.cli.reading import Delimiter, Encoding, MaxRejectShare
from linformers.files.sources import DocumentUnit


def advise(
    model: Annotated[str, typer.Option(help="Folder or hub id of an encoder to convert.", show_default=False)],
    texts: Annotated[list[str], typer.Option(help="File, folder or glob of text. Repeatable.", show_default=False)],
    output: Annotated[str, typer.Option(help="Folder for the advice.", show_default=False)],
    target_mass: Annotated[
        float | None, typer.Option(help="Fewest slots so that as many singular values have this share of the sum.")
    ] = None,
    target_error: Annotated[
        float | None, typer.Option(help="Fewest slots so that each layer's attention is this near, relatively.")
    ] = None,
    mean_dim: Annotated[
        int | None, typer.Option(help="Best split of so many slots a layer, for the last hidden states.")
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens of a text; shorter ones are passed over.")] = 512,
    max_texts: Annotated[int, typer.Option(help="Texts that are measured at most.")] = 8,
    windows_per_text: Annotated[int, typer.Option(help="Stretches of a text that are measured at most.")] = 1,
    local_window: Annotated[int, typer.Option(help="Window of exact tokens, as in convert.")] = 0,
    global_tokens: Annotated[int, typer.Option(help="Tokens that all see, as in convert.")] = 1,
    timing: Annotated[bool, typer.Option(help="Measure time and memory on this machine too.")] = True,
    text_column: Annotated[
        str | None, typer.Option("--text", help="Column of the texts; found by itself if usual.")
    ] = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    documents: Annotated[DocumentUnit, typer.Option(help="A text of .txt files.")] = "file",
    max_reject_share: MaxRejectShare = 0.01,
) -> None:
    """Find how many slots each layer needs, on your text, before you convert a model.

    Give one of --target-mass, --target-error and --mean-dim. Ends with the command that converts the model so.
    """
    options = {**locals(), "texts": tuple(texts)}

    from rich.console import Console

    from linformers.commands.advise import AdviseSettings, run_advise

    run_advise(AdviseSettings(**options), Console(highlight=False, soft_wrap=True, markup=False))
