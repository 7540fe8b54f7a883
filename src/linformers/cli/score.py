"""``linformers score``: any number of documents through a classifier or an encoder."""

from pathlib import Path
from typing import Annotated

import typer

from linformers.cli.reading import Delimiter, Encoding, columns
from linformers.cli.training import calm_threads
from linformers.files.sources import DocumentUnit


def score(
    model: Annotated[
        str, typer.Option(help="Folder of a classifier or an encoder: safetensors, or an export.", show_default=False)
    ],
    input: Annotated[
        list[str],
        typer.Option(
            help="File, folder, glob or fsspec URL of Parquet, JSONL, CSV or text (.gz, .zst). Repeatable.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the scores.", show_default=False)],
    text: Annotated[
        list[str] | None, typer.Option(help="Column of the text; several are joined. Repeatable.", show_default="found")
    ] = None,
    pair: Annotated[
        str | None, typer.Option(help="Column of the second text, of models of pairs.", show_default="found")
    ] = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    id: Annotated[
        list[str] | None, typer.Option(help="Column to carry over. Repeatable.", show_default="file and row")
    ] = None,
    documents: Annotated[DocumentUnit, typer.Option(help="A document of .txt files.")] = "file",
    max_length: Annotated[int | None, typer.Option(help="Tokens read at once.", show_default="the model's")] = None,
    long: Annotated[str, typer.Option(help="Of longer documents: truncate, or windows (all, in pieces).")] = "truncate",
    pool: Annotated[str, typer.Option(help="Windows' probabilities as a document's: mean or max.")] = "mean",
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Also the mean of the last hidden states.")] = False,
    threshold: Annotated[
        list[str] | None, typer.Option(help="LABEL=P: flag rows of this probability or more. Repeatable.")
    ] = None,
    format: Annotated[str, typer.Option(help="Of the scores: parquet or jsonl.")] = "parquet",
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 where the machine has it.")] = "float32",
    memory: Annotated[str, typer.Option(help="For a batch, beside the model.")] = "1GB",
    shard_rows: Annotated[int, typer.Option(help="Rows of a shard at most: the work that a kill costs.")] = 4096,
    limit_bytes: Annotated[str, typer.Option(help="Reject larger documents.")] = "10MB",
    max_reject_share: Annotated[
        float, typer.Option(help="Exit with 1, after scoring, when more of the rows are rejected.")
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
    """Classify or embed everything, each document exactly once, in memory that does not grow with the input.

    Killed at any moment, the same command goes on; rows in are rows scored and rows rejected, and counted again at the
    end. A changed model, input or option is refused. Exit codes: 0 done, 1 failed, or nothing was scored, or more rows
    were rejected than --max-reject-share allows.
    """
    options = {**locals(), "input": tuple(input), "id": tuple(id or ()), "output": str(output), "text": columns(text)}
    calm_threads()

    from rich.console import Console

    from linformers.commands.score import run_score
    from linformers.measure.memory import parse_bytes
    from linformers.scoring.settings import ScoreSettings

    options["memory"] = parse_bytes("memory", memory)
    options["limit_bytes"] = parse_bytes("limit_bytes", limit_bytes)
    options["threshold"] = dict(_threshold(one) for one in threshold or ())
    run_score(ScoreSettings(**options), Console(highlight=False, soft_wrap=True, markup=False))


def _threshold(text: str) -> tuple[str, float]:
    label, _, least = text.rpartition("=")
    try:
        return label, float(least)
    except ValueError as error:
        raise ValueError(f"threshold={text!r} must be LABEL=P, for instance spam=0.9") from error
