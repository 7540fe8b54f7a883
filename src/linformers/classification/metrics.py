"""Metrics of classification and regression with intervals.

Accuracies, precisions and recalls are shares of rows, and have Wilson's intervals. The others have bootstrap ones,
which say nothing where every resample gives the same value (no row is wrong, say): then low and high are that value.

Point values are scikit-learn's. For the intervals a metric is computed on many resamples of the rows at once: a
resample is a row of counts (how often each example was drawn), so that every metric is a weighted one.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.special import expit, softmax
from scipy.stats import spearmanr
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    matthews_corrcoef,
    roc_auc_score,
    root_mean_squared_error,
)

from linformers.data.tasks_rules import Kind
from linformers.training.evaluate import wilson_interval

RESAMPLES, AT_ONCE = 1000, 50
MAIN = {"single_label": "accuracy", "multi_label": "f1_macro", "regression": "rmse"}
LABELS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "f1_macro": "F1 (macro)",
    "f1_micro": "F1 (micro)",
    "matthews": "Matthews correlation",
    "auroc": "AUROC",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "rmse": "RMSE",
    "loss": "loss",
}
CHOICES: dict[Kind, tuple[str, ...]] = {  # what a step can be chosen by
    "single_label": ("accuracy", "f1_macro", "f1", "matthews", "auroc", "loss"),
    "multi_label": ("f1_macro", "f1_micro", "accuracy", "auroc", "loss"),
    "regression": ("rmse", "pearson", "spearman", "loss"),
}


@dataclass(frozen=True)
class Estimate:
    """A metric, and the 95% interval of what other draws of the examples would have given."""

    value: float
    low: float
    high: float


def labels_of_metrics(classes: Sequence[str], positive: int) -> dict[str, str]:
    """Names of all metrics for a person; F1 of two classes says of which."""
    return LABELS | ({"f1": f"F1 of {classes[positive]}"} if len(classes) == 2 else {})


def sign_of(metric: str) -> int:
    """1 where more is better, -1 where less is."""
    return -1 if metric in ("rmse", "loss") else 1


def probabilities(logits: Float[np.ndarray, "rows classes"], kind: Kind) -> Float[np.ndarray, "rows classes"]:
    """Of each class; for regression the values themselves."""
    if kind == "regression":
        return logits
    return softmax(logits, axis=-1) if kind == "single_label" else expit(logits)


def predictions(scores: Float[np.ndarray, "rows classes"], kind: Kind) -> Shaped[np.ndarray, "rows ..."]:
    """The likeliest class; every class at even odds or more; or the value."""
    if kind == "single_label":
        return scores.argmax(-1)
    return (scores >= 0.5).astype(np.int64) if kind == "multi_label" else scores[:, 0]


def measure(
    labels: Shaped[np.ndarray, "rows ..."], scores: Float[np.ndarray, "rows classes"], kind: Kind, positive: int = 1
) -> dict[str, float]:
    """Metrics of a set; those that are not defined on it are left out.

    Args:
        labels: see ``encode_labels``.
        scores: see ``probabilities``.
        kind: Kind of the task.
        positive: Number of the class that F1 is of, where there are two.
    """
    predicted = predictions(scores, kind)
    if kind == "regression":
        flat = len(set(labels.tolist())) < 2 or len(set(predicted.tolist())) < 2
        found = {"rmse": root_mean_squared_error(labels, predicted)}
        if not flat:
            found |= {
                "pearson": np.corrcoef(labels, predicted)[0, 1],
                "spearman": spearmanr(labels, predicted).statistic,  # type: ignore[union-attr]
            }
    else:
        averaged: Any = {"zero_division": 0, "average": "macro"}
        found = {"accuracy": accuracy_score(labels, predicted), "f1_macro": f1_score(labels, predicted, **averaged)}
        if kind == "multi_label":
            found["f1_micro"] = f1_score(labels, predicted, average="micro", zero_division=0)  # type: ignore[arg-type]
        else:
            found["f1_macro"] = f1_score(labels, predicted, labels=range(scores.shape[1]), **averaged)
            if len({*labels.tolist(), *predicted.tolist()}) > 1:
                found["matthews"] = matthews_corrcoef(labels, predicted)
            if scores.shape[1] == 2:
                found["f1"] = f1_score(labels == positive, predicted == positive, zero_division=0)  # type: ignore[arg-type]
        areas = [roc_auc_score(truth, score) for truth, score in _against_rest(labels, scores) if 0 < truth.mean() < 1]
        if areas:
            found["auroc"] = np.mean(areas)
    return {name: float(value) for name, value in found.items()}


def estimate(
    labels: Shaped[np.ndarray, "rows ..."], scores: Float[np.ndarray, "rows classes"], kind: Kind, positive: int = 1
) -> dict[str, Estimate]:
    """``measure`` with 95% intervals: Wilson's of accuracy, of the others bootstrap ones from 1,000 resamples."""
    found = measure(labels, scores, kind, positive)
    rng = np.random.default_rng(0)
    rows = len(labels)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in found}
    functions = _weighted(labels, scores, kind, positive)
    for _ in range(RESAMPLES // AT_ONCE):  # in parts: memory
        counts = rng.multinomial(rows, np.full(rows, 1 / rows), size=AT_ONCE)
        for name, values in drawn.items():
            values.append(functions[name](counts))
    # A resample of one class has no area: NaN, left out.
    bounds = {name: np.nanpercentile(np.concatenate(values), [2.5, 97.5]) for name, values in drawn.items()}
    estimates = {name: Estimate(value, *map(float, bounds[name])) for name, value in found.items()}
    if "accuracy" in found:
        estimates["accuracy"] = _share(round(found["accuracy"] * rows), rows)
    return estimates


def per_class(
    labels: Shaped[np.ndarray, "rows ..."],
    scores: Float[np.ndarray, "rows classes"],
    kind: Kind,
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Of each class its rows, how often it was predicted, precision, recall and F1; None where nothing is to count.

    Precision and recall are estimates, with Wilson's intervals.
    """
    predicted, found = predictions(scores, kind), []
    for place, name in enumerate(classes if kind != "regression" else ()):
        truth = labels[:, place] > 0 if kind == "multi_label" else labels == place
        chosen = predicted[:, place] > 0 if kind == "multi_label" else predicted == place
        both, rows, times = int((truth & chosen).sum()), int(truth.sum()), int(chosen.sum())
        found.append(
            {
                "class": name,
                "rows": rows,
                "predicted": times,
                "precision": asdict(_share(both, times)) if times else None,
                "recall": asdict(_share(both, rows)) if rows else None,
                "f1": 2 * both / (rows + times) if rows else None,
            }
        )
    return found


def _share(count: int, rows: int) -> Estimate:
    return Estimate(count / rows, *wilson_interval(count, rows))


Weighted = Callable[[Int[np.ndarray, "resamples rows"]], Float[np.ndarray, " resamples"]]


def _weighted(labels: np.ndarray, scores: np.ndarray, kind: Kind, positive: int) -> dict[str, Weighted]:
    """Each metric as a function of how often each row was drawn."""
    predicted = predictions(scores, kind)
    if kind == "regression":
        return {
            "rmse": lambda w: np.sqrt(w @ (labels - predicted) ** 2 / w.sum(1)),
            "pearson": lambda w: _correlation(w, np.broadcast_to(labels, w.shape), np.broadcast_to(predicted, w.shape)),
            "spearman": lambda w: _correlation(w, _ranks(w, labels), _ranks(w, predicted)),
        }
    pairs = [(truth, score) for truth, score in _against_rest(labels, scores) if 0 < truth.mean() < 1]

    def area(w: np.ndarray) -> np.ndarray:
        # A resample without a class says nothing of that class's area.
        with np.errstate(invalid="ignore"):
            areas = np.array([_area(w, truth, score) for truth, score in pairs])
        there = ~np.isnan(areas)
        return np.where(there.any(0), np.where(there, areas, 0).sum(0) / np.maximum(there.sum(0), 1), np.nan)

    if kind == "multi_label":
        right, both = (predicted == labels).all(1), predicted * labels

        def micro(w: np.ndarray) -> np.ndarray:
            return _ratio(2 * (w @ both).sum(1), (w @ (predicted + labels)).sum(1))

        return {
            "accuracy": lambda w: w @ right / w.sum(1),
            "f1_macro": lambda w: _ratio(2 * (w @ both), w @ (predicted + labels)).mean(1),
            "f1_micro": micro,
            "auroc": area,
        }
    classes = scores.shape[1]
    cells = np.eye(classes**2, dtype=np.float32)[labels * classes + predicted]

    def confusion(w: np.ndarray) -> np.ndarray:
        return (w.astype(np.float32) @ cells).astype(np.float64).reshape(-1, classes, classes)

    return {
        "accuracy": lambda w: np.trace(confusion(w), axis1=1, axis2=2) / w.sum(1),
        "f1_macro": lambda w: _f1(confusion(w)).mean(1),
        "f1": lambda w: _f1(confusion(w))[:, positive],
        "matthews": lambda w: _matthews(confusion(w)),
        "auroc": area,
    }


def _f1(confusion: Float[np.ndarray, "resamples c c"]) -> Float[np.ndarray, "resamples c"]:
    return _ratio(2 * np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(1) + confusion.sum(2))


def _matthews(confusion: Float[np.ndarray, "resamples c c"]) -> Float[np.ndarray, " resamples"]:
    """Gorodkin's form for several classes, as in scikit-learn."""
    true, predicted, total = confusion.sum(2), confusion.sum(1), confusion.sum((1, 2))
    both = np.trace(confusion, axis1=1, axis2=2) * total - (true * predicted).sum(1)
    spread = (total**2 - (true**2).sum(1)) * (total**2 - (predicted**2).sum(1))
    return _ratio(both, np.sqrt(spread))


def _area(w: np.ndarray, truth: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Share of (positive, negative) pairs in the right order; ties count half."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])
    positive = np.add.reduceat(w[:, order] * truth[order], starts, axis=1)
    negative = np.add.reduceat(w[:, order] * (1 - truth[order]), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    return (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))


def _ranks(w: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rank of each row within each resample; ties share the mean."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) != 0])
    counts = np.add.reduceat(w[:, order], starts, axis=1)
    middle = np.cumsum(counts, axis=1) - counts / 2 + 0.5
    group = np.cumsum(np.isin(np.arange(len(values)), starts)) - 1
    ranks = np.empty(w.shape)
    ranks[:, order] = middle[:, group]
    return ranks


def _correlation(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    total = w.sum(1, keepdims=True)
    x = x - (w * x).sum(1, keepdims=True) / total
    y = y - (w * y).sum(1, keepdims=True) / total
    return _ratio((w * x * y).sum(1), np.sqrt((w * x * x).sum(1) * (w * y * y).sum(1)))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below != 0)


def _against_rest(labels: np.ndarray, scores: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Truth and score of each class against the others; of two classes, the second."""
    if labels.ndim == 2:
        return [(labels[:, column].astype(int), scores[:, column]) for column in range(scores.shape[1])]
    columns = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    return [((labels == column).astype(int), scores[:, column]) for column in columns]
