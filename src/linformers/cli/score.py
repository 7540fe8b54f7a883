"""``linformers score``: any number of documents through a classifier, a tagger, answers or an encoder."""

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
    Pair,
    RejectShare,
    Restart,
    ShardRows,
    Workers,
    read_options,
)
from linformers.cli.training import calm_threads


def score(
    model: Annotated[
        str,
        typer.Option(
            help="Folder of a classifier, tagger, encoder or model that answers: safetensors, or an export.",
            show_default=False,
        ),
    ],
    input: Inputs,
    output: Annotated[Path, typer.Option(help="Folder for the scores.", show_default=False)],
    text: Columns = None,
    pair: Pair = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    id: Carried = None,
    documents: Documents = "file",
    max_length: MaxLength = None,
    long: Annotated[str, typer.Option(help="Of longer documents: truncate, or windows (all, in pieces).")] = "truncate",
    overlap: Annotated[int, typer.Option(help="Tokens that a window shares with the one before it.")] = 0,
    pool: Annotated[str, typer.Option(help="Windows' probabilities as a document's: mean or max.")] = "mean",
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Also the mean of the last hidden states.")] = False,
    queue: Annotated[
        list[str] | None,
        typer.Option(help="LABEL=P, or a calibration's folder: queue rows of this probability or more. Repeatable."),
    ] = None,
    format: Annotated[str, typer.Option(help="Of the scores: parquet or jsonl.")] = "parquet",
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 where the machine has it.")] = "float32",
    memory: Memory = "1GB",
    shard_rows: ShardRows = 4096,
    limit_bytes: LimitBytes = "10MB",
    max_reject_share: RejectShare = 0.1,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    restart: Restart = False,
) -> None:
    """Classify, tag, answer or embed everything, each document exactly once, in memory that does not grow with it.

    Killed at any moment, the same command goes on; rows in are rows scored and rows rejected, and counted again at the
    end. Run every night, it reads the files that are new, and those that have changed in place of what was there. A
    changed model or option is refused. Exit codes: 0 done, 1 failed, or of this night's files nothing was scored, or
    more rows were rejected than --max-reject-share allows.
    """
    options = read_options(locals())
    calm_threads()

    from rich.console import Console

    from linformers.commands.score import run_score, thresholds
    from linformers.scoring.settings import ScoreSettings

    options["queue"] = thresholds(queue or (), options)
    run_score(ScoreSettings(**options), Console(highlight=False, soft_wrap=True, markup=False))
