"""A whole benchmark: what ``linformers benchmark`` and the scripts of ``benchmarks/`` do."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from linformers.checks import check_int
from linformers.files.run_folder import RESULTS
from linformers.files.settings import Count, Positive, StrictModel
from linformers.measure import show
from linformers.measure.cell import Measurement, Workload
from linformers.measure.contenders import Contender, notes
from linformers.measure.memory import DoesNotFit, gigabytes
from linformers.measure.results import LEFT_OUT, PLOT, TABLE, Results, Row, identity
from linformers.measure.sweep import largest_batch, run_cell
from linformers.report.words import seconds as in_words


class BenchmarkSettings(StrictModel):
    """How cells are measured.

    Args:
        batch_size: Sequences at once.
        memory: Bytes that weights and peak may take: the largest batch that fits is measured, whatever ``batch_size``.
        device: The device: ``cpu`` or ``cuda``.
        dtype: The type of weights and activations.
        compile: Whether the encoder runs through ``torch.compile``.
        training: Whether a pass is forward, backward and a step of AdamW, not forward alone.
        repeats: Passes of a cell at most; the first is not counted.
        cell_seconds: Seconds after which no further pass of a cell starts.
        pass_limit: Seconds of the longest pass; cells where one would take longer, judged by shorter lengths, are left
            out.
        seed: The seed of weights and tokens.
    """

    batch_size: Count = 1
    memory: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    training: bool = False
    repeats: Count = 5
    cell_seconds: Positive = 5.0
    pass_limit: Positive = 120.0
    seed: int = 0

    def _check(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device='cuda', but PyTorch sees no GPU here: use cpu, or a CUDA build of PyTorch")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure: every contender at every length.

    Args:
        contenders: the encoders, ours first.
        lengths: tokens.
        reference: name of the contender that ratios are formed to.
        settings: how.
        options: whatever else decides the results, and must be the same throughout a table.
    """

    contenders: Sequence[Contender]
    lengths: Sequence[int]
    reference: str | None = None
    settings: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for length in self.lengths:
            check_int("lengths", length)
        names = [contender.name for contender in self.contenders]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is named twice: name it once")

    def cells(self) -> list[tuple[Contender, int]]:
        """All of them, shortest first; more slots than tokens compress nothing and are left out."""
        return [(c, n) for n in sorted(set(self.lengths)) for c in self.contenders if c.compresses(n)]

    def task(self, contender: Contender, length: int) -> Workload:
        """The measurement of one cell."""
        settings = self.settings
        return Workload(
            name=contender.name,
            model_type=contender.model_type,
            fields=contender.fields_at(length),
            length=contender.padded(length),
            eager=contender.eager,
            batch_size=settings.batch_size,
            device=settings.device,
            dtype=settings.dtype,
            compile=settings.compile,
            training=settings.training,
            repeats=settings.repeats,
            seconds_limit=settings.cell_seconds,
            seed=settings.seed,
        )


def run_benchmark(plan: Plan, output: Path, console: Console) -> list[Row]:
    """Measure what the folder does not hold yet, and show all that was asked for; see ``measure_plan``."""
    rows = measure_plan(plan, output, console)
    show.save_plot(rows, output / PLOT)
    show.table(rows, plan.reference, console)
    console.print(
        "\n".join([*about(plan.settings), *notes(plan.contenders)])
        + f"\nTable: {output / TABLE}\nAll figures, machine and versions: {output / RESULTS}\nPlot: {output / PLOT}",
        highlight=False,
        soft_wrap=True,
    )
    return rows


def measure_plan(plan: Plan, output: Path, console: Console) -> list[Row]:
    """Measure what the folder does not hold yet.

    Returns:
        The rows of the plan: the fields of ``Measurement``, and a problem where there was no measuring.

    Raises:
        ValueError: the folder holds something else, or cells of another machine, of other versions or options.
    """
    settings = plan.settings
    options = {**settings.model_dump(), **plan.options}
    options.pop("pass_limit")  # decides which cells there are, not what they hold
    results = Results(output, identity(settings.device, options))
    with results.opened():
        results.notes = list(dict.fromkeys([*about(settings), *results.notes, *notes(plan.contenders)]))
        cells = plan.cells()
        todo = [(c, n) for c, n in cells if results.find(c.name, n) is None]
        if len(todo) < len(cells):
            console.print(f"{len(cells) - len(todo)} of {len(cells)} cells are in {output} already", highlight=False)
        clock = _Clock(plan, results)
        for number, (contender, length) in enumerate(todo):
            with console.status(f"{contender.name}, {length:,} tokens"), clock:
                row = _measure(plan, contender, length, results)
            if number == 0 and not row["problem"]:
                clock.overhead = []  # it also paid for the start of the server
            left = clock.left(todo[number + 1 :])
            console.print(f"{number + 1}/{len(todo)} {show.line(row)}{left}", highlight=False, soft_wrap=True)
        return [row for c, n in cells if (row := results.find(c.name, n)) is not None]


