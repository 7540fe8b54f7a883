"""Measure cells, each in a fresh process: one, a sweep over lengths, or the largest batch that memory allows."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from typing import Any, TypeVar

import torch

from linformers.measure.cell import Measurement, Workload, measure_cell
from linformers.measure.memory import DoesNotFit, free_bytes, gigabytes

T = TypeVar("T")


def _context() -> Any:
    """A server that has imported torch and has never computed; every cell is forked from it.

    Peak memory needs a fresh process, but importing torch and transformers in each would take ten times as long as the
    measurements.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["linformers.measure.cell", "linformers.models"])
    return context


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a module in a process of its own.

    Raises:
        DoesNotFit: the process died.
    """
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
        process.join()
    except EOFError:
        process.join()
        raise DoesNotFit(f"its process died ({_fate(process.exitcode)}), most likely for want of memory") from None
    except BaseException:
        process.kill()
        raise
    finally:
        receiver.close()
    if isinstance(result, Exception):
        raise result
    return result


def _answer(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is answered by the parent, which ends this process
    try:
        result = function(*arguments)
    except Exception as error:
        result = ExceptionWithTraceback(error, error.__traceback__)
    sender.send(result)


def _fate(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def run_cell(task: Workload) -> Measurement:
    """Measure one cell without endangering the machine.

    Raises:
        DoesNotFit: it takes more memory than is free.
    """
    free = free_bytes(torch.device(task.device))
    scores = scores_bytes(task)
    if scores > free:
        raise DoesNotFit(f"takes {gigabytes(scores)} for its attention weights alone; {gigabytes(free)} are free")
    return in_fresh_process(measure_cell, replace(task, memory_limit=free))


def scores_bytes(task: Workload) -> int:
    """What written-out attention takes at its peak: scores of all pairs of tokens, their exponentials and weights."""
    heads = task.fields.get("num_attention_heads", 12)
    return 3 * 4 * task.batch_size * heads * task.length**2 if task.eager else 0


def measure(
    models: Mapping[str, Mapping[str, Any]],
    lengths: Sequence[int],
    *,
    device: str = "cpu",
    repeats: int = 5,
    cell_seconds: float = 1.5,
    total_seconds: float = 60.0,
    seed: int = 0,
    on_cell: Callable[[Measurement], None] = lambda cell: None,
) -> list[Measurement]:
    """Time and peak memory of a forward pass, for every model at every length, shortest first.

    Args:
        models: name and fields of the configuration of each, as its ``to_diff_dict`` gives them; ours without a
            ``model_type``.
        lengths: tokens.
        device: where to run.
        repeats: passes a cell at most.
        cell_seconds: no further pass of a cell starts after this.
        total_seconds: no further cell starts after this, but those of the shortest length; what is missing then, is
            the longest, and what does not fit into memory.
        seed: Seed of weights and tokens.
        on_cell: called with each result.
    """
    cells, start = [], time.perf_counter()
    for length in sorted(lengths):
        for name, fields in models.items():
            if length > min(lengths) and time.perf_counter() - start > total_seconds:
                return cells
            task = Workload(
                name=name,
                model_type=fields.get("model_type", "linformer"),
                fields={k: v for k, v in fields.items() if k not in ("model_type", "transformers_version")},
                length=length,
                device=device,
                repeats=repeats,
                seconds_limit=cell_seconds,
                seed=seed,
            )
            try:
                cells.append(run_cell(task))
            except DoesNotFit:
                continue
            on_cell(cells[-1])
    return cells


def largest_batch(task: Workload, memory: int) -> Measurement:
    """The cell of the largest batch whose weights and peak fit into ``memory`` bytes.

    Batches grow while they fit, then the gap is closed; the next trial is where a straight line through the last two
    peaks meets the limit, so that four or five trials take the place of doubling and bisection.

    Raises:
        DoesNotFit: not even one sequence does.
    """
    fits: Measurement | None = None
    peaks: list[tuple[int, int]] = []  # of the trials that could be measured
    too_many: int | None = None
    batch = 1
    while too_many is None or fits is None or too_many - fits.batch_size > 1:
        try:
            cell = run_cell(replace(task, batch_size=batch))
        except DoesNotFit:
            needed = None
        else:
            if cell.peak_bytes is None:
                raise OSError("this system does not tell how much memory a process takes: use --batch-size")
            needed = cell.weight_bytes + cell.peak_bytes
            peaks.append((batch, needed))
        if needed is not None and needed <= memory:
            fits = cell
        else:
            too_many = batch
            if batch == 1:
                takes = "more than there is" if needed is None else gigabytes(needed)
                raise DoesNotFit(f"one sequence takes {takes}")
        assert fits is not None
        batch = _next_batch(fits.batch_size, too_many, peaks, memory)
    return fits


def _next_batch(fits: int, too_many: int | None, peaks: list[tuple[int, int]], memory: int) -> int:
    """Where a straight line puts the limit; the middle where that is known to be wrong."""
    guess = batch_on_line(peaks, memory) or 2 * fits
    if too_many is None:
        return max(fits + 1, min(guess, 8 * fits))
    return max(guess, fits + 1) if fits <= guess < too_many else max((fits + too_many) // 2, fits + 1)


def batch_on_line(peaks: Sequence[tuple[int, int]], memory: int) -> int | None:
    """The largest batch that fits if memory goes on as between the two largest of these; None if it does not grow.

    Args:
        peaks: pairs of a batch and the bytes that it takes in all.
        memory: bytes that there are.
    """
    (b0, p0), (b1, p1) = sorted([(0, 0), *peaks])[-2:]
    return int(b1 + (memory - p1) * (b1 - b0) / (p1 - p0)) if p1 > p0 else None
