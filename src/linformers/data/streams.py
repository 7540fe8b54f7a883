"""Data sets whose item i is a pure function of i: repeatable, and resumable from any step.

A training set is an endless run of shuffled epochs cut to ``total`` items, to be read in order (``SequentialSampler``):
item i belongs to epoch i // n, and the order of that epoch comes from (seed, epoch) alone. So no state but the step has
to be saved. An evaluation set (``total=None``) is each example once, in order.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from linformers.data.masking import Masking

Example = dict[str, torch.Tensor]


@lru_cache(maxsize=8)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


class Draws(Dataset[Any]):
    """What all data sets here share: how many items, and which example of which epoch each is."""

    size: int
    seed: int
    total: int | None

    def __init__(self, size: int, *, seed: int, total: int | None) -> None:
        self.size, self.seed, self.total = size, seed, total

    def __len__(self) -> int:
        return self.size if self.total is None else self.total

    def locate(self, item: int) -> tuple[int, int]:
        """Epoch and example of an item.

        Raises:
            IndexError: there is no such item.
        """
        if not 0 <= item < len(self):
            raise IndexError(f"item {item} of {len(self)}")
        if self.total is None:
            return 0, item
        epoch, position = divmod(item, self.size)
        return epoch, int(_order(self.size, self.seed, epoch)[position])


class MaskedBlocks(Draws):
    """Blocks with masks; training ones are masked anew in each epoch, evaluation ones always the same.

    Args:
        blocks: ids of shape (blocks, seq).
        masking: which tokens are predicted.
        seed: seeds the order and the masks.
        total: number of items to draw; None for evaluation.
    """

    blocks: np.ndarray
    masking: Masking

    def __init__(self, blocks: np.ndarray, masking: Masking, *, seed: int, total: int | None = None) -> None:
        super().__init__(len(blocks), seed=seed, total=total)
        self.blocks, self.masking = blocks, masking

    def __getitem__(self, item: int) -> Example:
        epoch, example = self.locate(item)
        shown, labels = self.masking(self.blocks[example], (self.seed, epoch, example))
        return {"input_ids": torch.from_numpy(shown), "labels": torch.from_numpy(labels)}


class Curriculum(Dataset[Any]):
    """Stages one after another, each with sequences of its own length, at the same number of tokens an item.

    An item is as many sequences of the stage as hold ``tokens_per_item`` tokens. Short sequences first: attention finds
    the neighbours of a masked token among 32 positions long before it would among 1,024.

    Args:
        stages: the data sets of the stages, with the number of sequences that make up one item of each.
    """

    def __init__(self, stages: Sequence[tuple[Dataset[Any], int]]) -> None:
        self.stages: list[tuple[Dataset[Any], int]] = list(stages)
        self.lengths: list[int] = [len(dataset) // group for dataset, group in self.stages]  # type: ignore[arg-type]

    def __len__(self) -> int:
        return sum(self.lengths)

    def __getitem__(self, item: int) -> list[Example]:
        if not 0 <= item < len(self):
            raise IndexError(f"item {item} of {len(self)}")
        for (dataset, group), length in zip(self.stages, self.lengths, strict=True):
            if item < length:
                return [dataset[item * group + member] for member in range(group)]
            item -= length
        raise AssertionError("unreachable: item is below the sum of the lengths")


class LabelledPassages(Draws):
    """Sequences of one length, each with a class.

    Args:
        blocks: ids of shape (passages, seq).
        labels: class of each passage, shape (passages,).
        seed: seeds the order.
        total: number of items to draw; None for evaluation.
    """

    blocks: np.ndarray
    labels: np.ndarray

    def __init__(self, blocks: np.ndarray, labels: np.ndarray, *, seed: int = 0, total: int | None = None) -> None:
        super().__init__(len(blocks), seed=seed, total=total)
        self.blocks, self.labels = blocks, labels

    def __getitem__(self, item: int) -> Example:
        _, example = self.locate(item)
        return {"input_ids": torch.from_numpy(self.blocks[example]), "labels": torch.tensor(self.labels[example])}


def collate(items: Sequence[Example | list[Example]]) -> Example:
    """Stack examples of one length; items that are lists of examples are joined first."""
    examples = [example for item in items for example in (item if isinstance(item, list) else [item])]
    return {key: torch.stack([example[key] for example in examples]) for key in examples[0]}
