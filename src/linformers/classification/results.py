"""What a fine-tuning run leaves behind: metrics, predictions, and what it says in the end."""

import json
import shlex
from collections.abc import Mapping, Sequence
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
from linformers.classification.metrics import LABELS, estimate, per_class, predictions, sign_of
from linformers.classification.settings import PLAN
from linformers.convert.families import FAMILIES
from linformers.data.examples import Example
from linformers.data.tasks import Task
from linformers.data.tasks_media import MediaExample
from linformers.data.tasks_notes import warnings
from linformers.files.folders import write_file
from linformers.files.run_folder import MODEL, RESULTS
from linformers.training.watchers import Watcher

KIND = "linformers finetune"
PREDICTIONS = "predictions.parquet"
CLASSES_SHOWN = 30


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
        "metrics": {name: asdict(found) for name, found in estimate(labels, scores, task.kind, task.positive).items()},
        "per_class": per_class(labels, scores, task.kind, task.classes),
        "warnings": warnings(task) if task.kind != "regression" else [],
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


def write_predictions(
    path: Path, task: Task, scores: Float[np.ndarray, "rows classes"], ids: Sequence[str] = ()
) -> None:
    """Write a row for each reported example: ids, where it stands, text and label, the prediction, probabilities."""
    part = task.parts[task.reported]

    def named(values: np.ndarray) -> list[Any]:
        if task.kind == "regression":
            return values.tolist()
        if task.kind == "single_label":
            return [task.classes[value] for value in values]
        return [[name for name, one in zip(task.classes, row, strict=True) if one] for row in values]

    columns: dict[str, list[Any]] = {name: [example.ids[name] for example in part.examples] for name in ids}
    columns |= {
        "file": [example.shown for example in part.examples],
        "row": [example.line for example in part.examples],
        **{name: [getattr(example, name) for example in part.examples] for name in _texts(part.examples)},
        "label": named(part.labels),
        "predicted": named(predictions(scores, task.kind)),
    }
    if task.kind != "regression":
        columns["probabilities"] = scores.tolist()
    write_file(path, lambda target: pq.write_table(pa.table(columns), target), intact="the checkpoints are intact")


def _texts(examples: Sequence[Example]) -> tuple[str, ...]:
    if isinstance(examples[0], MediaExample):
        return ()
    return ("text",) if examples[0].pair is None else ("text", "pair")


def _counts(task: Task, labels: Shaped[np.ndarray, "rows ..."]) -> dict[str, int | float]:
    if task.kind == "regression":
        return {"lowest": float(labels.min()), "mean": float(labels.mean()), "highest": float(labels.max())}
    counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(task.classes))
    return {name: int(count) for name, count in zip(task.classes, counts, strict=True)}


class SayMetrics(Watcher):
    """Prints the metric that chooses the step, at every evaluation."""

    console: Console
    metric: str
    names: Mapping[str, str]

    def __init__(self, console: Console, metric: str, names: Mapping[str, str] = LABELS) -> None:
        self.console, self.metric, self.names = console, metric, names

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print it."""
        found = f"{self.names[self.metric]} {metrics[self.metric]:.4f}"
        self.console.print(f"step {step}: {found} on the validation rows", highlight=False)


def interval(found: Mapping[str, float]) -> str:
    """An interval as text; where all resamples are the same, that there is none."""
    if found["low"] == found["high"]:
        return "none: all resamples alike"
    return f"{found['low']:.4f} to {found['high']:.4f}"


def class_table(classes: list[dict[str, Any]], title: str = "each class", rows: str = "rows") -> Table:
    """Precision, recall and F1 of each class."""
    table = Table(title=title, title_justify="left")
    table.add_column(title.removeprefix("each "))
    for name in (rows, "predicted", "precision", "recall", "F1"):
        table.add_column(name, justify="right")

    def share(found: dict[str, float] | None) -> str:
        return "-" if found is None else f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"

    for one in classes[:CLASSES_SHOWN]:
        f1 = "-" if one["f1"] is None else f"{one['f1']:.3f}"
        counts = f"{one['rows']:,}", f"{one['predicted']:,}"
        table.add_row(one["class"], *counts, share(one["precision"]), share(one["recall"]), f1)
    return table


def limits(results: dict[str, Any]) -> list[str]:
    """What the figures do not say."""
    found = []
    if results["reported_on"] == "validation":
        found.append(
            "These rows chose the step, so the figures are a little too good: for others give a test file, or set rows "
            "aside with --test-size 0.2"
        )
    baseline, metric = results.get("baseline") or {}, results.get("select_by", "")
    if metric in baseline and metric in results["metrics"]:
        ours, theirs = results["metrics"][metric]["value"], baseline[metric]
        if (ours - theirs) * sign_of(metric) <= 0:
            found.append(
                f"The bag of words is as good or better: {results['names'][metric]} {theirs:.4f} against {ours:.4f}. "
                "It takes seconds and no GPU; more rows, epochs or another encoder may change that"
            )
    return found


def conclude(results: dict[str, Any], path: Path, console: Console) -> None:
    """The metrics, where they are, and what to do next."""
    reported = results["reported_on"]
    part = results["parts"][reported]
    table = Table(title=f"{results['task']['name']}: {part['rows']:,} {reported} rows", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95% interval", justify="right")
    baseline, names = results.get("baseline"), results.get("names", LABELS)  # an earlier version had none
    if baseline:
        table.add_column("bag of words", justify="right")
    for name, found in results["metrics"].items():
        words = [f"{baseline[name]:.4f}" if name in baseline else "-"] if baseline else []
        table.add_row(names[name], f"{found['value']:.4f}", interval(found), *words)
    console.print(table)
    if results.get("per_class"):
        console.print(class_table(results["per_class"]))
    for line in (*limits(results), *results.get("warnings", ())):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    model = path / MODEL
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    short = config["model_type"] in FAMILIES and ATTENTION not in config
    plan = json.loads((model / PLAN).read_text(encoding="utf-8"))
    task = f"{plan.get('modality', 'text')}-classification"
    cut = ", truncation=True" if task.startswith("text") else ""
    use = f"transformers.pipeline({task!r}, model={str(model)!r}{cut})"
    if results.get("texts") == 2:
        use += "({'text': FIRST, 'text_pair': SECOND})"
    if results.get("grey"):
        use = f"read grey images as {model / 'README.md'} shows (transformers' pipeline makes them RGB)"
    convert = ["--model", str(model), "--max-length", "4096", "--output", f"{path}-linear"]
    console.print(
        f"Weights of step {results['best']['step']:,} of {results['steps']:,}, the best on the validation rows; "
        f"{results['seconds']:,.0f} s of training.\n"
        f"Model and card: {model}\nMetrics: {path / RESULTS}; predictions: {path / PREDICTIONS}\n"
        f"A page with its charts and worst errors: {shlex.join(['linformers', 'report', str(path)])}\n"
        f"Next: import linformers, then {use}"
        + (f"\nFor longer inputs: {shlex.join(['linformers', 'convert', *convert])}" if short else ""),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
