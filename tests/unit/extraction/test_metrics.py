"""Metrics of tags and of answers: known answers, seqeval's, and intervals."""

import random
import warnings

import pytest
from seqeval import metrics as theirs

from linformers.data.annotations import Answers
from linformers.data.examples import Example
from linformers.extraction.answers import Answer, exact_match, normalised, overlap_f1
from linformers.extraction.metrics import estimate_answers, estimate_tags, measure_answers, measure_tags, per_label

CLASSES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
RIGHT = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC", "I-LOC", "O"], ["B-PER", "O", "O", "O"]]
FOUND = [["B-PER", "I-PER", "O", "B-PER"], ["O", "B-LOC", "O", "O"], ["B-PER", "O", "O", "B-LOC"]]


def test_metrics_of_tags_on_a_known_answer() -> None:
    """Two of four entities are found, among five predictions (figures of seqeval 1.2.2)."""
    found = measure_tags(RIGHT, FOUND, CLASSES)
    assert found["precision"] == pytest.approx(2 / 5) and found["recall"] == pytest.approx(2 / 4)
    assert found["f1"] == pytest.approx(4 / 9) and found["f1_macro"] == pytest.approx(0.4)
    assert found["accuracy"] == pytest.approx(9 / 12)
    each = {one["class"]: one for one in per_label(RIGHT, FOUND, CLASSES)}
    assert each["PER"]["rows"] == 2 and each["PER"]["predicted"] == 3 and each["PER"]["f1"] == pytest.approx(0.8)
    assert each["LOC"]["f1"] == 0 and each["LOC"]["precision"]["value"] == 0
    estimates = estimate_tags(RIGHT, FOUND, CLASSES)
    assert all(one.low <= one.value <= one.high for one in estimates.values())
    assert estimates["f1"].low < estimates["f1"].value < estimates["f1"].high


def test_metrics_of_any_tags_are_those_of_seqeval() -> None:
    rng = random.Random(0)
    for _ in range(50):
        right, found = ([[rng.choice(CLASSES) for _ in range(8)] for _ in range(4)] for _ in range(2))
        ours = measure_tags(right, found, CLASSES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in ("precision", "recall", "f1"):
                assert ours[name] == pytest.approx(getattr(theirs, f"{name}_score")(right, found)), (right, found)
            assert ours["f1_macro"] == pytest.approx(theirs.f1_score(right, found, average="macro"))
            assert ours["accuracy"] == pytest.approx(theirs.accuracy_score(right, found))


def test_answers_are_compared_as_squad_does_it() -> None:
    assert normalised("The  Tower, of a King!") == "tower of king"
    assert exact_match("the Tower.", ["a tower"]) == 1 and exact_match("tower", ["tower of London"]) == 0
    assert overlap_f1("tower of London", ["London", "the tower"]) == pytest.approx(0.5)
    assert overlap_f1("", []) == exact_match("", []) == 1 and overlap_f1("x", []) == overlap_f1("", ["x"]) == 0
    assert overlap_f1("a a b", ["a b b"]) == pytest.approx(1.0 * 2 * (1 / 1) * (1 / 2) / (1 + 1 / 2))


def test_metrics_of_answers() -> None:
    rows = [("Ada", ("Ada Byron",)), ("Byron", ("Byron",)), ("", ()), ("x", ())]
    examples = [Example("f", 1, "q", "c", Answers(right, (0,) * len(right))) for _, right in rows]
    answers = [Answer(text, 0, 1, 0.5, 0.1) for text, _ in rows]
    found = measure_answers(examples, answers)
    assert found["exact_match"] == 0.5 and found["f1"] == pytest.approx((2 / 3 + 1 + 1) / 4)
    assert found["exact_match_answerable"] == 0.5 and found["no_answer"] == 0.5
    assert set(measure_answers(examples[:2], answers[:2])) == {"f1", "exact_match"}
    assert all(one.low <= one.value <= one.high for one in estimate_answers(examples, answers).values())
