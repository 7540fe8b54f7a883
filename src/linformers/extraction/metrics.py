"""Metrics of tags and of answers, with bootstrap intervals over rows.

Entities count as right where label, beginning and end are right (seqeval's default mode). Precision, recall and F1 are
of all entities together ("micro"), ``f1_macro`` is the mean over labels that are there or were predicted. A resample is
one of rows, as entities of a row are not independent; metrics by label have Wilson's intervals of their entities.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from linformers.classification.metrics import AT_ONCE, RESAMPLES, Estimate
from linformers.data.annotations import Answers
from linformers.data.entities import label_of, stretches_of
from linformers.data.examples import Example
from linformers.extraction.answers import Answer, exact_match, overlap_f1
from linformers.training.evaluate import wilson_interval

NAMES = {
    "f1": "F1 of entities",
    "precision": "precision",
    "recall": "recall",
    "f1_macro": "F1 (macro)",
    "accuracy": "accuracy of tags",
    "loss": "loss",
}
ANSWER_NAMES = {
    "f1": "F1 of answers",
    "exact_match": "exact match",
    "f1_answerable": "F1, answerable",
    "exact_match_answerable": "exact match, answerable",
    "no_answer": "right where there is none",
    "loss": "loss",
}
CHOICES = {  # what a step can be chosen by
    "tags": ("f1", "f1_macro", "precision", "recall", "accuracy", "loss"),
    "answers": ("f1", "exact_match", "loss"),
}

Counts = Int[np.ndarray, "rows labels 3"]


def count_entities(right: Sequence[Sequence[str]], found: Sequence[Sequence[str]], labels: Sequence[str]) -> Counts:
    """Of each row and label: entities that are both right and found, that are found, and that are right.

    Args:
        right: Right tags of each row.
        found: Tags that were predicted.
        labels: Labels, without prefixes.
    """
    index = {name: place for place, name in enumerate(labels)}
    counts = np.zeros((len(right), len(labels), 3), np.int64)
    for row, (true, chosen) in enumerate(zip(right, found, strict=True)):
        truth, taken = set(stretches_of(true)), set(stretches_of(chosen))
        for place, some in enumerate((truth & taken, taken, truth)):
            for one in some:
                counts[row, index[one.label], place] += 1
    return counts


def labels_of(classes: Sequence[str]) -> list[str]:
    """Labels of classes, without prefixes, in their order."""
    return list(dict.fromkeys(label_of(name) for name in classes if name != "O"))


def measure_tags(
    right: Sequence[Sequence[str]], found: Sequence[Sequence[str]], classes: Sequence[str]
) -> dict[str, float]:
    """All metrics of tags.

    >>> measure_tags([["B-PER", "I-PER", "O"]], [["B-PER", "O", "O"]], ["O", "B-PER", "I-PER"])["f1"]
    0.0
    """
    counts, tags = count_entities(right, found, labels_of(classes)), _tag_counts(right, found)
    return {name: float(value[0]) for name, value in _weighted(np.ones((1, len(counts))), counts, tags).items()}


def estimate_tags(
    right: Sequence[Sequence[str]], found: Sequence[Sequence[str]], classes: Sequence[str]
) -> dict[str, Estimate]:
    """``measure_tags`` with 95% bootstrap intervals over rows, from 1,000 resamples."""
    counts, tags = count_entities(right, found, labels_of(classes)), _tag_counts(right, found)
    values = measure_tags(right, found, classes)
    rng, rows, drawn = np.random.default_rng(0), len(counts), []
    for _ in range(RESAMPLES // AT_ONCE):  # in parts: memory
        drawn.append(_weighted(rng.multinomial(rows, np.full(rows, 1 / rows), size=AT_ONCE), counts, tags))
    return {name: _estimate(value, np.concatenate([one[name] for one in drawn])) for name, value in values.items()}


def per_label(
    right: Sequence[Sequence[str]], found: Sequence[Sequence[str]], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Of each label its entities, how many were found, precision, recall and F1; None where nothing is to count."""
    labels = labels_of(classes)
    counts = count_entities(right, found, labels).sum(0)
    return [
        {
            "class": name,
            "rows": int(true),
            "predicted": int(taken),
            "precision": _share(int(both), int(taken)),
            "recall": _share(int(both), int(true)),
            "f1": 2 * int(both) / int(true + taken) if true else None,
        }
        for name, (both, taken, true) in zip(labels, counts, strict=True)
    ]


def measure_answers(examples: Sequence[Example], found: Sequence[Answer]) -> dict[str, float]:
    """All metrics of answers; those of the questions without one only where there are some, and others."""
    return {name: float(values[there].mean()) for name, values, there in _answer_values(examples, found)}


def estimate_answers(examples: Sequence[Example], found: Sequence[Answer]) -> dict[str, Estimate]:
    """``measure_answers`` with 95% bootstrap intervals over rows, from 1,000 resamples."""
    rng, estimates = np.random.default_rng(0), {}
    weights = rng.multinomial(len(found), np.full(len(found), 1 / len(found)), size=RESAMPLES)
    for name, values, there in _answer_values(examples, found):
        drawn = _ratio(weights @ (values * there), weights @ there.astype(float))
        estimates[name] = _estimate(float(values[there].mean()), drawn)
    return estimates


def _answer_values(
    examples: Sequence[Example], found: Sequence[Answer]
) -> list[tuple[str, Float[np.ndarray, " rows"], np.ndarray]]:
    """Each metric with its value of every row, and the rows it is of."""
    right = [one.label.texts if isinstance(one.label, Answers) else () for one in examples]
    f1 = np.array([overlap_f1(one.text, texts) for one, texts in zip(found, right, strict=True)])
    exact = np.array([exact_match(one.text, texts) for one, texts in zip(found, right, strict=True)])
    answered = np.array([bool(texts) for texts in right])
    all_rows = np.ones(len(found), bool)
    metrics = [("f1", f1, all_rows), ("exact_match", exact, all_rows)]
    if answered.any() and not answered.all():
        metrics += [("f1_answerable", f1, answered), ("exact_match_answerable", exact, answered)]
        metrics.append(("no_answer", exact, ~answered))
    return metrics


def _tag_counts(right: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> Int[np.ndarray, "rows 2"]:
    """Of each row the tags that are right, and all."""
    same = [sum(a == b for a, b in zip(one, other, strict=True)) for one, other in zip(right, found, strict=True)]
    return np.array([same, [len(one) for one in right]]).T


def _weighted(w: np.ndarray, counts: Counts, tags: np.ndarray) -> dict[str, np.ndarray]:
    """Each metric, of rows that count so many times each, (resamples,)."""
    by_label = np.einsum("nr,rlk->nlk", w, counts)
    both, taken, true = by_label.sum(1).T
    each = _ratio(2 * by_label[..., 0], by_label[..., 1] + by_label[..., 2])
    there = counts.sum((0, 2)) > 0
    right, all_tags = (w @ tags).T
    return {
        "f1": _ratio(2 * both, taken + true),
        "precision": _ratio(both, taken),
        "recall": _ratio(both, true),
        "f1_macro": each[:, there].mean(1) if there.any() else np.zeros(len(w)),
        "accuracy": _ratio(right, all_tags),
    }


def _estimate(value: float, drawn: np.ndarray) -> Estimate:
    return Estimate(value, *map(float, np.percentile(drawn, [2.5, 97.5])))


def _share(count: int, rows: int) -> dict[str, float] | None:
    return asdict(Estimate(count / rows, *wilson_interval(count, rows))) if rows else None


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below != 0)
