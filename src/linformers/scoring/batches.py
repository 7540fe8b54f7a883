"""Pieces of texts through a network: batches of like length under a budget of tokens, several at a time."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from linformers.scoring.networks import Network

ResultT = TypeVar("ResultT")


def run_batches(
    network: Network,
    windows: Sequence[np.ndarray],
    use: Callable[[list[int], Tensor | None, Tensor | None, Tensor | None], ResultT],
    seen: Callable[[int], None],
    kinds: Sequence[np.ndarray] | None = None,
) -> Iterator[tuple[list[int], ResultT]]:
    """What is made of all windows, batch by batch: the rows of each, and what ``use`` returns for them.

    Args:
        network: The model.
        windows: Token ids.
        use: Function of rows, logits, hidden states and mask (on the device of the states; None = no padding), which is
            called beside others.
        seen: hears how many tokens more are done.
        kinds: For pairs, which text each token belongs to; None = the model is not told.
    """
    lengths = np.array([len(window) for window in windows], dtype=np.int64)
    all_rows = batches(lengths, network.batch_tokens)
    limit = partial(torch.set_num_threads, network.threads)  # PyTorch's setting is each thread's own
    pad = network.tokenizer.pad_token_id or 0

    def run(rows: list[int]) -> ResultT:
        ids, mask = _pad([windows[row] for row in rows], pad)
        try:
            types = None if kinds is None else _pad([kinds[row] for row in rows], 0)[0]
            logits, states = network.run(ids, mask, types)
            return use(rows, logits, states, mask if mask is None or states is None else mask.to(states.device))
        except torch.OutOfMemoryError as error:
            raise ValueError(f"a batch of {ids.numel():,} tokens does not fit; lower --memory") from error

    with ThreadPoolExecutor(network.parallel, initializer=limit) as pool:
        for rows, found in zip(all_rows, pool.map(run, all_rows), strict=True):
            yield rows, found
            seen(int(lengths[rows].sum()))


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


def _pad(windows: Sequence[np.ndarray], pad: int) -> tuple[Tensor, Tensor | None]:
    longest = max(map(len, windows))
    ids = torch.full((len(windows), longest), pad)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = torch.from_numpy(window)
    if all(len(window) == longest for window in windows):
        return ids, None
    lengths = torch.tensor([len(window) for window in windows])
    return ids, torch.arange(longest) < lengths[:, None]
