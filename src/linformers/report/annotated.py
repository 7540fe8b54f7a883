"""The worst errors of a tagger, and of a model that answers questions, with the text around them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from linformers.classification.results import PREDICTIONS
from linformers.extraction.results import ANSWERS, TAGS
from linformers.report import words
from linformers.report.document import Block, Note, Table

Results = dict[str, Any]
KINDS = (TAGS, ANSWERS)
ERRORS_SHOWN, AROUND = 20, 80  # rows; characters on each side of an entity


def errors(results: Results, predicted: pa.Table) -> list[Block]:
    """A table of the surest errors.

    Args:
        results: What ``results.json`` holds.
        predicted: Predictions of the rows that are reported on.
    """
    tags = results["task"]["kind"] == TAGS
    blocks = _tags(results, predicted) if tags else _answers(results, predicted)
    return [*blocks, Note(f"All rows, with their whole texts, are in {PREDICTIONS}.")]


def _tags(results: Results, predicted: pa.Table) -> list[Block]:
    """Entities that are wrong, the surest first, then those that were not found at all."""
    wrong: list[tuple[float, tuple[str, ...]]] = []
    right_count = 0
    for row in predicted.to_pylist():
        right = {(one["start"], one["end"]): one["label"] for one in row["label"]}
        taken = {(one["start"], one["end"]) for one in row["predicted"]}
        place = _place(row)
        for one in row["predicted"]:
            true = right.get((one["start"], one["end"]), "")
            if true == one["label"]:
                right_count += 1
                continue
            said = true or _beside(one, row["label"])
            wrong.append((one["score"], (*place, said, one["label"], f"{one['score']:.4f}", *_shown(row["text"], one))))
        for one in row["label"]:
            if (one["start"], one["end"]) not in taken and not _beside(one, row["predicted"]):
                wrong.append((-1.0, (*place, one["label"], "not found", "-", *_shown(row["text"], one))))
    if not wrong:
        return [f"All {right_count:,} entities are right."]
    wrong.sort(key=lambda one: -one[0])
    shown = f"The {ERRORS_SHOWN:,} surest of " if len(wrong) > ERRORS_SHOWN else ""
    caption = (
        f"{shown}{len(wrong):,} wrong entities in {predicted.num_rows:,} {results['reported_on']} rows, the surest "
        f"first; {right_count:,} are right"
    )
    head = [*_ids(predicted), "file and row", "label", "predicted", "probability", "entity", "text around it"]
    return [Table(caption=caption, head=head, rows=[row for _, row in wrong[:ERRORS_SHOWN]], words=True)]


def _beside(one: Mapping[str, Any], others: list[Mapping[str, Any]]) -> str:
    """The entity that shares characters with one, in words; "" = none does."""
    for other in others:
        if other["start"] < one["end"] and one["start"] < other["end"]:
            return f"{other['label']} of {words.beginning(other['text'], 60)!r}"
    return ""


def _answers(results: Results, predicted: pa.Table) -> list[Block]:
    f1 = np.array(predicted["f1"].to_pylist())
    order = [row for row in np.argsort(f1, kind="stable").tolist() if f1[row] < 1]
    if not order:
        return [f"All {predicted.num_rows:,} answers are right."]
    sure = np.maximum(*(np.array(predicted[name].to_pylist()) for name in ("score", "null_score")))
    order.sort(key=lambda row: (f1[row], -sure[row]))
    rows = []
    for number in order[:ERRORS_SHOWN]:
        row = {name: predicted[name][number].as_py() for name in predicted.column_names}
        right = " / ".join(dict.fromkeys(row["label"])) or "none"
        around = _shown(row["context"], row)[1] if row["start"] is not None else words.beginning(row["context"], 160)
        found = words.beginning(row["predicted"], 160) or "none"
        rows.append((*_place(row), row["question"], words.beginning(right, 160), found, f"{row['f1']:.2f}", around))
    shown = f"The {len(rows):,} worst of " if len(rows) < len(order) else ""
    caption = f"{shown}{len(order):,} answers that are not wholly right, of {predicted.num_rows:,}; the surest first"
    head = [*_ids(predicted), "file and row", "question", "right", "found", "F1", "text around what was found"]
    return [Table(caption=caption, head=head, rows=rows, words=True)]


def _ids(predicted: pa.Table) -> list[str]:
    return predicted.column_names[: predicted.column_names.index("file")]


def _place(row: Mapping[str, Any]) -> tuple[str, ...]:
    names = list(row)
    return *(str(row[name]) for name in names[: names.index("file")]), f"{row['file']}:{row['row']}"


def _shown(text: str, one: Mapping[str, Any]) -> tuple[str, str]:
    """The characters from a start to an end, and what stands around them."""
    start, end = one["start"], one["end"]
    before, after = max(start - AROUND, 0), end + AROUND
    around = ("... " if before else "") + text[before:after].strip() + (" ..." if after < len(text) else "")
    return words.beginning(text[start:end], 100), around
