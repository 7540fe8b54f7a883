"""Hidden states of tokens to one vector, also where the tokens lie in several pieces; and vectors in few bytes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from linformers.files.run_folder import RESULTS
from linformers.scoring.settings import VectorDtype

OF_PARTS = ("mean", "max", "mean_sqrt_len_tokens")  # which also say something of some tokens of a text
# What the beginning of a document weighs in the mean of a chunk (docs/long.md has what that gains).
BEGINNING_SHARE = 0.4


class Part(NamedTuple):
    """Tokens of a piece that are pooled for a vector: the first, and the one behind the last; what each weighs."""

    vector: int
    first: int
    last: int
    weight: float = 1.0


# Numbers of vectors, what is added to each, and its weight.
Pooled = tuple[list[int], Float[np.ndarray, "parts modes hidden"], Float[np.ndarray, "parts modes"]]


def pool_parts(modes: Sequence[str], parts: Sequence[list[Part]], states: Float[Tensor, "batch seq hidden"]) -> Pooled:
    """What each piece of a batch adds to the vectors that it is a part of.

    Padding stands behind the tokens of a piece, so that no part reaches it.
    """
    vectors, found, weights = [], [], []
    for states_of_piece, of_piece in zip(states.float(), parts, strict=True):
        for part in of_piece:
            tokens = states_of_piece[part.first : part.last]
            vectors.append(part.vector)
            for mode in modes:
                value, weight = _pool(mode, tokens, part.first)
                found.append(value * part.weight)
                weights.append(weight * part.weight)
    if not found:
        hidden = states.shape[2]
        return [], np.empty((0, len(modes), hidden), np.float32), np.empty((0, len(modes)), np.float32)
    values = torch.stack(found).reshape(len(vectors), len(modes), -1)
    return vectors, values.cpu().numpy(), np.array(weights, np.float32).reshape(len(vectors), len(modes))


def _pool(mode: str, tokens: Float[Tensor, "tokens hidden"], first: int) -> tuple[Float[Tensor, " hidden"], float]:
    """Some tokens as a sum and its weight (of ``max``: the greatest numbers)."""
    count = len(tokens)
    match mode:
        case "max":
            return tokens.amax(0), 1.0
        case "cls":
            return tokens[0] * count, float(count)
        case "lasttoken":
            return tokens[-1] * count, float(count)
        case "weightedmean":
            places = torch.arange(first + 1, first + count + 1, device=tokens.device, dtype=tokens.dtype)
            return (tokens * places[:, None]).sum(0), float(places.sum())
        case _:
            return tokens.sum(0), float(count)


class Pool:
    """Vectors that are put together from parts.

    Args:
        modes: How each is pooled; the results of several are put one after the other.
        count: How many vectors there are.
        hidden: Numbers of a hidden state.
    """

    def __init__(self, modes: Sequence[str], count: int, hidden: int) -> None:
        self.modes: tuple[str, ...] = tuple(modes)
        self.values: np.ndarray = np.zeros((count, len(self.modes), hidden), np.float32)
        self.weights: np.ndarray = np.zeros((count, len(self.modes)), np.float32)
        for place, mode in enumerate(self.modes):
            if mode == "max":
                self.values[:, place] = -np.inf

    def add(
        self,
        vectors: list[int],
        values: Float[np.ndarray, "parts modes hidden"],
        weights: Float[np.ndarray, "parts modes"],
    ) -> None:
        """Add parts to vectors, each as often as it is named."""
        for place, mode in enumerate(self.modes):
            join = np.maximum if mode == "max" else np.add
            join.at(self.values[:, place], vectors, values[:, place])
            np.add.at(self.weights[:, place], vectors, weights[:, place])

    def vectors(self) -> Float[np.ndarray, "vectors pooled"]:
        """What has been put together."""
        for place, mode in enumerate(self.modes):
            if mode != "max":
                weights = self.weights[:, place, None]
                self.values[:, place] /= np.sqrt(weights) if mode == "mean_sqrt_len_tokens" else weights
        count, modes, hidden = self.values.shape
        return self.values.reshape(count, modes * hidden)


def stored(
    vectors: Float[np.ndarray, "vectors dim"], dtype: VectorDtype, ranges: Float[np.ndarray, "2 dim"] | None = None
) -> Shaped[np.ndarray, "vectors stored"]:
    """Vectors as they are stored.

    Args:
        vectors: Vectors.
        dtype: ``int8``: each number's place between the least and the greatest of its dimension, in 256 steps; what
            lies outside becomes the first or the last. ``binary``: a bit for each number, 1 if it is above 0, eight a
            byte, the first in the highest place.
        ranges: The least and the greatest number of each dimension, for ``int8``.
    """
    if dtype == "binary":
        return np.packbits(vectors > 0, axis=-1)
    if dtype != "int8":
        return vectors.astype(dtype)
    if ranges is None:
        raise ValueError("dtype=int8 needs ranges")
    low, high = ranges.astype(np.float32)
    steps = (high - low) / 255
    steps = np.where(steps == 0, 1, steps)
    return (np.clip(np.floor((vectors - low) / steps), 0, 255) - 128).astype(np.int8)


def ranges_of(vectors: Float[np.ndarray, "vectors dim"]) -> Float[np.ndarray, "2 dim"]:
    """The least and the greatest number of each dimension."""
    return np.stack([vectors.min(0), vectors.max(0)])


def read_ranges(folder: str, dim: int) -> Float[np.ndarray, "2 dim"]:
    """Ranges of an earlier run of ``embed``.

    Raises:
        ValueError: There are none, or of vectors of another size.
    """
    path = Path(folder) / RESULTS
    try:
        ranges = np.array(json.loads(path.read_text(encoding="utf-8"))["measured"]["ranges"], np.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"ranges={folder!r} holds no int8 embeddings: {path} has none; give the output folder of `linformers "
            "embed --dtype int8`"
        ) from error
    if ranges.shape != (2, dim):
        raise ValueError(f"ranges={folder!r} are of {ranges.shape[-1]} numbers, but a vector has {dim}")
    return ranges
