"""Entities of texts by a token classifier, with their characters; a text of any length is one text, without borders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from linformers.data.entities import Entity, join, without_blanks, word_starts
from linformers.data.tokenise import Located, TextEncoder, Tokens
from linformers.scoring.batches import run_batches
from linformers.scoring.networks import Network


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
        overlap: Tokens that a piece shares with the one before it; their labels are those of the piece in which they
            stand farther from the border.
    """

    network: Network
    pieces: int | None
    overlap: int
    encoder: TextEncoder

    def __init__(self, network: Network, pieces: int | None, overlap: int = 0) -> None:
        self.network, self.pieces, self.encoder = network, pieces, TextEncoder(network.tokenizer)
        self.overlap = overlap

    def encode(self, texts: Sequence[str]) -> Tagged:
        """Tokens of texts.

        Raises:
            ValueError: The tokenizer does not tell where its tokens stand.
        """
        located = self.encoder.located(texts)
        ids = [one.ids for one in located]
        tokens = self.encoder.windows_of(ids, self.network.max_length, self.pieces, np.empty(0, np.int32), self.overlap)
        return Tagged(list(texts), located, tokens)

    def tag(self, tagged: Tagged, seen: Callable[[int], None] = lambda tokens: None) -> list[list[Entity]]:
        """Entities of all texts that have tokens, in their order.

        Args:
            tagged: What `encode` gives.
            seen: hears how many tokens more are done.
        """
        tokens, best = tagged.tokens, _Best(tagged, self.network.trained.tags == "words")

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
    """Label and probability of each token that was read, text by text.

    Args:
        tagged: Texts to be tagged.
        words: Whether the first token of a word speaks for all of it.
    """

    def __init__(self, tagged: Tagged, words: bool) -> None:
        self.tagged, self.words = tagged, words
        self.labels = [np.full(len(one.ids), -1) for one in tagged.located]
        self.shares = [np.zeros(len(one.ids), np.float32) for one in tagged.located]
        self.borders = [np.full(len(one.ids), -1) for one in tagged.located]  # tokens to the nearer border

    def put(self, piece: int, labels: np.ndarray, shares: np.ndarray) -> None:
        """Take in what was found of a piece, as far as no other piece knows better."""
        tokens = self.tagged.tokens
        text, start, end = int(tokens.owner[piece]), tokens.starts[piece], tokens.ends[piece]
        where = np.arange(start, end)
        # The beginning and the end of a text are no borders.
        before = where - start if start else np.full(len(where), len(self.labels[text]))
        after = end - 1 - where if end < len(self.labels[text]) else np.full(len(where), len(self.labels[text]))
        border = np.minimum(before, after)
        # Of two alike the first piece counts, in whatever order they come.
        better = (border > self.borders[text][where]) | ((border == self.borders[text][where]) & (before > after))
        taken = where[better]
        self.labels[text][taken], self.shares[text][taken] = labels[better], shares[better]
        self.borders[text][taken] = border[better]

    def entities(self, text: int, names: Sequence[str]) -> list[Entity]:
        """Entities of a text."""
        labels, shares = self.labels[text], self.shares[text]
        content, spans = self.tagged.texts[text], self.tagged.located[text].spans
        read = np.flatnonzero(labels >= 0)
        if self.words and len(read):
            spans = without_blanks(content, spans)
            first = read[word_starts(content, spans[read]) & (spans[read, 1] > spans[read, 0])]
            if not len(first):
                return []
            ends = [*(first[1:] - 1), read[-1]]
            spans = spans.copy()
            spans[first, 1] = np.maximum.accumulate(spans[:, 1])[ends]
            read = first
        return join([names[int(label)] for label in labels[read]], shares[read], spans[read], content)
