"""Measure encoders over lengths, each cell in a fresh process, within a limit on the total time."""

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from typing import Any

from linformers.benchmark.cell import Cell, measure_cell


def _context() -> BaseContext:
    """A server that has imported torch and has never computed; every cell is forked from it.

    Peak memory needs a fresh process, but importing torch and transformers in each would take ten times as long as the
    measurements.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["linformers.benchmark.cell"])
    return context


def measure(
    models: Mapping[str, Mapping[str, Any]],
    lengths: Sequence[int],
    *,
    device: str = "cpu",
    repeats: int = 5,
    cell_seconds: float = 1.5,
    total_seconds: float = 60.0,
    seed: int = 0,
    on_cell: Callable[[Cell], None] = lambda cell: None,
) -> list[Cell]:
    """Time and peak memory of a forward pass, for every model at every length, shortest first.

    Args:
        models: name and ``LinformerConfig`` fields of each.
        lengths: tokens.
        device: where to run.
        repeats: passes a cell at most.
        cell_seconds: no further pass of a cell starts after this.
        total_seconds: no further cell starts after this, but those of the shortest length; what is missing then, is
            the longest.
        seed: of weights and tokens.
        on_cell: called with each result.
    """
    context, cells, start = _context(), [], time.perf_counter()
    for length in sorted(lengths):
        for name, config in models.items():
            if length > min(lengths) and time.perf_counter() - start > total_seconds:
                return cells
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                result = pool.submit(
                    measure_cell,
                    name,
                    dict(config),
                    length,
                    device=device,
                    repeats=repeats,
                    seconds_limit=cell_seconds,
                    seed=seed,
                ).result()
            cells.append(Cell(**result))
            on_cell(cells[-1])
    return cells
