"""Options of all commands that read text."""

from typing import Annotated, Any

import typer

from linformers.files.sources import DocumentUnit

Delimiter = Annotated[
    str | None,
    typer.Option(help="What stands between fields of CSV: a character, tab, semicolon, ....", show_default="found"),
]
Encoding = Annotated[
    str | None,
    typer.Option(help="Encoding of CSV, JSON and text, as utf-8, utf-16 or cp1252.", show_default="found"),
]

MaxRejectShare = Annotated[float, typer.Option(help="Stop when more of the records that are read are unusable.")]

Columns = Annotated[
    list[str] | None, typer.Option(help="Column of the text; several are joined. Repeatable.", show_default="found")
]
Pair = Annotated[str | None, typer.Option(help="Column of the second text, of models of pairs.", show_default="found")]
# Of commands that read any number of documents, here or on a cluster.
Inputs = Annotated[
    list[str],
    typer.Option(
        help="File, folder, glob or fsspec URL of Parquet, JSONL, CSV or text (.gz, .zst). Repeatable.",
        show_default=False,
    ),
]
Carried = Annotated[
    list[str] | None, typer.Option(help="Column to carry over. Repeatable.", show_default="file and row")
]
Documents = Annotated[DocumentUnit, typer.Option(help="A document of .txt files.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens read at once.", show_default="the model's")]
Memory = Annotated[str, typer.Option(help="For a batch, beside the model.")]
ShardRows = Annotated[int, typer.Option(help="Documents of a shard at most: the work that a kill costs.")]
LimitBytes = Annotated[str, typer.Option(help="Reject larger documents.")]
RejectShare = Annotated[float, typer.Option(help="Exit with 1, when all is done, if more of the rows are rejected.")]
Engine = Annotated[str, typer.Option(help="local or ray.")]
Address = Annotated[
    str | None, typer.Option(help="Of a Ray cluster that sees the same folders.", show_default="start Ray here")
]
Workers = Annotated[
    int | None, typer.Option(help="Ray processes with a model each.", show_default="a GPU, or CPU less one, each")
]
Restart = Annotated[bool, typer.Option("--restart", help="Forget what the output folder holds.")]


def read_options(given: dict[str, Any]) -> dict[str, Any]:
    """What was given to a command that reads any number of documents, as its settings want it."""
    from linformers.measure.memory import parse_bytes

    sizes = {name: parse_bytes(name, given[name]) for name in ("memory", "limit_bytes")}
    more = {"input": tuple(given["input"]), "id": tuple(given["id"] or ()), "output": str(given["output"])}
    return {**given, **sizes, **more, "text": columns(given["text"])}


def columns(names: list[str] | None) -> str | tuple[str, ...] | None:
    """One column, several, or None."""
    return tuple(names) if names and len(names) > 1 else names[0] if names else None
