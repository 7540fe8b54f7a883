"""What a fine-tuning run leaves behind: metrics, predictions, and what it says in the end."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Shaped
from rich.console import Console
from rich.table import Table

from linformers._registration import ATTENTION
from linformers.classification.data import EncodedPart
from linformers.classification.media import MediaPart
from linformers.classification.metrics import LABELS, estimate, predictions
from linformers.classification.settings import PLAN
from linformers.convert.families import FAMILIES
from linformers.data.tasks import Task
from linformers.files.folders import write_file
from linformers.files.run_folder import MODEL, RESULTS
from linformers.training.watchers import Watcher

KIND = "linformers finetune"
PREDICTIONS = "predictions.parquet"


def summary(
    task: Task, encoded: Mapping[str, EncodedPart | MediaPart], scores: Float[np.ndarray, "rows classes"]
) -> dict[str, Any]:
    """What ``results.json`` holds of the task and the metrics.

    Args:
        task: Task with all its parts.
        encoded: The same as a model reads them.
        scores: Scores of the rows that results are reported on; see ``probabilities``.
    """
    labels = task.parts[task.reported].labels
    return {
        "task": {"name": task.name, "kind": task.kind, "classes": task.classes},
        "reported_on": task.reported,
        "metrics": {name: asdict(found) for name, found in estimate(labels, scores, task.kind).items()},
        "left_out": task.reasons,
        "parts": {
            name: {
                "source": part.source,
                "rows": len(part),
                "cut": encoded[name].cut,
                "tokens": encoded[name].tokens,
                "labels": _counts(task, part.labels),
            }
            for name, part in task.parts.items()
        },
    }


def write_predictions(path: Path, task: Task, scores: Float[np.ndarray, "rows classes"]) -> None:
    """Write a row for each reported example: where it stands, its label, the prediction and the probabilities."""
    part = task.parts[task.reported]

    def named(values: np.ndarray) -> list[Any]:
        if task.kind == "regression":
            return values.tolist()
        if task.kind == "single_label":
            return [task.classes[value] for value in values]
        return [[name for name, one in zip(task.classes, row, strict=True) if one] for row in values]

    columns = {
        "file": [example.shown for example in part.examples],
        "row": [example.line for example in part.examples],
        "label": named(part.labels),
        "predicted": named(predictions(scores, task.kind)),
    }
    if task.kind != "regression":
        columns["probabilities"] = scores.tolist()
    write_file(path, lambda target: pq.write_table(pa.table(columns), target), intact="the checkpoints are intact")


def _counts(task: Task, labels: Shaped[np.ndarray, "rows ..."]) -> dict[str, int | float]:
    if task.kind == "regression":
        return {"lowest": float(labels.min()), "mean": float(labels.mean()), "highest": float(labels.max())}
    counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(task.classes))
    return {name: int(count) for name, count in zip(task.classes, counts, strict=True)}


class SayMetrics(Watcher):
    """Prints the metric that chooses the step, at every evaluation."""

    def __init__(self, console: Console, metric: str) -> None:
        self.console, self.metric = console, metric

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print it."""
        found = f"{LABELS[self.metric]} {metrics[self.metric]:.4f}"
        self.console.print(f"step {step}: {found} on the validation rows", highlight=False)


def conclude(results: dict[str, Any], path: Path, console: Console) -> None:
    """The metrics, where they are, and what to do next."""
    reported = results["reported_on"]
    part = results["parts"][reported]
    table = Table(title=f"{results['task']['name']}: {part['rows']:,} {reported} rows", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95% interval", justify="right")
    for name, found in results["metrics"].items():
        table.add_row(LABELS[name], f"{found['value']:.4f}", f"{found['low']:.4f} to {found['high']:.4f}")
    console.print(table)
    model = path / MODEL
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    short = config["model_type"] in FAMILIES and ATTENTION not in config
    plan = json.loads((model / PLAN).read_text(encoding="utf-8"))
    task = f"{plan.get('modality', 'text')}-classification"
    use = f"transformers.pipeline({task!r}, model={str(model)!r})"
    if results.get("grey"):
        use = f"read grey images as {model / 'README.md'} shows (transformers' pipeline makes them RGB)"
    convert = ["--model", str(model), "--max-length", "4096", "--output", f"{path}-linear"]
    console.print(
        f"Weights of step {results['best']['step']:,} of {results['steps']:,}, the best on the validation rows; "
        f"{results['seconds']:,.0f} s of training.\n"
        f"Model and card: {model}\nMetrics: {path / RESULTS}; predictions: {path / PREDICTIONS}\n"
        f"Next: import linformers, then {use}"
        + (f"\nFor longer inputs: {shlex.join(['linformers', 'convert', *convert])}" if short else ""),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
