"""``linformers embed``: a vector for every document, or for every chunk read in the context of its document."""

from pathlib import Path
from typing import Annotated

import typer

from linformers.cli.reading import Delimiter, Encoding, columns
from linformers.cli.training import calm_threads
from linformers.files.sources import DocumentUnit


def embed(
    model: Annotated[
        str,
        typer.Option(
            help="Folder of an encoder, of sentence-transformers or not: safetensors, or an export.", show_default=False
        ),
    ],
    input: Annotated[
        list[str],
        typer.Option(
            help="File, folder, glob or fsspec URL of Parquet, JSONL, CSV or text (.gz, .zst). Repeatable.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the vectors.", show_default=False)],
    chunks: Annotated[
        str | None,
        typer.Option(help="A vector for each: sentence, paragraph or tokens:N.", show_default="for each document"),
    ] = None,
    overlap: Annotated[int, typer.Option(help="Tokens that chunks of tokens:N share with the one before.")] = 0,
    context: Annotated[
        str, typer.Option(help="What a chunk is read in: its document (late chunking, arXiv 2409.04701), or chunk.")
    ] = "document",
    text: Annotated[
        list[str] | None, typer.Option(help="Column of the text; several are joined. Repeatable.", show_default="found")
    ] = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    id: Annotated[
        list[str] | None, typer.Option(help="Column to carry over. Repeatable.", show_default="file and row")
    ] = None,
    documents: Annotated[DocumentUnit, typer.Option(help="A document of .txt files.")] = "file",
    max_length: Annotated[int | None, typer.Option(help="Tokens read at once.", show_default="the model's")] = None,
    long: Annotated[
        str | None,
        typer.Option(
            help="Of longer texts: truncate, or windows (all, in pieces that are pooled together).",
            show_default="truncate; windows for chunks in their document",
        ),
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="Of tokens: mean, cls or max.", show_default="the model's, or mean")
    ] = None,
    normalize: Annotated[
        bool | None, typer.Option(help="Whether vectors get length 1.", show_default="the model's, or not")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Text to put before each.", show_default="the model's")] = None,
    prompt_name: Annotated[str | None, typer.Option(help="A prompt of the model.", show_default="its default")] = None,
    truncate_dim: Annotated[
        int | None, typer.Option(help="Numbers kept of a vector (Matryoshka models).", show_default="all")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of the vectors: float32, float16, int8 or binary (sign bits).")
    ] = "float32",
    ranges: Annotated[
        str | None,
        typer.Option(help="Output folder of an int8 run, for its ranges.", show_default="of the first 1,024 vectors"),
    ] = None,
    arithmetic: Annotated[str, typer.Option(help="float32, or bfloat16 where the machine has it.")] = "float32",
    memory: Annotated[str, typer.Option(help="For a batch, beside the model.")] = "1GB",
    shard_rows: Annotated[int, typer.Option(help="Documents of a shard at most: the work that a kill costs.")] = 4096,
    limit_bytes: Annotated[str, typer.Option(help="Reject larger documents.")] = "10MB",
    max_reject_share: Annotated[
        float, typer.Option(help="Exit with 1, after embedding, when more of the rows are rejected.")
    ] = 0.1,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster that sees the same folders.", show_default="start Ray here")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Ray processes with a model each.", show_default="a GPU, or CPU less one, each")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what the output folder holds.")] = False,
) -> None:
    """Turn documents into vectors, each document exactly once, whole or chunk by chunk in its context.

    Vectors equal those of sentence-transformers for the same folder. Killed at any moment, the same command goes on;
    rows in are rows embedded and rows rejected, and counted again at the end. Exit codes: 0 done, 1 failed, or nothing
    was embedded, or more rows were rejected than --max-reject-share allows.
    """
    options = {**locals(), "input": tuple(input), "id": tuple(id or ()), "output": str(output), "text": columns(text)}
    calm_threads()

    from rich.console import Console

    from linformers.commands.embed import run_embed
    from linformers.measure.memory import parse_bytes
    from linformers.scoring.settings import EmbedSettings

    options["memory"] = parse_bytes("memory", memory)
    options["limit_bytes"] = parse_bytes("limit_bytes", limit_bytes)
    run_embed(EmbedSettings(**options), Console(highlight=False, soft_wrap=True, markup=False))
