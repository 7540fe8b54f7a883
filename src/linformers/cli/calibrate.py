"""``linformers calibrate``: what a classifier's probabilities are worth, and a threshold for a review queue."""

from pathlib import Path
from typing import Annotated

import typer

from linformers.cli.reading import Columns, Delimiter, Encoding, Pair, columns
from linformers.cli.training import calm_threads


def calibrate(
    model: Annotated[str, typer.Option(help="Folder of a classifier, or of its export.", show_default=False)],
    labelled: Annotated[
        str,
        typer.Option(help="JSONL, CSV, TSV or Parquet of labelled documents, none of training.", show_default=False),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the calibration.", show_default=False)],
    target: Annotated[str | None, typer.Option(help="Label to find; to be given.", show_default=False)] = None,
    precision: Annotated[float | None, typer.Option(help="Least share of the target in what is flagged.")] = None,
    recall: Annotated[float | None, typer.Option(help="Least share of the target that is flagged.")] = None,
    text: Columns = None,
    pair: Pair = None,
    label: Annotated[str | None, typer.Option(help="Column of the label.", show_default="found")] = None,
    labels: Annotated[
        str | None, typer.Option(help="In its place columns of 0 and 1, as toxic,insult.", show_default="none")
    ] = None,
    id: Annotated[list[str] | None, typer.Option(help="Column to name rejects by. Repeatable.")] = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    max_reject_share: Annotated[float, typer.Option(help="Stop when more of the rows are unusable.")] = 0.01,
    max_length: Annotated[int | None, typer.Option(help="As of score.", show_default="the model's")] = None,
    long: Annotated[str, typer.Option(help="As of score.")] = "truncate",
    overlap: Annotated[int, typer.Option(help="As of score.")] = 0,
    pool: Annotated[str, typer.Option(help="As of score.")] = "mean",
    dtype: Annotated[str, typer.Option(help="As of score.")] = "float32",
    memory: Annotated[str, typer.Option(help="As of score.")] = "1GB",
) -> None:
    """Choose a threshold for `linformers score --queue` on labelled documents, and plot the calibration.

    Give one target: --precision (as much recall as it leaves) or --recall (as much precision).
    """
    calm_threads()

    from rich.console import Console

    from linformers.commands.calibrate import run_calibrate
    from linformers.data.examples import Columns
    from linformers.files.forms import Form
    from linformers.measure.memory import parse_bytes
    from linformers.scoring.settings import Reading

    how = {"max_length": max_length, "long": long, "overlap": overlap, "pool": pool, "dtype": dtype}
    run_calibrate(
        Reading(model=model, memory=parse_bytes("memory", memory), **how),  # type: ignore[arg-type]
        labelled,
        output,
        target=target,
        precision=precision,
        recall=recall,
        columns=Columns(
            text=columns(text),
            pair=pair,
            label=label,
            labels=tuple(name.strip() for name in (labels or "").split(",") if name.strip()),
            id=tuple(id or ()),
        ),
        form=Form(delimiter, encoding),
        max_reject_share=max_reject_share,
        console=Console(highlight=False, soft_wrap=True, markup=False),
    )
