"""Texts through a model: batches of like length under a budget of tokens, and pieces put together again."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from linformers.data.tokenise import TextEncoder, Tokens
from linformers.scoring.networks import Output, load_network
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

    def __init__(self, reading: Reading) -> None:
        self.reading, self.network = reading, load_network(reading)
        pieces = 1 if reading.long == "truncate" else None
        self.pieces, self.encoder = pieces, TextEncoder(self.network.tokenizer)
        self.encode([])  # refuses a length without room for text
        pad = self.network.tokenizer.pad_token_id
        self.pad = 0 if pad is None else pad

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Tokens:
        """Tokens of texts, or of pairs of them.

        Raises:
            ValueError: A length without room for text, or pairs that are not to be cut.
        """
        if pairs is None:
            return self.encoder.windows(texts, self.network.max_length, self.pieces)
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
        all_rows = batches(lengths, self.network.batch_tokens)
        limit = partial(torch.set_num_threads, self.network.threads)  # PyTorch's setting is each thread's own
        with ThreadPoolExecutor(self.network.parallel, initializer=limit) as pool:
            outputs = pool.map(lambda rows: self._run(tokens, rows), all_rows)
            for rows, output in zip(all_rows, outputs, strict=True):
                for found, kept in zip(output, (logits, states), strict=True):
                    for place, row in enumerate(rows if found is not None else ()):
                        kept[row] = found[place]  # type: ignore[index]
                seen(int(lengths[rows].sum()))
        of_text = np.unique(tokens.owner, return_inverse=True)[1]
        values = None if self.network.kind is None else self._values(logits, of_text, lengths)
        wanted = self.reading.embeddings or self.network.kind is None
        embeddings = _pool(_stack(states, self.network.hidden_size), of_text, lengths, "mean") if wanted else None
        return Scores(values, embeddings)

    def _run(self, tokens: Tokens, rows: Sequence[int]) -> Output:
        ids, mask = self._pad([tokens.windows[row] for row in rows])
        try:
            if tokens.kinds is None:
                return self.network.run(ids, mask)
            kinds = torch.zeros_like(ids)
            for place, row in enumerate(rows):
                kinds[place, : len(tokens.kinds[row])] = torch.from_numpy(tokens.kinds[row])
            return self.network.run(ids, mask, kinds)
        except torch.OutOfMemoryError as error:
            raise ValueError(f"a batch of {ids.numel():,} tokens does not fit; lower --memory") from error

    def _pad(self, windows: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor | None]:
        longest = max(map(len, windows))
        ids = torch.full((len(windows), longest), self.pad)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = torch.from_numpy(window)
        if all(len(window) == longest for window in windows):
            return ids, None
        lengths = torch.tensor([len(window) for window in windows])
        return ids, torch.arange(longest) < lengths[:, None]

    def _values(self, logits: list[torch.Tensor | None], of_text: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        values = torch.from_numpy(_stack(logits, max(len(self.network.labels), 1)))
        if self.network.kind == "single_label":
            values = values.softmax(-1)
        elif self.network.kind == "multi_label":
            values = values.sigmoid()
        return _pool(values.numpy(), of_text, lengths, self.reading.pool)


def batches(lengths: np.ndarray, budget: int) -> list[list[int]]:
    """Rows in batches of like length, the longest first, each within a budget of tokens with its padding."""
    found: list[list[int]] = []
    room = 0
    for row in np.argsort(-lengths, kind="stable").tolist():
        if room == 0:
            room = max(budget // int(lengths[row]), 1)
            found.append([])
        found[-1].append(row)
        room -= 1
    return found


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
