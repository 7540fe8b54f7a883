"""BERT's masking, drawn from (seed, epoch, example) alone.

The stock collator draws masks from a global generator, so its masks depend on worker processes and on prefetching, and a
resumed run sees others. Here example i of epoch e has the same mask whenever and wherever it is asked for.
"""

from dataclasses import dataclass

import numpy as np

IGNORED = -100  # the label that the loss leaves out


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Which tokens are predicted, and what stands in their place.

    Args:
        mask_token_id: id of ``<mask>``.
        vocab_size: random replacements are drawn from the ids below it that are not special.
        special_token_ids: ids that are neither predicted nor put in as replacements; they must be 0 ... s-1.
        share: share of the ordinary tokens that is predicted.
        masked: of the predicted tokens, the share shown as ``<mask>``.
        random: of the predicted tokens, the share shown as a random token; the rest is shown as it is.
    """

    mask_token_id: int
    vocab_size: int
    special_token_ids: tuple[int, ...]
    share: float = 0.15
    masked: float = 0.8
    random: float = 0.1

    def __post_init__(self) -> None:
        if sorted(self.special_token_ids) != list(range(len(self.special_token_ids))):
            raise ValueError(f"special_token_ids={self.special_token_ids} must be the lowest ids 0, 1, 2, ...")
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share} must be above 0 and at most 1 (BERT and RoBERTa use 0.15)")
        if min(self.masked, self.random) < 0 or self.masked + self.random > 1:
            raise ValueError(f"masked={self.masked} and random={self.random} must be shares that add up to at most 1")

    def __call__(self, input_ids: np.ndarray, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Mask one example.

        Args:
            input_ids: ids of shape (seq,).
            key: what the random numbers come from, for instance (seed, epoch, example).

        Returns:
            The ids to show and the labels, both (seq,); labels are -100 where nothing is predicted. The number of
            predicted tokens is ``share`` of the ordinary ones, rounded, and at least 1: every batch has a loss.
        """
        rng = np.random.default_rng(key)
        specials = len(self.special_token_ids)
        ordinary = np.flatnonzero(input_ids >= specials)
        shown, labels = input_ids.copy(), np.full_like(input_ids, IGNORED)
        if len(ordinary) == 0:
            return shown, labels
        chosen = rng.choice(ordinary, size=max(1, round(self.share * len(ordinary))), replace=False)
        labels[chosen] = input_ids[chosen]
        fate = rng.random(len(chosen))
        shown[chosen[fate < self.masked]] = self.mask_token_id
        swapped = chosen[(fate >= self.masked) & (fate < self.masked + self.random)]
        shown[swapped] = rng.integers(specials, self.vocab_size, size=len(swapped))
        return shown, labels
