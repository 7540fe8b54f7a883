"""Entities of texts by a token classifier, with their characters; a text of any length is one text, without borders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from torch import Tensor

from linformers.data.tokenise import Located, TextEncoder, Tokens
from linformers.scoring.batches import run_batches
from linformers.scoring.networks import Network

OUTSIDE = "O"  # the label of tokens that are part of nothing
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


@dataclass
class Tagged:
    """Texts to be tagged.

    Args:
        texts: The texts.
        located: Tokens of each, and where they stand.
        tokens: The pieces that are read.
    """

    texts: list[str]
    located: list[Located]
    tokens: Tokens

    @property
    def count(self) -> int:
        """Tokens of all pieces."""
        return self.tokens.count


class Tagger:
    """A token classifier and how it reads texts.

    Args:
        network: The model.
        pieces: Pieces of a text that are read at most; None = all.
    """

    network: Network
    pieces: int | None
    encoder: TextEncoder

    def __init__(self, network: Network, pieces: int | None) -> None:
        self.network, self.pieces, self.encoder = network, pieces, TextEncoder(network.tokenizer)

    def encode(self, texts: Sequence[str]) -> Tagged:
        """Tokens of texts.

        Raises:
            ValueError: The tokenizer does not tell where its tokens stand.
        """
        located = self.encoder.located(texts)
        ids = [one.ids for one in located]
        tokens = self.encoder.windows_of(ids, self.network.max_length, self.pieces, np.empty(0, np.int32))
        return Tagged(list(texts), located, tokens)

    def tag(self, tagged: Tagged, seen: Callable[[int], None] = lambda tokens: None) -> list[list[Entity]]:
        """Entities of all texts that have tokens, in their order.

        Args:
            tagged: What `encode` gives.
            seen: hears how many tokens more are done.
        """
        tokens, best = tagged.tokens, _Best(tagged)

        def use(rows: list[int], logits: Tensor | None, states: Any, mask: Any) -> list[tuple[np.ndarray, np.ndarray]]:
            assert logits is not None
            return [_best_labels(logits[place], tokens, row) for place, row in enumerate(rows)]

        for rows, found in run_batches(self.network, tokens.windows, use, seen):
            for row, (labels, shares) in zip(rows, found, strict=True):
                best.put(row, labels, shares)
        names, empty = self.network.labels, set(tokens.empty)
        return [best.entities(text, names) for text in range(len(tagged.texts)) if text not in empty]


def _best_labels(
    logits: Float[Tensor, "seq labels"], tokens: Tokens, piece: int
) -> tuple[Int[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
    """The label of each token of a piece that is of the text, and its probability."""
    first = tokens.heads[piece]
    found = logits[first : first + tokens.ends[piece] - tokens.starts[piece]].float().softmax(-1).max(-1)
    return found.indices.numpy(), found.values.numpy()


class _Best:
    """Label and probability of each token that was read, text by text."""

    def __init__(self, tagged: Tagged) -> None:
        self.tagged = tagged
        self.labels = [np.full(len(one.ids), -1) for one in tagged.located]
        self.shares = [np.zeros(len(one.ids), np.float32) for one in tagged.located]

    def put(self, piece: int, labels: np.ndarray, shares: np.ndarray) -> None:
        """Take in what was found of a piece."""
        tokens = self.tagged.tokens
        text, where = int(tokens.owner[piece]), slice(tokens.starts[piece], tokens.ends[piece])
        self.labels[text][where], self.shares[text][where] = labels, shares

    def entities(self, text: int, names: Sequence[str]) -> list[Entity]:
        """Entities of a text."""
        read = np.flatnonzero(self.labels[text] >= 0)
        labels = [names[int(label)] for label in self.labels[text][read]]
        return join(labels, self.shares[text][read], self.tagged.located[text].spans[read], self.tagged.texts[text])


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
    first = 0
    for place in range(1, len(labels) + 1):
        if place < len(labels) and _goes_on(labels[place - 1], labels[place]):
            continue
        if labels[first] != OUTSIDE:
            start, end = int(spans[first, 0]), int(spans[place - 1, 1])
            inside = text[start:end]
            start, end = start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
            name, score = labels[first].split("-", 1)[-1], float(shares[first:place].mean())
            found.append(Entity(name, start, end, text[start:end], score))
        first = place
    return found


def _goes_on(before: str, label: str) -> bool:
    """Whether a token of a label belongs to the entity of the one before it."""
    (_, last), (begins, name) = _parts(before), _parts(label)
    return name == last and not begins


def _parts(label: str) -> tuple[bool, str]:
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label