def about(settings: BenchmarkSettings) -> list[str]:
    """What was measured, and how."""
    what = "forward, backward and an AdamW step" if settings.training else "forward pass in inference mode"
    batch = f"batch {settings.batch_size}" if settings.memory is None else "largest batch that fits"
    held = "weights and optimizer state" if settings.training else "weights"
    compiled = ", torch.compile" if settings.compile else ""
    found = [
        f"{what}, {batch}, {settings.device}, {settings.dtype}{compiled}; random weights and tokens, no dropout",
        "seconds: medians, with the fastest and the slowest pass; each cell in a process of its own, so that cells "
        "cannot be interleaved: a slow spell of the machine hits one of them",
        f"peak_bytes: beyond {held}, by "
        + ("PyTorch's allocator" if settings.device == "cuda" else "the process's resident set"),
    ]
    if settings.memory is not None:
        found.append(f"batch_size: the largest whose weights and peak fit into {gigabytes(settings.memory)}")
    return found


def _measure(plan: Plan, contender: Contender, length: int, results: Results) -> Row:
    """Measure one cell, or find that it cannot be."""
    settings, name = plan.settings, contender.name
    expected = predicted_seconds(results.measured(name), length)
    if expected is not None and expected > settings.pass_limit:
        problem = f"{LEFT_OUT}: a pass would take about {in_words(expected)} (pass_limit {settings.pass_limit:g} s)"
        return results.add(None, name, length, problem)
    task = plan.task(contender, length)
    try:
        cell: Measurement = run_cell(task) if settings.memory is None else largest_batch(task, settings.memory)
    except DoesNotFit as error:
        return results.add(None, name, length, f"does not fit: {error}")
    except (ValueError, TypeError, RuntimeError) as error:
        if task.model_type != "linformer":  # not ours to mend: Nystromformer takes no bfloat16
            return results.add(None, name, length, f"fails: {str(error).strip().splitlines()[0]}")
        raise RuntimeError(f"{name} fails at {length:,} tokens: {error}") from error
    return results.add(cell, name, length)


def predicted_seconds(rows: Sequence[Row], length: int) -> float | None:
    """Seconds of a pass, from how they grew over the two longest of the shorter lengths; None without any."""
    shorter = [row for row in rows if row["length"] < length]
    if not shorter:
        return None
    last, exponent = shorter[-1], 1.0
    # Per sequence, as the largest batches differ from length to length.
    each = [row["seconds"] / row["batch_size"] for row in shorter]
    if len(shorter) > 1:
        growth = math.log(each[-1] / each[-2]) / math.log(last["length"] / shorter[-2]["length"])
        exponent = min(max(growth, 1.0), 2.0)
    batch = max(last["batch_size"] * last["length"] // length, 1) if last["batch_size"] > 1 else 1
    return each[-1] * (length / last["length"]) ** exponent * batch


class _Clock:
    """Tells how long the rest will take: passes by their growth, and what each cell takes beside its passes."""

    def __init__(self, plan: Plan, results: Results) -> None:
        self.plan, self.results = plan, results
        self.overhead: list[float] = []

    def __enter__(self) -> None:
        self.begin = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        row = self.results.rows[-1] if self.results.rows else None
        passes = (row["repeats"] + 1) * row["seconds"] if row and not row["problem"] else 0.0
        self.overhead.append(max(time.perf_counter() - self.begin - passes, 0.0))

    def left(self, todo: Sequence[tuple[Contender, int]]) -> str:
        """In words, for the end of a line."""
        if not todo or not self.overhead:
            return ""
        settings, total = self.plan.settings, 0.0
        for contender, length in todo:
            one = predicted_seconds(self.results.measured(contender.name), length)
            if one is not None and one <= settings.pass_limit:
                total += min(one * settings.repeats, settings.cell_seconds + one)
        return f" ({in_words(total + len(todo) * sum(self.overhead) / len(self.overhead))} left)"
