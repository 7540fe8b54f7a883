"""BERT's masking, drawn from (seed, epoch, example) alone.

The stock collator draws masks from a global generator, so its masks depend on worker processes and on prefetching, and
a resumed run sees others. Here example i of epoch e has the same mask whenever and wherever it is asked for.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from linformers.data.words import WordStarts

IGNORED = -100  # the label that the loss leaves out


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Which tokens are predicted, and what stands in their place.

    Args:
        mask_token_id: id of ``<mask>``.
        vocab_size: random replacements are drawn from the ids below it that are not special.
        special_token_ids: ids that are neither predicted nor put in as replacements.
        share: share of the ordinary tokens that is predicted.
        masked: Share of the predicted tokens that is shown as ``<mask>``.
        random: Share of the predicted tokens that is shown as a random token; the rest is shown as it is.
        word_starts: which tokens open a word, to predict whole words (Devlin's whole-word masking) and not single
            tokens; None for single tokens. The fate of the predicted tokens is drawn for each on its own all the same.
    """

    mask_token_id: int
    vocab_size: int
    special_token_ids: tuple[int, ...]
    share: float = 0.15
    masked: float = 0.8
    random: float = 0.1
    word_starts: WordStarts | None = None

    def __post_init__(self) -> None:
        ids = set(self.special_token_ids)
        if len(ids) < len(self.special_token_ids) or not ids < set(range(self.vocab_size)):
            raise ValueError(
                f"special_token_ids={self.special_token_ids} must be different ids below vocab_size={self.vocab_size}, "
                "and leave some that are not special"
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share} must be above 0 and at most 1 (BERT and RoBERTa use 0.15)")
        if min(self.masked, self.random) < 0 or self.masked + self.random > 1:
            raise ValueError(f"masked={self.masked} and random={self.random} must be shares that add up to at most 1")

    @classmethod
    def for_tokenizer(
        cls,
        tokenizer: Any,
        *,
        share: float = 0.15,
        whole_words: bool = False,
    ) -> "Masking":
        """The masking for a tokenizer of transformers.

        Args:
            tokenizer: with a mask token; for ``whole_words`` a byte-level BPE, WordPiece or SentencePiece one.
            share: see the class.
            whole_words: predict whole words.

        Raises:
            ValueError: the tokenizer has no mask token, or words cannot be told from its tokens.
        """
        if tokenizer.mask_token_id is None:
            raise ValueError(
                "the tokenizer has no mask token; add one, or train a tokenizer with `linformers tokenizer`"
            )
        return cls(
            mask_token_id=tokenizer.mask_token_id,
            vocab_size=len(tokenizer),
            special_token_ids=tuple(sorted(set(tokenizer.all_special_ids))),
            share=share,
            word_starts=WordStarts.for_tokenizer(tokenizer) if whole_words else None,
        )

    @cached_property
    def _ordinary(self) -> np.ndarray:
        """Whether an id is not special, for every id."""
        table = np.ones(self.vocab_size, dtype=bool)
        table[list(self.special_token_ids)] = False
        return table

    @cached_property
    def _ordinary_ids(self) -> np.ndarray:
        return np.flatnonzero(self._ordinary)

    def __call__(self, input_ids: np.ndarray, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Mask one example.

        Args:
            input_ids: ids of shape (seq,).
            key: what the random numbers come from, for instance (seed, epoch, example).

        Returns:
            The ids to show and the labels, both (seq,); labels are -100 where nothing is predicted. The number of
            predicted tokens is ``share`` of the ordinary ones, rounded, and at least 1: every batch has a loss. (With
            whole words it may be a little less, or the one word that was drawn where none fits.)
        """
        rng = np.random.default_rng(key)
        ordinary = np.flatnonzero(self._ordinary[input_ids])
        shown, labels = input_ids.copy(), np.full_like(input_ids, IGNORED)
        if len(ordinary) == 0:
            return shown, labels
        budget = max(1, round(self.share * len(ordinary)))
        if self.word_starts is None:
            chosen = rng.choice(ordinary, size=budget, replace=False)
        else:
            chosen = choose_words(ordinary, self.word_starts(input_ids)[ordinary], budget, rng)
        labels[chosen] = input_ids[chosen]
        fate = rng.random(len(chosen))
        shown[chosen[fate < self.masked]] = self.mask_token_id
        swapped = chosen[(fate >= self.masked) & (fate < self.masked + self.random)]
        shown[swapped] = self._ordinary_ids[rng.integers(len(self._ordinary_ids), size=len(swapped))]
        return shown, labels


def unmasked(ids: np.ndarray, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """In place of a ``Masking``: nothing is masked, nothing is predicted."""
    return ids, np.full_like(ids, IGNORED)


def choose_words(ordinary: np.ndarray, starts: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Draw whole words until their tokens fill the budget.

    Args:
        ordinary: positions of the tokens that may be predicted, in order.
        starts: whether a word opens at each of these. A gap between positions also ends a word.
        budget: tokens to predict. Words that would exceed it are passed over; the first is taken in any case.
        rng: where the draw comes from.

    Returns:
        Positions of the tokens of the words that were drawn, in the order of the draw.
    """
    opens = starts.copy()
    opens[0] = True
    opens[1:] |= np.diff(ordinary) > 1
    begin = np.flatnonzero(opens)
    length = np.diff(np.append(begin, len(ordinary)))
    order = rng.permutation(len(begin))
    fitting = int(np.searchsorted(np.cumsum(length[order]), budget, side="right"))
    words = list(order[: max(1, fitting)])
    left = budget - int(length[words].sum())
    for word in order[max(1, fitting) :]:
        if left <= 0:
            break
        if length[word] <= left:
            words.append(word)
            left -= int(length[word])
    return np.concatenate([ordinary[begin[word] : begin[word] + length[word]] for word in words])
