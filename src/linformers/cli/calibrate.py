"""``linformers calibrate``: what a classifier's probabilities are worth, and a threshold for a review queue."""

from pathlib import Path
from typing import Annotated

import typer

from linformers.cli.training import calm_threads


def calibrate(
    model: Annotated[str, typer.Option(help="Folder of a classifier, or of its export.", show_default=False)],
    labelled: Annotated[
        str,
        typer.Option(help="JSONL, CSV, TSV or Parquet of labelled documents, none of training.", show_default=False),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the calibration.", show_default=False)],
    target: Annotated[str | None, typer.Option(help="Label to find.", show_default="the second of two")] = None,
    precision: Annotated[float | None, typer.Option(help="Least share of the target in what is flagged.")] = None,
    recall: Annotated[float | None, typer.Option(help="Least share of the target that is flagged.")] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text.", show_default="found")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label.", show_default="found")] = None,
    max_length: Annotated[int | None, typer.Option(help="As of score.", show_default="the model's")] = None,
    long: Annotated[str, typer.Option(help="As of score.")] = "truncate",
    pool: Annotated[str, typer.Option(help="As of score.")] = "mean",
    dtype: Annotated[str, typer.Option(help="As of score.")] = "float32",
    memory: Annotated[str, typer.Option(help="As of score.")] = "1GB",
) -> None:
    """Choose a threshold for `linformers score --threshold` on labelled documents, and plot the calibration.

    Give one target: --precision (as much recall as it leaves) or --recall (as much precision).
    """
    calm_threads()

    from rich.console import Console

    from linformers.commands.calibrate import run_calibrate
    from linformers.measure.memory import parse_bytes
    from linformers.scoring.settings import Reading

    how = {"max_length": max_length, "long": long, "pool": pool, "dtype": dtype}
    run_calibrate(
        Reading(model=model, memory=parse_bytes("memory", memory), **how),  # type: ignore[arg-type]
        labelled,
        output,
        target=target,
        precision=precision,
        recall=recall,
        text=text,
        label=label,
        console=Console(highlight=False, soft_wrap=True, markup=False),
    )
