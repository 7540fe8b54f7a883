"""A task as token ids, and batches of inputs that are about as long as each other."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from linformers.data.padding import pad_right
from linformers.data.tasks import Part
from linformers.data.tokenise import TextEncoder

TOKENISED_AT_ONCE = 512
COUNTED = 1000  # rows whose whole length is measured
BARS = 24  # of their histogram
POOL = 50  # batches that are sorted by length together


class EncodedPart(Dataset[Any]):
    """Token ids and labels of the rows of a task.

    Args:
        part: the rows.
        tokenizer: Tokenizer of the model.
        max_length: longer inputs are cut; of a pair, the longer text first.
        seen: hears how many rows more are done.

    Attributes:
        cut: rows that were too long.
    """

    cut: int

    unit = "tokens"

    def __init__(
        self,
        part: Part,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        seen: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self.labels: Tensor = torch.from_numpy(part.labels)
        self.inputs: list[dict[str, np.ndarray]] = []
        self.cut = 0
        encoder = TextEncoder(tokenizer)
        for start in range(0, len(part), TOKENISED_AT_ONCE):
            examples = part.examples[start : start + TOKENISED_AT_ONCE]
            pairs = None if examples[0].pair is None else [example.pair or "" for example in examples]
            found = encoder.inputs([example.text for example in examples], pairs, max_length=max_length)
            self.cut += found.cut
            self.inputs += found.rows
            seen(len(examples))
        self.lengths: np.ndarray = np.array([len(inputs["input_ids"]) for inputs in self.inputs])

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {**{name: ids.tolist() for name, ids in self.inputs[row].items()}, "labels": self.labels[row]}

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return int(self.lengths.sum())

    def fingerprint(self) -> bytes:
        """Changes with the texts, their tokens and their labels."""
        digest = hashlib.sha256(self.labels.numpy().tobytes())
        for inputs in self.inputs:
            digest.update(inputs["input_ids"].tobytes() + b"|")
        return digest.digest()


def whole_lengths(part: Part, tokenizer: PreTrainedTokenizerBase) -> Int[np.ndarray, " rows"]:
    """Tokens of rows before they are cut, special ones included; of more than 1,000 rows, those of 1,000."""
    rows = np.random.default_rng(0).permutation(len(part))[:COUNTED]
    encoder, special = TextEncoder(tokenizer), tokenizer.num_special_tokens_to_add(part.examples[0].pair is not None)
    sizes = np.zeros(len(rows), dtype=np.int64)
    for start in range(0, len(rows), TOKENISED_AT_ONCE):
        examples = [part.examples[row] for row in rows[start : start + TOKENISED_AT_ONCE]]
        for column in zip(*(example.texts for example in examples), strict=True):
            sizes[start : start + len(examples)] += [len(ids) for ids in encoder.ids(column)]
    return sizes + special


def count_cut(sizes: Int[np.ndarray, " rows"], rows: int, lengths: Sequence[int]) -> list[int]:
    """How many of all rows each length would cut, by the ``whole_lengths`` of some of them."""
    return [round(float((sizes > length).mean()) * rows) for length in lengths]


def length_counts(sizes: Int[np.ndarray, " rows"], max_length: int) -> dict[str, Any]:
    """A histogram of lengths in tokens; what is longer than four times ``max_length`` is in its last bar."""
    longest = int(sizes.max())
    end = min(longest, 4 * max_length)
    width = max(1, math.ceil((end + 1) / BARS))
    edges = list(range(0, end + width + 1, width))
    counts, _ = np.histogram(np.minimum(sizes, edges[-1] - 1), edges)
    return {
        "measured": len(sizes),
        "median": int(np.median(sizes)),
        "longest": longest,
        "edges": edges,
        "counts": counts.tolist(),
    }


class PadInputs:
    """Makes a batch: pads to the longest input."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.pad: Any = pad_right(tokenizer)

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Tensors of (batch, longest), and the labels."""
        labels = torch.stack([item["labels"] for item in items])
        inputs = [{name: ids for name, ids in item.items() if name != "labels"} for item in items]
        return {**self.pad(inputs), "labels": labels}


class LengthBatches(Sampler[list[int]]):
    """Batches of a run: shuffled, but of inputs that are about as long, so that little is padded.

    The order of an epoch is a function of (seed, epoch): pools of shuffled rows are sorted and cut into batches, which
    are then shuffled.

    Args:
        lengths: Lengths of all inputs, in tokens.
        size: rows in a batch; the last one of an epoch may be smaller.
        count: batches in the run.
        seed: Seed of the order.
    """

    lengths: np.ndarray
    size: int
    count: int
    seed: int

    def __init__(self, lengths: Int[np.ndarray, " rows"], size: int, count: int, seed: int) -> None:
        self.lengths, self.size, self.count, self.seed = lengths, size, count, seed

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        done, epoch = 0, 0
        while done < self.count:
            for batch in self.epoch(epoch)[: self.count - done]:
                yield batch
                done += 1
            epoch += 1

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        rows = rng.permutation(len(self.lengths))
        batches = []
        for start in range(0, len(rows), self.size * POOL):
            pool = rows[start : start + self.size * POOL]
            pool = pool[np.argsort(-self.lengths[pool], kind="stable")]
            batches += [pool[first : first + self.size].tolist() for first in range(0, len(pool), self.size)]
        return [batches[number] for number in rng.permutation(len(batches))]


def by_length(lengths: Shaped[np.ndarray, " rows"], size: int) -> list[list[int]]:
    """Batches of all rows, longest first, so that a lack of memory shows at once."""
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + size].tolist() for start in range(0, len(order), size)]
