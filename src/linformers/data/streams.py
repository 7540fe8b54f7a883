"""Data sets whose item i is a pure function of i: repeatable, and resumable from any step.

Each is an endless run of shuffled epochs cut to ``total`` items, to be read in order (``SequentialSampler``): item i belongs
to epoch i // n, and the order of that epoch comes from (seed, epoch) alone. So no state but the step has to be saved.
"""

from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import Dataset

from linformers.data.masking import Masking


@lru_cache(maxsize=8)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


def locate(item: int, size: int, seed: int) -> tuple[int, int]:
    """Epoch and example of the item-th draw from ``size`` examples, every epoch in an order of its own."""
    epoch, position = divmod(item, size)
    return epoch, int(_order(size, seed, epoch)[position])


class MaskedBlocks(Dataset):
    """Blocks with masks; training ones are shuffled and masked anew in each epoch, evaluation ones are fixed."""

    def __init__(self, blocks: np.ndarray, masking: Masking, *, seed: int, total: int | None = None) -> None:
        """See the module.

        Args:
            blocks: ids of shape (blocks, seq).
            masking: which tokens are predicted.
            seed: seeds the order and the masks.
            total: number of items to draw; None means each block once, in order, always with the same masks.
        """
        self.blocks, self.masking, self.seed, self.total = blocks, masking, seed, total

    def __len__(self) -> int:
        return len(self.blocks) if self.total is None else self.total

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        epoch, example = (0, item) if self.total is None else locate(item, len(self.blocks), self.seed)
        shown, labels = self.masking(self.blocks[example], (self.seed, epoch, example))
        return {"input_ids": torch.from_numpy(shown), "labels": torch.from_numpy(labels)}


class LabelledPassages(Dataset):
    """Sequences of one length, each with a class."""

    def __init__(self, blocks: np.ndarray, labels: np.ndarray, *, seed: int = 0, total: int | None = None) -> None:
        """See the module.

        Args:
            blocks: ids of shape (passages, seq).
            labels: class of each passage, shape (passages,).
            seed: seeds the order.
            total: number of items to draw; None means each passage once, in order.
        """
        self.blocks, self.labels, self.seed, self.total = blocks, labels, seed, total

    def __len__(self) -> int:
        return len(self.blocks) if self.total is None else self.total

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        example = item if self.total is None else locate(item, len(self.blocks), self.seed)[1]
        return {"input_ids": torch.from_numpy(self.blocks[example]), "labels": torch.tensor(self.labels[example])}
