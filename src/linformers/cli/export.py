"""``linformers export``: a linear model as ONNX, in float32 or int8."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from linformers.cli.reading import Delimiter, Encoding, MaxRejectShare
from linformers.cli.training import calm_threads
from linformers.files.sources import DocumentUnit


def export(
    model: Annotated[
        str, typer.Option(help="Folder or hub id of a linear model with its tokenizer.", show_default=False)
    ],
    output: Annotated[Path, typer.Option(help="Folder for the export.", show_default=False)],
    format: Annotated[
        Literal["onnx", "onnx-int8"], typer.Option(help="float32, or matrix products with int8 weights.")
    ] = "onnx",
    texts: Annotated[
        list[str] | None,
        typer.Option(help="Measure the error of int8 on this text (a file, as of pretrain). Repeatable."),
    ] = None,
    text_column: Annotated[
        str | None, typer.Option("--text", help="Column of the texts; found by itself if usual.")
    ] = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    documents: Annotated[DocumentUnit, typer.Option(help="A text of .txt files.")] = "file",
    max_reject_share: MaxRejectShare = 0.01,
    max_texts: Annotated[int, typer.Option(min=1, help="Texts that are used at most.")] = 64,
    task: Annotated[
        str | None,
        typer.Option(help="Measure the accuracy of int8 on sst2, imdb, qnli, qqp, or a file of labelled texts."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Folder with a named task's files.", show_default="the hub")] = None,
) -> None:
    """Write a linear model as one ONNX file for any batch and length, with its tokenizer; ONNX Runtime serves it alone.

    The graph is checked against PyTorch at five shapes, or nothing is written. int8 says what it costs: the error on
    texts (--texts, else passages of bundled books), and the change in accuracy on labelled ones (--task).
    """
    calm_threads()

    from rich.console import Console

    from linformers.commands.export import export_onnx
    from linformers.files.sources import Source

    console = Console(highlight=False, soft_wrap=True, markup=False)
    form: Any = {"delimiter": delimiter, "encoding": encoding}
    facts = export_onnx(
        model,
        output,
        format=format,
        texts=[Source(path=path, text_column=text_column, documents=documents, **form) for path in texts or []],
        max_texts=max_texts,
        max_reject_share=max_reject_share,
        task=task,
        data=data,
        console=console,
    )
    console.print(
        f"{facts['architecture']} as {format}, {facts['bytes'] / 1e6:,.1f} MB, up to {facts['max_length']:,} tokens"
    )
    if facts["int8"]:
        for line in _describe(facts["int8"]):
            console.print(line)
    console.print(f"model, tokenizer and what was checked (export.json) in {output}; its card: {output / 'README.md'}")
    serve = shlex.join(["python", "examples/onnx_inference.py", str(output), "A text."])
    console.print(f"next, without PyTorch: {serve}")
    if format == "onnx":
        again = shlex.join(["linformers", "export", "--model", model, "--format", "onnx-int8"])
        console.print(f"smaller and faster, with the error it has: {again} --output {output}-int8")


def _describe(int8: dict[str, Any]) -> Iterator[str]:
    """What int8 costs."""
    error, accuracy = int8["error"], int8["accuracy"]
    found = f"cosine of the outputs {error['cosine']:.4f} (lowest {error['lowest_cosine']:.4f})"
    if error["largest_change"] is not None:
        found += f", scores change by {error['mean_change']:.4f} (at most {error['largest_change']:.4f})"
    if error["same_prediction"] is not None:
        found += f", {error['same_prediction']:.1%} of the predictions are the same"
    yield f"int8 against torch on {error['texts']:,} texts, {error['tokens']:,} tokens: {found}"
    if accuracy:
        metric = accuracy["metric"]
        yield (
            f"{metric} on {accuracy['source']}, {accuracy['rows']:,} rows: torch {accuracy['torch']:.4f}, int8 "
            f"{accuracy['onnx']:.4f} ({accuracy['change']:+.4f})"
        )
