"""Entities: stretches of a text with a label each, as tags of its words or tokens and as characters."""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

OUTSIDE = "O"  # the tag of what is part of nothing
# BIO, BIOES and BILOU; a tag without one of them is a label, as NOUN.
BEGINS, ENDS, INSIDE = ("B-", "S-", "U-"), ("E-", "L-", "S-", "U-"), ("I-", "M-")
FAR_EAST = 0x2E80  # from this character on words are not separated by blanks
ENTITIES = pa.list_(
    pa.struct(
        {"label": pa.string(), "start": pa.int64(), "end": pa.int64(), "text": pa.string(), "score": pa.float32()}
    )
)


class Entity(NamedTuple):
    """A stretch of a text.

    Args:
        label: Its label, without ``B-`` or ``I-``.
        start: Its first character.
        end: The character behind its last.
        text: The stretch.
        score: Mean probability of its tokens' labels.
    """

    label: str
    start: int
    end: int
    text: str
    score: float


class Stretch(NamedTuple):
    """Words or tokens that have one label together, the first and the last by their numbers."""

    label: str
    first: int
    last: int


def label_of(tag: str) -> str:
    """The label of a tag, without ``B-``, ``I-`` and their like.

    >>> label_of("B-PER"), label_of("NOUN")
    ('PER', 'NOUN')
    """
    return tag[2:] if tag.startswith((*BEGINS, *ENDS, *INSIDE)) else tag


def stretches_of(tags: Sequence[str]) -> list[Stretch]:
    """The entities of tags, as seqeval finds them in its default mode; tags of one label that follow each other join.

    Tags without a prefix, which seqeval does not know, count as ``I-``; ``L-`` and ``U-`` as ``E-`` and ``S-``.

    >>> stretches_of(["B-PER", "I-PER", "O", "I-LOC"])
    [Stretch(label='PER', first=0, last=1), Stretch(label='LOC', first=3, last=3)]
    """
    found: list[Stretch] = []
    before = OUTSIDE
    for place, tag in enumerate(tags):
        if tag != OUTSIDE:
            label = label_of(tag)
            goes_on = before != OUTSIDE and label == label_of(before)
            if goes_on and not tag.startswith(BEGINS) and not before.startswith(ENDS):
                found[-1] = found[-1]._replace(last=place)
            else:
                found.append(Stretch(label, place, place))
        before = tag
    return found


def join(
    labels: Sequence[str], shares: Float[np.ndarray, " tokens"], spans: Int[np.ndarray, "tokens 2"], text: str
) -> list[Entity]:
    """Tokens of one label that follow each other become an entity; ``B-`` begins a new one.

    As transformers' pipeline joins them (``aggregation_strategy="simple"``), but for white space at the ends, which is
    no part of an entity.

    >>> join(["B-PER", "I-PER", "O"], np.array([0.9, 0.7, 1.0]), np.array([[0, 3], [4, 9], [9, 10]]), "Ada Byron.")
    [Entity(label='PER', start=0, end=9, text='Ada Byron', score=0.8)]
    """
    found: list[Entity] = []
    for label, first, last in stretches_of(labels):
        start, end = int(spans[first, 0]), int(spans[last, 1])
        inside = text[start:end]
        start, end = start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
        if start < end:  # of nothing but white space there is nothing to name
            found.append(Entity(label, start, end, text[start:end], float(shares[first : last + 1].mean())))
    return found


def without_blanks(text: str, spans: Int[np.ndarray, "tokens 2"]) -> Int[np.ndarray, "tokens 2"]:
    """The characters of tokens without white space at their ends, which some tokenizers count as part of a token."""
    found = spans.copy()
    for place, (start, end) in enumerate(spans.tolist()):
        inside = text[start:end]
        found[place] = start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
    found[:, 1] = found.max(1)  # of nothing but blanks, nothing
    return found


def word_starts(text: str, spans: Int[np.ndarray, "tokens 2"]) -> Bool[np.ndarray, " tokens"]:
    """Which tokens begin a word: all but those that continue one, letter after letter.

    Signs are words of their own, and so are tokens of scripts that put no blanks between words.

    Args:
        text: Text.
        spans: Characters of its tokens, without blanks.
    """
    found = np.ones(len(spans), bool)
    for place in range(1, len(spans)):
        start = int(spans[place, 0])
        after = start == spans[place - 1, 1] and spans[place, 1] > start > spans[place - 1, 0]
        found[place] = not (after and _letter(text[start - 1]) and _letter(text[start]))
    return found


def _letter(character: str) -> bool:
    return ord(character) < FAR_EAST and unicodedata.category(character)[0] in "LMN"
