"""``linformers embed``: a vector for every document, or for every chunk read in the context of its document."""

from pathlib import Path
from typing import Annotated

import typer

from linformers.cli.reading import (
    Address,
    Carried,
    Columns,
    Delimiter,
    Documents,
    Encoding,
    Engine,
    Inputs,
    LimitBytes,
    MaxLength,
    Memory,
    RejectShare,
    Restart,
    ShardRows,
    Workers,
    read_options,
)
from linformers.cli.training import calm_threads


def embed(
    model: Annotated[
        str,
        typer.Option(
            help="Folder of an encoder, of sentence-transformers or not: safetensors, or an export.", show_default=False
        ),
    ],
    input: Inputs,
    output: Annotated[Path, typer.Option(help="Folder for the vectors.", show_default=False)],
    chunks: Annotated[
        str | None,
        typer.Option(help="A vector for each: sentence, paragraph or tokens:N.", show_default="for each document"),
    ] = None,
    overlap: Annotated[int, typer.Option(help="Tokens that chunks of tokens:N share with the one before.")] = 0,
    context: Annotated[
        str, typer.Option(help="What a chunk is read in: its document (late chunking, arXiv 2409.04701), or chunk.")
    ] = "document",
    beginning: Annotated[
        int,
        typer.Option(help="Tokens at the start of a document, as its title, whose mean is 0.4 of each later chunk."),
    ] = 0,
    text: Columns = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    id: Carried = None,
    documents: Documents = "file",
    max_length: MaxLength = None,
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
    memory: Memory = "1GB",
    shard_rows: ShardRows = 4096,
    limit_bytes: LimitBytes = "10MB",
    max_reject_share: RejectShare = 0.1,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    restart: Restart = False,
) -> None:
    """Turn documents into vectors, each document exactly once, whole or chunk by chunk in its context.

    Vectors equal those of sentence-transformers for the same folder. Killed at any moment, the same command goes on;
    rows in are rows embedded and rows rejected, and counted again at the end. Run every night, it reads the files that
    are new, and those that have changed in place of what was there. Exit codes: 0 done, 1 failed, or of this night's
    files nothing was embedded, or more rows were rejected than --max-reject-share allows.
    """
    options = read_options(locals())
    calm_threads()

    from rich.console import Console

    from linformers.commands.embed import run_embed
    from linformers.scoring.settings import EmbedSettings

    run_embed(EmbedSettings(**options), Console(highlight=False, soft_wrap=True, markup=False))
