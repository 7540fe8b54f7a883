"""What a run of a tagger or of answers leaves behind: metrics, predictions, and what it says in the end."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from linformers.classification.results import PREDICTIONS, class_table, interval, limits
from linformers.data.annotations import Answers
from linformers.data.entities import ENTITIES, Entity, join
from linformers.data.examples import Example
from linformers.data.tasks_annotated import AnnotatedTask
from linformers.extraction.answers import Answer, exact_match, overlap_f1
from linformers.extraction.data import Annotated, EncodedTags
from linformers.extraction.metrics import estimate_answers, estimate_tags, per_label
from linformers.extraction.objective import PredictedTags
from linformers.files.folders import write_file
from linformers.files.run_folder import MODEL, RESULTS

TAGS: Literal["tags"] = "tags"
ANSWERS: Literal["answers"] = "answers"
# Columns of predictions and of scores, which hold no other column of the same name.
WRITTEN = ("question", "context", "entities", "answer", "start", "end", "score", "null_score", "exact_match", "f1")


def summary(task: AnnotatedTask, encoded: Mapping[str, Annotated], found: Any) -> dict[str, Any]:
    """What ``results.json`` holds of the task and the metrics.

    Args:
        task: Task with all its parts.
        encoded: The same as a model reads them.
        found: Tags or answers of the rows that results are reported on.
    """
    rows = encoded[task.reported]
    each: list[dict[str, Any]] = []
    if isinstance(rows, EncodedTags):
        right = [units.tags for units in rows.units]
        metrics, each = estimate_tags(right, found.tags, task.classes), per_label(right, found.tags, task.classes)
    else:
        metrics = estimate_answers(task.parts[task.reported].examples, found)
    return {
        "task": {"name": task.name, "kind": task.kind, "layout": task.layout, "classes": task.classes},
        "reported_on": task.reported,
        "metrics": {name: asdict(one) for name, one in metrics.items()},
        "per_class": each,
        "warnings": warnings(task, each),
        "left_out": task.reasons,
        "parts": {
            name: {
                "source": part.source,
                "rows": len(part),
                "cut": encoded[name].cut,
                "tokens": encoded[name].tokens,
                "labels": counts(task, part.examples, encoded[name]),
            }
            for name, part in task.parts.items()
        },
    }


def counts(task: AnnotatedTask, examples: Sequence[Example], encoded: Annotated | None = None) -> dict[str, int]:
    """How many entities of each label, or questions with and without an answer, some rows have."""
    if task.kind == "answers":
        there = sum(bool(one.label.texts) for one in examples if isinstance(one.label, Answers))
        return {"answered": there, **({"no answer": len(examples) - there} if there < len(examples) else {})}
    assert isinstance(encoded, EncodedTags)
    right = [units.tags for units in encoded.units]
    return {one["class"]: one["rows"] for one in per_label(right, right, task.classes)}


def warnings(task: AnnotatedTask, each: Sequence[Mapping[str, Any]]) -> list[str]:
    """What looks like a mistake, or keeps figures from saying something."""
    lost = [one["class"] for one in each if not one["rows"]]
    if not lost:
        return []
    more = f" (and {len(lost) - 3} more)" if len(lost) > 3 else ""
    rows = f"{len(task.parts[task.reported]):,} {task.reported} rows"
    return [
        f"no entity of {', '.join(map(repr, lost[:3]))}{more} in the {rows}: the figures say nothing of it; set more "
        f"aside with --{task.reported}-size, or give a file with --{task.reported}"
    ]


def write_tags(
    path: Path, task: AnnotatedTask, encoded: EncodedTags, found: PredictedTags, ids: Sequence[str] = ()
) -> None:
    """Write a row for each reported example: ids, where it stands, text, its entities and those that were found."""
    part = task.parts[task.reported]
    label, predicted = [], []
    for example, units, tags, shares in zip(part.examples, encoded.units, found.tags, found.shares, strict=True):
        label.append(_entities(join(units.tags, np.ones(len(units.tags)), units.spans, example.text)))
        predicted.append(_entities(join(tags, shares, units.spans, example.text)))
    columns = {"text": pa.array([one.text for one in part.examples], pa.string())}
    columns |= {"label": pa.array(label, ENTITIES), "predicted": pa.array(predicted, ENTITIES)}
    _write(path, part.examples, columns, ids)


def write_answers(path: Path, task: AnnotatedTask, found: Sequence[Answer], ids: Sequence[str] = ()) -> None:
    """Write a row for each reported example: ids, where it stands, question, context, and what was found."""
    examples = task.parts[task.reported].examples
    right = [one.label.texts if isinstance(one.label, Answers) else () for one in examples]
    both = list(zip(found, right, strict=True))
    columns = {
        "question": pa.array([one.text for one in examples], pa.string()),
        "context": pa.array([one.pair for one in examples], pa.string()),
        "label": pa.array([list(texts) for texts in right], pa.list_(pa.string())),
        "predicted": pa.array([one.text for one in found], pa.string()),
        "start": pa.array([one.start for one in found], pa.int64()),
        "end": pa.array([one.end for one in found], pa.int64()),
        "score": pa.array([one.score for one in found], pa.float32()),
        "null_score": pa.array([one.null_score for one in found], pa.float32()),
        "exact_match": pa.array([exact_match(one.text, texts) for one, texts in both], pa.float32()),
        "f1": pa.array([overlap_f1(one.text, texts) for one, texts in both], pa.float32()),
    }
    _write(path, examples, columns, ids)


def _write(path: Path, examples: Sequence[Example], columns: dict[str, pa.Array], ids: Sequence[str]) -> None:
    named: dict[str, Any] = {name: [one.ids[name] for one in examples] for name in ids}
    named |= {"file": [one.shown for one in examples], "row": [one.line for one in examples]}
    table = pa.table({**named, **columns})
    write_file(path, lambda target: pq.write_table(table, target), intact="the checkpoints are intact")


def _entities(found: Sequence[Entity]) -> list[dict[str, Any]]:
    return [one._asdict() for one in found]


def conclude_annotated(results: dict[str, Any], path: Path, console: Console) -> None:
    """The metrics, where they are, and what to do next."""
    reported, task = results["reported_on"], results["task"]
    part = results["parts"][reported]
    table = Table(title=f"{task['name']}: {part['rows']:,} {reported} rows", title_justify="left")
    for name in ("metric", "value", "95% interval"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for name, found in results["metrics"].items():
        table.add_row(results["names"][name], f"{found['value']:.4f}", interval(found))
    console.print(table)
    if results["per_class"]:
        console.print(class_table(results["per_class"], "each label", "entities"))
    for line in (*limits(results), *results["warnings"]):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    model, predictions = path / MODEL, path / PREDICTIONS
    score = ["linformers", "score", "--model", str(model), "--input", str(predictions), "--output", f"{path}-scores"]
    what = "entities" if task["kind"] == TAGS else "answers"
    files = "text" if task["kind"] == TAGS else "question and context"
    console.print(
        f"Weights of step {results['best']['step']:,} of {results['steps']:,}, the best on the validation rows; "
        f"{results['seconds']:,.0f} s of training.\n"
        f"Model and card: {model}\nMetrics: {path / RESULTS}; predictions: {predictions}\n"
        f"A page with its worst errors: {shlex.join(['linformers', 'report', str(path)])}\n"
        f"Next, {what} of any number of documents (any file with {files}; here those of the predictions): "
        f"{shlex.join(score)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
