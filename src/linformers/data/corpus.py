"""Training examples cut from memory-mapped tokens, found by their number: no copy of the corpus, no state to save."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import torch

from linformers.data.cache import TokenCache
from linformers.data.streams import Draws, Example

Documents = Literal["joined", "apart"]
# From ids and what the draw depends on: the ids shown, and the labels; a ``Masking``, or whatever else does that.
Mask = Callable[[np.ndarray, tuple[int, ...]], tuple[np.ndarray, np.ndarray]]


class Cuts:
    """How one cache is cut into blocks ``<s> ... </s>`` of at most ``length`` tokens.

    Joined, documents run on, one ``</s>`` between them (RoBERTa's FULL-SENTENCES), and each block is full but the last.
    Apart, no block holds more than one document (its DOC-SENTENCES): a long one is cut, and what is left is a short
    block.

    Args:
        cache: the tokens.
        length: tokens of a block, ``<s>`` and ``</s>`` included.
        documents: joined or apart.
        keep_tail: whether the short block at the end is kept, where documents are joined.
    """

    cache: TokenCache
    body: int
    slack: int
    count: int

    def __init__(self, cache: TokenCache, *, length: int, documents: Documents, keep_tail: bool) -> None:
        self.cache, self.body, self.documents = cache, length - 2, documents
        self.slack = 0
        if documents == "apart":
            # A document's own closing token is the one that closes its last block.
            sizes = np.diff(cache.offsets) - 1
            self.ends: np.ndarray = np.cumsum(-(-sizes // self.body))
            self.count = int(self.ends[-1])
        else:
            self.count, self.slack = divmod(cache.num_tokens, self.body)
            if keep_tail and self.slack:
                self.count, self.slack = self.count + 1, 0

    def __call__(self, block: int, shift: int = 0) -> np.ndarray:
        """Ids of a block, shape (at most length,).

        Args:
            block: its number.
            shift: tokens left out at the start, at most ``slack``: it moves the borders of joined blocks, and with them
                the tokens at the end that fill no block.
        """
        if self.documents == "apart":
            document = int(np.searchsorted(self.ends, block, side="right"))
            offsets = self.cache.offsets
            piece = block - (int(self.ends[document - 1]) if document else 0)
            start = int(offsets[document]) + piece * self.body
            stop = min(start + self.body, int(offsets[document + 1]) - 1)
        else:
            start = block * self.body + shift
            stop = min(start + self.body, self.cache.num_tokens)
        ids = np.empty(stop - start + 2, dtype=np.int64)
        ids[0], ids[-1] = self.cache.bos_token_id, self.cache.eos_token_id
        ids[1:-1] = self.cache.tokens[start:stop]
        return ids


class PackedBlocks(Draws):
    """Masked blocks of one or several caches; item i is a function of (seed, i) alone.

    An epoch has ``weight`` times the blocks of each source, in random order. A source of weight 2 is read twice; of one
    of weight 0.5, an epoch reads half the blocks, spread over the source, and the next epoch the other half. Wherever a
    source starts over, its blocks get new masks and other borders.

    Args:
        caches: the tokens of each source.
        length: tokens of a block, ``<s>`` and ``</s>`` included.
        masking: which tokens are predicted.
        seed: Seed of the order, the borders and the masks.
        total: number of items to draw, over as many epochs as it takes; None for evaluation: each block once, in order,
            always with the same masks.
        weights: Weights of the sources; all 1 when None. Evaluation ignores them.
        documents: ``joined`` (RoBERTa's FULL-SENTENCES) or ``apart`` (no block holds two documents).
        keep_tail: keep the short block at the end of each source, where documents are joined.
        limit: evaluation only: use this many blocks, evenly spread.

    Raises:
        ValueError: a setting that cannot be, or too few tokens for one block.
    """

    length: int
    masking: Mask

    def __init__(
        self,
        caches: Sequence[TokenCache],
        *,
        length: int,
        masking: Mask,
        seed: int,
        total: int | None = None,
        weights: Sequence[float] | None = None,
        documents: Documents = "joined",
        keep_tail: bool = False,
        limit: int | None = None,
    ) -> None:
        if length < 3:
            raise ValueError(f"length={length} leaves no room between <s> and </s>; use 3 or more")
        if documents not in get_args(Documents):
            raise ValueError(f"documents={documents!r} must be one of {', '.join(get_args(Documents))}")
        if not caches:
            raise ValueError("caches is empty; give at least one")
        weights = [1.0] * len(caches) if weights is None or total is None else list(weights)
        if len(weights) != len(caches) or min(weights) <= 0:
            raise ValueError(f"weights={weights} must be {len(caches)} numbers above 0, one for each cache")
        if limit is not None and (limit < 1 or total is not None):
            raise ValueError(f"limit={limit} must be at least 1, and is for evaluation only (total=None)")
        self.length, self.masking = length, masking
        self.cuts: list[Cuts] = [
            Cuts(cache, length=length, documents=documents, keep_tail=keep_tail) for cache in caches
        ]
        counts = [round(cut.count * weight) for cut, weight in zip(self.cuts, weights, strict=True)]
        self.ends: np.ndarray = np.cumsum(counts)
        available = int(self.ends[-1])
        if available == 0:
            tokens = sum(cache.num_tokens for cache in caches)
            raise ValueError(f"{tokens:,} tokens do not fill one block of length={length}; use a shorter length")
        self.available = available
        super().__init__(available if limit is None else min(limit, available), seed=seed, total=total)
        self.strides: list[int] = [_spreading_stride(cut.count) for cut in self.cuts]

    def place(self, item: int) -> tuple[int, int, int]:
        """Source, how often the source has been read through before, and block in the source, of an item.

        Raises:
            IndexError: there is no such item.
        """
        epoch, number = self.locate(item)
        if self.total is None:  # evaluation: evenly spread
            number = number * self.available // self.size
        source = int(np.searchsorted(self.ends, number, side="right"))
        first = int(self.ends[source - 1]) if source else 0
        share = int(self.ends[source]) - first
        if self.total is None:
            return source, 0, number - first
        count = self.cuts[source].count
        times, position = divmod(epoch * share + number - first, count)
        return source, times, position * self.strides[source] % count

    def __getitem__(self, item: int) -> Example:
        source, times, block = self.place(item)
        cut, shift = self.cuts[source], 0
        if self.total is not None and cut.slack:
            shift = int(np.random.default_rng((self.seed, source, times)).integers(cut.slack + 1))
        shown, labels = self.masking(cut(block, shift), (self.seed, source, times, block))
        return {"input_ids": torch.from_numpy(shown), "labels": torch.from_numpy(labels)}


def _spreading_stride(count: int) -> int:
    """A step through ``count`` blocks that meets each once and spreads any part of the way over all of them."""
    stride = max(1, round(count * 0.618))
    while math.gcd(stride, max(1, count)) != 1:
        stride += 1
    return stride
