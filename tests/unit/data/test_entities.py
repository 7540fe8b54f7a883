"""Entities of tags as seqeval finds them, and words of tokens."""

import random

import numpy as np
import pytest
from seqeval.metrics.sequence_labeling import get_entities

from linformers.data.entities import label_of, stretches_of, without_blanks, word_starts

# What seqeval 1.2.2 gives (``seqeval.metrics.sequence_labeling.get_entities``).
SEQEVAL = {
    "B-X I-X O B-X": [("X", 0, 1), ("X", 3, 3)],
    "I-X I-X I-Y O I-Y": [("X", 0, 1), ("Y", 2, 2), ("Y", 4, 4)],
    "B-X B-X I-Y B-Y": [("X", 0, 0), ("X", 1, 1), ("Y", 2, 2), ("Y", 3, 3)],
    "S-X B-X E-X I-X E-X O": [("X", 0, 0), ("X", 1, 2), ("X", 3, 4)],
    "O O": [],
    "E-X E-X B-Y": [("X", 0, 0), ("X", 1, 1), ("Y", 2, 2)],
}


@pytest.mark.parametrize("tags", SEQEVAL)
def test_stretches_are_those_of_seqeval(tags: str) -> None:
    assert [tuple(one) for one in stretches_of(tags.split())] == SEQEVAL[tags]


def test_stretches_of_any_tags_are_those_of_seqeval() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        tags = [rng.choice(("O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y", "S-Y")) for _ in range(9)]
        assert [tuple(one) for one in stretches_of(tags)] == get_entities(tags), tags


def test_tags_without_a_prefix_join() -> None:
    assert [tuple(one) for one in stretches_of(["NOUN", "NOUN", "VERB", "O"])] == [("NOUN", 0, 1), ("VERB", 2, 2)]
    assert label_of("U-X") == label_of("L-X") == "X"


def test_words_begin_where_letters_do_not_go_on() -> None:
    text = "Ada's play-house, naïve 12th 東京"
    spans = [(0, 2), (2, 3), (3, 4), (4, 5), (5, 10), (10, 11), (11, 16), (16, 17), (17, 20), (20, 23), (24, 26)]
    spans += [(26, 28), (29, 30), (30, 31)]
    found = without_blanks(text, np.array(spans))
    assert found[8].tolist() == [18, 20]
    begins = word_starts(text, found)
    assert [text[slice(*span)] for span, first in zip(found.tolist(), begins, strict=True) if not first] == [
        "a",
        "ïve",
        "th",
    ]
    assert without_blanks("a  b", np.array([[1, 3]])).tolist() == [[3, 3]]
