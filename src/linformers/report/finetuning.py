"""The page of a fine-tuned model: its figures by class beside a baseline, its data, and its worst errors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from linformers.classification.metrics import LABELS
from linformers.classification.results import PREDICTIONS, interval, limits
from linformers.report import annotated, plots, words
from linformers.report.document import FEW_POINTS, Block, Chart, Note, Section, Table

Results = dict[str, Any]
CLASSES_SHOWN, ERRORS_SHOWN = 100, 20  # classes, rows


def sections(folder: Path, results: Results) -> list[Section]:
    """Sections of the page; a run of an earlier version lacks some of them.

    Args:
        folder: Folder of the run, with its predictions.
        results: What ``results.json`` holds.

    Raises:
        KeyError: It lacks what every version has written.
    """
    predicted = _predictions(folder)
    found = [
        Section(title="How good it is", blocks=_quality(results, predicted)),
        Section(title="Where it is most wrong", blocks=_errors(results, predicted)),
        Section(title="The data", blocks=_data(results)),
    ]
    return [section for section in found if section.blocks]


def headline(results: Results) -> list[tuple[str, str, str]]:
    """The first metric, and the same of the baseline."""
    metric, found = next(iter(results["metrics"].items()))
    name, reported = _names(results)[metric], results["reported_on"]
    facts = [(f"{name}, {reported} rows", f"{found['value']:.4f}", f"95% interval {interval(found)}")]
    baseline = results.get("baseline") or {}
    if metric in baseline:
        facts.append((f"{name} of a bag of words", f"{baseline[metric]:.4f}", "on the same rows"))
    return facts


def _names(results: Results) -> dict[str, str]:
    return LABELS | results.get("names", {})


def _predictions(folder: Path) -> pa.Table | None:
    """What was predicted of each row; None where the file is gone."""
    try:
        return pq.read_table(folder / PREDICTIONS)
    except (OSError, pa.ArrowInvalid):
        return None


def _quality(results: Results, predicted: pa.Table | None) -> list[Block]:
    names, baseline, reported = _names(results), results.get("baseline") or {}, results["reported_on"]
    head, rows = ["metric", "value", "95% interval"], []
    head += ["bag of words"] if baseline else []
    for metric, found in results["metrics"].items():
        beside = [f"{baseline[metric]:.4f}" if metric in baseline else "-"] if baseline else []
        rows.append((names[metric], f"{found['value']:.4f}", interval(found), *beside))
    count = results["parts"].get(reported, {}).get("rows")
    caption = f"On the {reported} rows" if count is None else f"On the {count:,} {reported} rows"
    blocks: list[Block] = [Table(caption=caption, head=head, rows=rows)]
    if baseline:
        regression = results["task"]["kind"] == "regression"
        model = "ridge regression" if regression else "logistic regression"
        blocks.append(Note(f"The bag of words is {model} on TF-IDF weights, trained on the same rows."))
    blocks += [f"{line[0].upper()}{line[1:]}." for line in (*limits(results), *results.get("warnings", ()))]
    classes = results.get("per_class") or []
    if classes:
        blocks.append(_class_table(classes))
    confusion = _confusion(results, predicted)
    return [*blocks, *([confusion] if confusion else [])]


def _class_table(classes: Sequence[Results]) -> Table:
    """Precision, recall and F1 of each class, and its support."""

    def share(found: dict[str, float] | None) -> tuple[str, str]:
        return ("-", "-") if found is None else (f"{found['value']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}")

    rows = [
        (
            one["class"],
            *share(one["precision"]),
            *share(one["recall"]),
            "-" if one["f1"] is None else f"{one['f1']:.3f}",
            f"{one['rows']:,}",
            f"{one['predicted']:,}",
        )
        for one in classes[:CLASSES_SHOWN]
    ]
    more = f" (the first {CLASSES_SHOWN} of {len(classes):,})" if len(classes) > CLASSES_SHOWN else ""
    head = ("class", "precision", "95% interval", "recall", "95% interval", "F1", "support", "predicted")
    return Table(caption=f"Each class{more}: support is the rows that are of it", head=head, rows=rows)


def _confusion(results: Results, predicted: pa.Table | None) -> Chart | None:
    """How often each class was taken for each, from the predictions."""
    task = results["task"]
    if predicted is None or task["kind"] != "single_label":
        return None
    index = {name: number for number, name in enumerate(task["classes"])}
    true, taken = ([index[name] for name in predicted[column].to_pylist()] for column in ("label", "predicted"))
    pairs, counts = np.unique(np.array([true, taken]), axis=1, return_counts=True)
    named = [(task["classes"][i], task["classes"][j], int(n)) for i, j, n in zip(*pairs, counts, strict=True)]
    return Chart(
        name="confusion",
        picture=plots.plot_confusion(np.array(true), np.array(taken), task["classes"]),
        alt=f"Confusion matrix of {', '.join(task['classes'])}; rows are true classes, columns predictions.",
        caption="How often each class was taken for each; the shade is the share of the true class.",
        head=("true", "predicted", "rows"),
        rows=named,
    )


# --- errors


def _errors(results: Results, predicted: pa.Table | None) -> list[Block]:
    if predicted is None:
        return [Note(f"{PREDICTIONS} is gone, which has the prediction of each row.")]
    if results["task"]["kind"] in annotated.KINDS:
        return annotated.errors(results, predicted)
    kind, classes = results["task"]["kind"], results["task"]["classes"]
    wrong, sure, column = _most_wrong(kind, classes, predicted)
    if not len(wrong):
        return [f"None of the {predicted.num_rows:,} rows is predicted wrongly."]
    places = predicted.column_names
    ids, texts = places[: places.index("file")], [name for name in ("text", "pair") if name in places]
    rows = []
    for row, value in zip(wrong[:ERRORS_SHOWN].tolist(), sure, strict=False):
        cells = {name: predicted[name][row].as_py() for name in places if name != "probabilities"}
        place = f"{cells['file']}:{cells['row']}"
        given = [*(str(cells[name]) for name in ids), place, _shown(cells["label"]), _shown(cells["predicted"])]
        rows.append((*given, value, *(words.beginning(str(cells[name])) for name in texts)))
    shown = f"The {len(rows):,} worst of " if len(rows) < len(wrong) else ""
    said = "by how far the value is off" if kind == "regression" else "the surest first"
    caption = f"{shown}{len(wrong):,} errors among {predicted.num_rows:,} {results['reported_on']} rows, {said}"
    head = [*ids, "file and row", "label", "predicted", column, *texts]
    return [
        Table(caption=caption, head=head, rows=rows, words=True),
        Note(f"All rows, with their whole texts, are in {PREDICTIONS}."),
    ]


def _most_wrong(kind: str, classes: Sequence[str], predicted: pa.Table) -> tuple[np.ndarray, list[str], str]:
    """Numbers of the wrong rows, worst first; how wrong each is; and what that is called."""
    labels, taken = predicted["label"].to_pylist(), predicted["predicted"].to_pylist()
    if kind == "regression":
        off = np.array(taken, dtype=np.float64) - np.array(labels, dtype=np.float64)
        order = np.argsort(-np.abs(off), kind="stable")
        order = order[off[order] != 0]
        return order, [f"{off[row]:+.4g}" for row in order], "off by"
    scores = np.array(predicted["probabilities"].to_pylist(), dtype=np.float64).reshape(len(labels), len(classes))
    if kind == "single_label":
        sure, wrong = scores.max(1), np.array([label != one for label, one in zip(labels, taken, strict=True)])
        order = np.flatnonzero(wrong)
        order = order[np.argsort(-sure[order], kind="stable")]
        return order, [f"{sure[row]:.4f}" for row in order], "probability"
    truth = np.array([[name in label for name in classes] for label in labels])
    lost = np.where(truth, 1 - scores, scores)  # probability of what is not so
    lost[(scores >= 0.5) == truth] = 0
    order = np.flatnonzero(lost.max(1) > 0)
    order = order[np.argsort(-lost[order].max(1), kind="stable")]
    named = [(row, int(lost[row].argmax())) for row in order]
    return order, [f"{classes[place]}: {scores[row, place]:.4f}" for row, place in named], "probability"


def _shown(label: Any) -> str:
    if isinstance(label, float):
        return f"{label:.4g}"
    return (", ".join(label) or "none") if isinstance(label, list) else str(label)


# --- data


def _data(results: Results) -> list[Block]:
    parts = results["parts"]
    head = ["part", "source", "rows", "cut short", "tokens"]
    rows = [
        (name, part["source"], f"{part['rows']:,}", f"{part['cut']:,}", f"{part['tokens']:,}")
        for name, part in parts.items()
    ]
    blocks: list[Block] = [Table(caption="Rows of each part", head=head, rows=rows)]
    left_out = results.get("left_out") or {}
    if left_out:
        blocks.append(f"Left out: {', '.join(f'{count:,} {reason}' for reason, count in left_out.items())}.")
    blocks += _label_counts(parts)
    return [*blocks, *_lengths(results)]


def _label_counts(parts: dict[str, Results]) -> list[Block]:
    """Rows of each class in each part; of a regression, the range of the values."""
    counts = {name: part.get("labels") or {} for name, part in parts.items()}
    labels = list(dict.fromkeys(label for part in counts.values() for label in part))
    if not labels:
        return []

    def cell(value: Any) -> str:
        return "0" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value:,}"

    rows = [(label, *(cell(part.get(label)) for part in counts.values())) for label in labels[:CLASSES_SHOWN]]
    more = f" (the first {CLASSES_SHOWN} of {len(labels):,})" if len(labels) > CLASSES_SHOWN else ""
    return [Table(caption=f"Labels of each part{more}", head=("label", *counts), rows=rows)]


def _lengths(results: Results) -> list[Block]:
    """How long the training texts are, and how many of them are cut."""
    found, part = results.get("lengths"), results["parts"].get("train")
    if not found or part is None:
        return []
    most, cut, rows = results["max_length"], part["cut"], part["rows"]
    share = f"{cut:,} of {rows:,} training texts ({cut / rows:.1%}) are cut at {most:,} tokens"
    sample = f", of a sample of {found['measured']:,}" if found["measured"] < rows else ""
    said = f"{share}. The median is {found['median']:,} tokens, the longest has {found['longest']:,}{sample}."
    edges, counts = found["edges"], found["counts"]
    if sum(count > 0 for count in counts) < FEW_POINTS:
        return [said]
    more = f" The last bar holds all that are longer than {edges[-2]:,}." if found["longest"] > edges[-1] else ""
    chart = Chart(
        name="lengths",
        picture=plots.plot_lengths(edges, counts, most, "training texts"),
        alt=f"Histogram of the lengths of training texts, from 0 to {edges[-1]:,} tokens. {said}",
        caption=f"Lengths of the training texts{sample}, in tokens, special ones included; {cut / rows:.1%} of the "
        f"texts are cut at {most:,}.{more}",
        head=("tokens_from", "tokens_below", "texts"),
        rows=list(zip(edges, edges[1:], counts, strict=False)),
    )
    return [said, chart]
