"""Chunks: every character that is no white space is in one, and offsets are those of the text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linformers.scoring.chunks import paragraphs, sentences, stretches, tokens_within


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two!  Three?", ["One.", "Two!", "Three?"]),
        ('He said "Go!" She went. (So.) Yes', ['He said "Go!"', "She went.", "(So.)", "Yes"]),
        ("Dr. J. S. Bach, e.g. in Fig. 3. It costs 3.5 dollars.", None),
        ("Wait... what? No.", ["Wait... what?", "No."]),  # before a small letter it goes on
        ("No stop\n\nTitle\nof two lines. End", ["No stop", "Title\nof two lines.", "End"]),
        ("\u4f60\u597d\u3002\u4ed6\u6765\u4e86\uff01", ["\u4f60\u597d\u3002", "\u4ed6\u6765\u4e86\uff01"]),
        ("  \n\n \t", []),
        ("", []),
        (" . ", ["."]),
    ],
)
def test_sentences(text: str, expected: list[str] | None) -> None:
    expected = ["Dr. J. S. Bach, e.g. in Fig. 3.", "It costs 3.5 dollars."] if expected is None else expected
    assert [text[start:end] for start, end in sentences(text)] == expected


def test_paragraphs() -> None:
    text = " first\nof two lines \n\n  second\r\n\r\n \n\nthird \n"
    assert [text[start:end] for start, end in paragraphs(text)] == ["first\nof two lines", "second", "third"]


@given(st.text("aB.!? \n\r\t\u3002\u201d'", max_size=80))
def test_nothing_is_lost_and_nothing_is_there_twice(text: str) -> None:
    for cut in (sentences, paragraphs):
        spans = cut(text)
        assert spans == sorted(spans)
        assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))
        assert "".join("".join(text[a:b].split()) for a, b in spans) == "".join(text.split())
        assert all(text[a:b] == text[a:b].strip() != "" for a, b in spans)


def test_long_texts_take_time_that_grows_with_them() -> None:
    for text in ("a. " * 30_000, "." * 100_000, "\n" * 100_000, "x" * 100_000, "e.g. " * 20_000):
        sentences(text)


@given(st.integers(0, 40), st.integers(1, 10), st.integers(0, 9))
def test_stretches_reach_every_token(tokens: int, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    found = stretches(tokens, size, overlap)
    assert sorted({token for a, b in found for token in range(a, b)}) == list(range(tokens))
    assert all(b - a == size for a, b in found[:-1]) and all(0 < b - a <= size for a, b in found)
    assert all(after[0] == before[1] - overlap for before, after in zip(found, found[1:], strict=False))
    assert all(b - a > overlap for a, b in found[1:])  # the last one is not within the one before it


def test_tokens_within_share_a_character() -> None:
    spans = np.array([(0, 3), (3, 8), (8, 8), (9, 12), (12, 13)])
    assert tokens_within(spans, [(0, 4), (4, 9), (8, 9), (10, 13), (13, 20)]) == [
        (0, 2),
        (1, 3),
        (3, 3),
        (3, 5),
        (5, 5),
    ]
