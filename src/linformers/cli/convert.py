"""``linformers convert``: a trained encoder as a Linformer."""

from pathlib import Path
from typing import Annotated

import typer

# Options that a Linformer-RoBERTa of fairseq leaves a choice about.
_OF_FAIRSEQ = {"model", "output", "max_length", "positions"}


def convert(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Option(
            help="Folder or hub id of a BERT, RoBERTa, XLM-R, DistilBERT or ELECTRA; or a safetensors file of "
            "fairseq's Linformer-RoBERTa.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the converted model.", show_default=False)],
    projected_dim: Annotated[int, typer.Option(help="Slots that keys and values are compressed to, k.")] = 128,
    max_length: Annotated[
        int | None, typer.Option(help="Longest input, in tokens.", show_default="the model's")
    ] = None,
    projection_kind: Annotated[str, typer.Option(help="mean_pool, max_pool, linear or conv.")] = "mean_pool",
    projection_sharing: Annotated[str, typer.Option(help="none, headwise, key_value or layerwise.")] = "key_value",
    projection_init: Annotated[
        str, typer.Option(help="How projections start: pooling, random (linear) or fit (needs --fit-texts).")
    ] = "pooling",
    local_window: Annotated[int, typer.Option(help="Exact neighbours on each side, in tokens.")] = 64,
    global_tokens: Annotated[int, typer.Option(help="Tokens at the start that all see and that see all.")] = 1,
    softmax_layers: Annotated[
        list[int] | None, typer.Option(help="Layer that keeps softmax attention; -1 is the last. Repeatable.")
    ] = None,
    positions: Annotated[str, typer.Option(help="How positions grow: tile or interpolate.")] = "tile",
    attention_type: Annotated[str, typer.Option(help="linformer, kfree or softmax.")] = "linformer",
    texts: Annotated[
        list[str] | None,
        typer.Option(help="Measure the distance to the teacher on this text (a file, as of pretrain). Repeatable."),
    ] = None,
    fit_texts: Annotated[list[str] | None, typer.Option(help="Text to fit projections to. Repeatable.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the texts; found by itself if usual.")] = None,
    documents: Annotated[str, typer.Option(help="A text of .txt files: file, blank_line or line.")] = "file",
    max_texts: Annotated[int, typer.Option(min=1, help="Texts that are used at most.")] = 64,
) -> None:
    """Convert an encoder to a Linformer with its weights, head and tokenizer.

    Inputs of at most --projected-dim tokens give what they gave before (with mean_pool); longer ones are approximated,
    in time linear in their length.
    """
    if Path(model).is_file():
        for name in sorted(set(context.params) - _OF_FAIRSEQ):
            if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE":
                option = f"--{name.replace('_', '-')}"
                raise ValueError(
                    f"{option} has no effect on a fairseq Linformer, which has its projections: leave it out"
                )

    from rich.console import Console

    from linformers.analysis.conversion import convert_to_folder
    from linformers.data.sources import Source

    def sources(paths: list[str] | None) -> list[Source]:
        return [Source(path=path, text_column=text_column, documents=documents) for path in paths or []]  # type: ignore[arg-type]

    convert_to_folder(
        model,
        output,
        {
            "projected_dim": projected_dim,
            "max_length": max_length,
            "projection_kind": projection_kind,
            "projection_sharing": projection_sharing,
            "projection_init": projection_init,
            "local_window": local_window,
            "global_tokens": global_tokens,
            "softmax_layers": softmax_layers or [],
            "positions": positions,
            "attention_type": attention_type,
        },
        sources=sources(texts),
        fit_sources=sources(fit_texts),
        max_texts=max_texts,
        console=Console(highlight=False, soft_wrap=True),
    )
