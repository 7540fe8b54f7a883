"""Figure 3: held-out perplexity against steps and time, by k, sharing and length.

Every cell is a recipe with few changes, run by ``linformers pretrain`` (in this process, or some at a time): finished
cells are kept, interrupted ones go on. Time is not taken from those runs, which may share the machine, but from steps
of each cell measured alone afterwards: stage by stage, medians over interleaved rounds.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console

from linformers import LinformerForMaskedLM
from linformers.commands.pretrain import run_recipe
from linformers.report import plots, words
from linformers.report.document import Block, Chart, Table
from linformers.reproduce import claims, tiny
from linformers.reproduce.cells import Cell, Context, stop_if
from linformers.reproduce.scales import Figure3Scale, Scale, recipes_folder
from linformers.training.corpus import cut_steps
from linformers.training.recipe import Recipe, Stage, load_recipe
from linformers.training.stopping import STOPPED_BY

TITLE = "Figure 3: pretraining"
EXCERPT = "excerpt"  # of the shipped books, in place of a source


def grid(scale: Figure3Scale) -> dict[str, list[str]]:
    """All cells: name to recipe and changes."""
    cells = {name: [str(part) for part in parts] for name, parts in scale.cells.items()}
    seeds = {f"{name}-seed{seed}": (name, seed) for seed in scale.seeds for name in scale.seeded}
    return cells | {name: [*cells[base], f"training.seed={seed}"] for name, (base, seed) in seeds.items()}


def recipe_of(name: str, scale: Figure3Scale, context: Context, folder: Path | str = "") -> Recipe:
    """The recipe of a cell."""
    base, *changes = grid(scale)[name]
    changes += [*scale.changes, f"output.folder={json.dumps(str(folder))}", "output.report_to=none"]
    if scale.sources == (EXCERPT,):
        excerpt = tiny.write_excerpt(context.folder / "tiny" / "excerpt.jsonl")
        changes += [
            f"data.train=[{json.dumps(str(excerpt))}]",
            f"data.cache={json.dumps(str(excerpt.parent / 'tokens'))}",
        ]
    elif scale.sources and context.data is not None:
        changes.append(f"data.train={json.dumps([str(context.data / source) for source in scale.sources])}")
    return load_recipe(recipes_folder() / scale.recipes / f"{base}.yaml", changes)


def cell_of(name: str, scale: Figure3Scale, context: Context) -> Cell:
    """Where a cell is kept."""
    values = recipe_of(name, scale, context).as_dict()
    values["data"]["cache"] = None
    if scale.sources:
        values["data"]["train"] = list(scale.sources)
    return context.cell(f"figure3-{name}", values)


def check(scale: Scale, context: Context) -> None:
    """Whether all recipes load and their text is there."""
    size = scale.figure3
    if size.sources and size.sources != (EXCERPT,):
        context.need("figure3", size.sources)
    for name in grid(size):
        recipe_of(name, size, context)


def train(names: Sequence[str], scale: Figure3Scale, context: Context) -> None:
    """Train the cells that are not finished, some at a time."""
    cells = {name: cell_of(name, scale, context) for name in names}
    todo = [name for name in names if cells[name].found is None]
    if len(todo) < len(names):
        context.say(f"{len(names) - len(todo)} of {len(names)} cells are trained already")
    start, done = time.perf_counter(), 0
    processes = Processes()

    def one(name: str) -> None:
        nonlocal done
        cell = cells[name]
        recipe = recipe_of(name, scale, context, cell.run)
        _pretrain(recipe, cell, scale, processes)
        results = json.loads((cell.run / "results.json").read_text(encoding="utf-8"))
        kept = {key: results[key] for key in ("evaluations", "parameters", "seconds", "steps", "tokens")}
        cell.keep(kept)
        done += 1
        left = (time.perf_counter() - start) / done * (len(todo) - done)
        perplexity = results["best"]["perplexity"]
        context.say(f"{name}: perplexity {perplexity:.2f}; {done}/{len(todo)}, {words.seconds(left)} left")

    pool = ThreadPoolExecutor(scale.jobs) if scale.launch else None
    if pool is None:  # signals reach only the main thread
        for name in todo:
            one(name)
        return
    with processes.ending_with_this_one(pool):
        list(pool.map(one, todo))


class Processes:
    """Processes that end with this one: SIGTERM reaches it alone, while Ctrl-C reaches all.

    Where a cell fails no other is begun, and those that run come to their end.
    """

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[str]] = set()
        self.over = False  # none is begun any more
        self.lock = threading.RLock()  # a signal may come while this thread holds it

    def run(self, command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
        """Its exit code and what it says.

        Raises:
            SystemExit: None is to be begun any more.
        """
        pipe = subprocess.PIPE
        with self.lock:
            if self.over:
                raise SystemExit
            process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
            self.running.add(process)
        try:
            said, errors = process.communicate()
        finally:
            self.running.discard(process)
        self.over = self.over or process.returncode != 0
        return process.returncode, said, errors

    @contextmanager
    def ending_with_this_one(self, pool: ThreadPoolExecutor) -> Iterator[None]:
        """For as long as a pool runs them."""

        def stop(number: int, frame: object) -> NoReturn:
            with self.lock:
                self.over = True
                for process in tuple(self.running):
                    process.terminate()
            raise SystemExit(STOPPED_BY[number])

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            self.over = True
            try:
                pool.shutdown(cancel_futures=True)
            finally:
                signal.signal(signal.SIGTERM, before)


def _pretrain(recipe: Recipe, cell: Cell, scale: Figure3Scale, processes: Processes) -> None:
    if not scale.launch:
        stop_if(run_recipe(recipe, console=Console(quiet=True)))
        return
    cell.path.mkdir(parents=True, exist_ok=True)
    path = cell.path / "recipe.yaml"
    path.write_text(recipe.as_yaml(), encoding="utf-8")
    threads = str(max((os.cpu_count() or 1) // scale.jobs, 1))
    command = [sys.executable, "-m", *scale.launch, "pretrain", str(path)]
    code, said, errors = processes.run(command, {**os.environ, "OMP_NUM_THREADS": threads})
    stop_if(code if code in STOPPED_BY.values() else 0)
    if code:
        raise RuntimeError(f"{path} failed: {said[-500:]} {errors[-2000:]}")


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """Its lengths with their shares of the steps."""
    return recipe.data.stages or (Stage(length=recipe.data.length, share=1.0),)


class Stepper:
    """A cell's model, ready to take training steps on random tokens of any of its lengths."""

    tokens: int
    device: torch.device
    vocabulary: int

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        torch.manual_seed(0)
        training = recipe.training
        rows = training.micro_batch_size or training.batch_size
        self.passes: float = training.batch_size / rows  # of a step; their time is what one takes, times their number
        self.tokens, self.device = rows * recipe.data.length, device
        self.vocabulary = recipe.tokenizer.vocab_size
        model: Any = LinformerForMaskedLM(recipe.config(vocab_size=self.vocabulary))
        self.model: Any = model.train().to(device)
        self.optimizer: torch.optim.AdamW = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def seconds(self, length: int, steps: int = 3) -> float:
        """Of one step, the median of a few."""
        ids = torch.randint(5, self.vocabulary, (self.tokens // length, length), device=self.device)
        labels = torch.where(torch.rand(ids.shape, device=self.device) < 0.15, ids, -100)
        taken = []
        for _ in range(steps):
            start = time.perf_counter()
            self.model(ids, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            taken.append(time.perf_counter() - start)
        return statistics.median(taken) * self.passes


def measure_steps(names: Sequence[str], scale: Figure3Scale, context: Context) -> dict[str, dict[str, float]]:
    """Seconds a step of each cell at each of its lengths; cells that differ in their seed share them."""
    kinds = {name: name.partition("-seed")[0] for name in names}
    recipes = {kind: recipe_of(kind, scale, context) for kind in dict.fromkeys(kinds.values())}
    identity = {"rounds": scale.rounds, "cells": {kind: cell_of(kind, scale, context).fingerprint for kind in recipes}}
    cell = context.cell("figure3-steps", identity)
    kept = cell.found
    if kept is None:
        context.say("measuring steps, one cell after another; other programs on this machine would falsify it")
        device = torch.device(context.device)
        steppers = {kind: Stepper(recipe, device) for kind, recipe in recipes.items()}
        taken: dict[str, dict[int, list[float]]] = {kind: {} for kind in recipes}
        for turn in range(scale.rounds + 1):
            for kind, recipe in recipes.items():
                for stage in stages_of(recipe):
                    elapsed = steppers[kind].seconds(stage.length)
                    if turn:  # one round of warm-up
                        taken[kind].setdefault(stage.length, []).append(elapsed)
            context.say(f"timing: round {turn} of {scale.rounds}")
        medians = {kind: {n: statistics.median(x) for n, x in by_n.items()} for kind, by_n in taken.items()}
        kept = cell.keep(medians)
    return {name: kept[kind] for name, kind in kinds.items()}


def seconds_at(step: int, recipe: Recipe, step_seconds: dict[str, float]) -> float:
    """Time of the first steps of a run."""
    total, left, stages = 0.0, step, stages_of(recipe)
    for stage, steps in zip(stages, cut_steps(stages, recipe.training.steps), strict=True):
        total += min(steps, left) * step_seconds[str(stage.length)]
        left -= min(steps, left)
    return total


def run(scale: Scale, context: Context) -> dict[str, Any]:
    """Train, then measure the steps."""
    size = scale.figure3
    names = list(grid(size))
    train(names, size, context)
    steps = measure_steps(names, size, context)
    found: dict[str, Any] = {}
    for name in names:
        recipe, results = recipe_of(name, size, context), cell_of(name, size, context).found
        assert results is not None
        evaluations = [
            {"steps": step, "seconds": seconds_at(step, recipe, steps[name]), "perplexity": entry["perplexity"]}
            for step, entry in results["evaluations"]
        ]
        base, *changes = grid(size)[name]
        found[name] = {
            "recipe": [base, changes],
            "length": recipe.data.length,
            "parameters": results["parameters"],
            "perplexity": evaluations[-1]["perplexity"],
            "seconds": evaluations[-1]["seconds"],
            "step_seconds": steps[name],
            "evaluations": evaluations,
        }
    context.notes.append(
        "perplexities after equal steps; seconds are those of all steps, measured alone on random tokens; where "
        "training sequences grow, the last positions of an evaluation are unlearned until they have full length"
    )
    return {"cells": found, "compare": size.compare}


def evidence(results: dict[str, Any]) -> list[claims.Evidence]:
    """Claims (a) to (d)."""
    return claims.of_figure3(results["cells"], results["compare"])


def compare(results: dict[str, Any]) -> Table:
    """Perplexities."""
    told = results["compare"]
    told = {*(told.get(key) for key in ("quarter", "unshared", "layerwise")), *told.get("dims", {}).values()}
    told |= set(results["compare"].get("lengths", {}).values())
    rows = [
        (
            name,
            f"{cell['length']:,}",
            f"{cell['perplexity']:.2f}",
            words.seconds(cell["seconds"]),
            "about that of the Transformer" if name in told else "-",
        )
        for name, cell in results["cells"].items()
    ]
    head = ("cell", "n", "held-out perplexity", "time of all steps", "published")
    return Table(caption="Pretraining", head=head, rows=rows)


def blocks(results: dict[str, Any]) -> list[Block]:
    """Charts."""
    cells = {name: cell for name, cell in results["cells"].items() if "-seed" not in name}
    shortest = min(cell["length"] for cell in cells.values())
    shown = [name for name, cell in cells.items() if cell["length"] == shortest]
    found: list[Block] = []
    for unit in ("steps", "seconds"):
        rows = [(name, entry[unit], entry["perplexity"]) for name in shown for entry in cells[name]["evaluations"]]
        lines = {
            plots.plain(name): tuple(zip(*((x, y) for n, x, y in rows if n == name), strict=True)) for name in shown
        }
        ends = ", ".join(f"{name} {cells[name]['perplexity']:.1f}" for name in shown)
        found.append(
            Chart(
                name=f"perplexity-by-{unit}",
                picture=plots.plot_lines(lines, f"{unit} of training", "held-out perplexity", log_y=True),
                alt=f"Lines of held-out perplexity against {unit}; at the end: {ends}.",
                caption=f"Held-out perplexity against {unit}, n = {shortest:,}.",
                head=("cell", unit, "perplexity"),
                rows=rows,
            )
        )
    by_length = results["compare"].get("by_length", {})
    rows = [
        (label, cells[name]["length"], cells[name]["perplexity"])
        for label, names in by_length.items()
        for name in names
        if name in cells
    ]
    if rows:
        lines = {
            label: tuple(zip(*((n, y) for name, n, y in rows if name == label), strict=True))
            for label in dict.fromkeys(label for label, *_ in rows)
        }
        found.append(
            Chart(
                name="perplexity-by-length",
                picture=plots.plot_lines(lines, "sequence length, tokens", "held-out perplexity", log_x=True),
                alt="Lines of held-out perplexity at the end against the length; the table has the numbers.",
                caption="Held-out perplexity at the end, at one k, by the length of sequences.",
                head=("attention", "n", "perplexity"),
                rows=rows,
            )
        )
    return found
