"""Metrics and their bootstrap intervals: every resample must give what scikit-learn gives for the drawn rows."""

import numpy as np
import pytest

from linformers.classification.metrics import _weighted, estimate, measure, predictions, probabilities
from linformers.data.tasks_rules import Kind


def example(kind: Kind, classes: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = np.round(rng.normal(size=(rows, classes)), 1)  # rounded, so that there are ties
    if kind == "single_label":
        return rng.integers(0, classes, rows), probabilities(logits, kind)
    if kind == "multi_label":
        return (rng.random((rows, classes)) < 0.3).astype(np.float32), probabilities(logits, kind)
    return np.round(logits[:, 0] + rng.normal(size=rows), 1).astype(np.float32), probabilities(logits, kind)


@pytest.mark.parametrize(
    ("kind", "classes"), [("single_label", 2), ("single_label", 4), ("multi_label", 3), ("regression", 1)]
)
def test_resamples_against_scikit_learn(kind: Kind, classes: int) -> None:
    labels, scores = example(kind, classes)
    counts = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), size=5)
    functions = _weighted(labels, scores, kind, positive=1)
    for resample in counts:
        drawn = np.repeat(np.arange(60), resample)
        for name, value in measure(labels[drawn], scores[drawn], kind).items():
            assert functions[name](resample[None])[0] == pytest.approx(value, abs=1e-6)
    found = estimate(labels, scores, kind)
    assert set(found) == set(measure(labels, scores, kind))
    assert all(one.low <= one.value <= one.high for one in found.values())
    assert estimate(labels, scores, kind) == found


def test_known_metrics() -> None:
    """Two classes, worked out by hand: 3 true positives, 1 false negative, 2 false positives, 4 true negatives."""
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    share = np.array([0.9, 0.8, 0.7, 0.4, 0.6, 0.75, 0.1, 0.2, 0.3, 0.05])
    found = measure(labels, np.stack([1 - share, share], axis=1), "single_label")
    assert found["accuracy"] == 0.7 and found["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert found["f1_macro"] == pytest.approx((2 / 3 + 8 / 11) / 2)
    assert found["matthews"] == pytest.approx((3 * 4 - 2 * 1) / np.sqrt(5 * 4 * 6 * 5))
    assert found["auroc"] == pytest.approx((6 + 6 + 5 + 4) / 24)


def test_resamples_without_a_class_say_nothing_of_its_area() -> None:
    labels = np.array([1, 0, 0, 0])
    found = estimate(labels, np.array([[0.2, 0.8], [0.6, 0.4], [0.1, 0.9], [0.7, 0.3]]), "single_label")
    assert 0 <= found["auroc"].low < found["auroc"].high <= 1


def test_intervals_have_the_right_width() -> None:
    labels = np.zeros(400, dtype=np.int64)
    labels[200:] = 1
    scores = np.eye(2)[np.where(np.arange(400) % 5 == 0, 1 - labels, labels)]
    accuracy = estimate(labels, scores, "single_label")["accuracy"]
    assert accuracy.value == 0.8
    error = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert accuracy.low == pytest.approx(0.8 - error, abs=0.006)
    assert accuracy.high == pytest.approx(0.8 + error, abs=0.006)


def test_metrics_that_are_not_defined_are_left_out() -> None:
    one_class = measure(np.zeros(4, dtype=np.int64), np.full((4, 2), 0.5), "single_label")
    assert "auroc" not in one_class and one_class["accuracy"] == 1
    assert set(measure(np.ones(4, dtype=np.float32), np.ones((4, 1)), "regression")) == {"rmse"}


def test_predictions() -> None:
    assert predictions(np.array([[0.2, 0.8], [0.9, 0.1]]), "single_label").tolist() == [1, 0]
    assert predictions(np.array([[0.5, 0.4]]), "multi_label").tolist() == [[1, 0]]
    assert predictions(np.array([[2.5], [1.0]]), "regression").tolist() == [2.5, 1.0]
