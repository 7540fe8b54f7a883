"""Texts through a classifier or an encoder, and pieces of texts put together again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from linformers.attention.documents import masked_mean
from linformers.data.tokenise import TextEncoder, Tokens
from linformers.scoring.batches import run_batches
from linformers.scoring.networks import Network, load_network
from linformers.scoring.settings import Reading


@dataclass(frozen=True)
class Scores:
    """What a model says of some texts, in their order.

    Args:
        values: probabilities of a classifier (of a regression, the values); None = an encoder.
        embeddings: mean hidden states, if they are asked for.
    """

    values: Float[np.ndarray, "texts classes"] | None
    embeddings: Float[np.ndarray, "texts hidden"] | None


class Scorer:
    """A model and how it reads texts; see `Reading`.

    Raises:
        ValueError: see ``load_network`` and ``TextEncoder``.
    """

    reading: Reading
    network: Network
    encoder: TextEncoder

    def __init__(self, reading: Reading) -> None:
        self.reading, self.network = reading, load_network(reading)
        pieces = 1 if reading.long == "truncate" else None
        self.pieces, self.encoder = pieces, TextEncoder(self.network.tokenizer)
        self.encode([])  # refuses a length without room for text

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Tokens:
        """Tokens of texts, or of pairs of them.

        Raises:
            ValueError: A length without room for text, or pairs that are not to be cut.
        """
        if pairs is None:
            overlap = self.reading.overlap
            return self.encoder.windows(texts, self.network.max_length, self.pieces, overlap=overlap)
        if self.pieces is None:
            raise ValueError("long='windows' is of single texts; pairs are cut: leave it out")
        return self.encoder.pairs(texts, pairs, self.network.max_length)

    def score(self, tokens: Tokens, seen: Callable[[int], None] = lambda tokens: None) -> Scores:
        """Scores of all texts that have tokens.

        Args:
            tokens: Token ids of the texts.
            seen: hears how many tokens more are done.
        """
        lengths = np.array([len(window) for window in tokens.windows], dtype=np.int64)
        logits: list[torch.Tensor | None] = [None] * len(lengths)
        states: list[torch.Tensor | None] = [None] * len(lengths)
        for rows, output in run_batches(self.network, tokens.windows, _pooled, seen, tokens.kinds):
            for found, kept in zip(output, (logits, states), strict=True):
                for place, row in enumerate(rows if found is not None else ()):
                    kept[row] = found[place]  # type: ignore[index]
        of_text = np.unique(tokens.owner, return_inverse=True)[1]
        values = None if self.network.kind is None else self._values(logits, of_text, lengths)
        wanted = self.reading.embeddings or self.network.kind is None
        embeddings = _pool(_stack(states, self.network.hidden_size), of_text, lengths, "mean") if wanted else None
        return Scores(values, embeddings)

    def _values(self, logits: list[torch.Tensor | None], of_text: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        values = torch.from_numpy(_stack(logits, max(len(self.network.labels), 1)))
        if self.network.kind == "single_label":
            values = values.softmax(-1)
        elif self.network.kind == "multi_label":
            values = values.sigmoid()
        return _pool(values.numpy(), of_text, lengths, self.reading.pool)


def _pooled(
    rows: list[int], logits: torch.Tensor | None, states: torch.Tensor | None, mask: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    return logits, None if states is None else masked_mean(states.float(), mask).cpu()


def _stack(rows: list[torch.Tensor | None], width: int) -> np.ndarray:
    return torch.stack([row for row in rows if row is not None]).numpy() if rows else np.empty((0, width), np.float32)


def _pool(values: np.ndarray, of_text: np.ndarray, lengths: np.ndarray, how: str) -> np.ndarray:
    """Values of the pieces as values of their texts."""
    if len(set(of_text.tolist())) == len(of_text):
        return values
    starts = np.flatnonzero(np.diff(of_text, prepend=-1))
    if how == "max":
        return np.maximum.reduceat(values, starts)
    return np.add.reduceat(values * lengths[:, None], starts) / np.add.reduceat(lengths, starts)[:, None]
