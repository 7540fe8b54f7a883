"""Figure 3 of the Linformer paper at laptop scale: held-out perplexity against steps and against time.

    python benchmarks/figure3.py [--jobs 2] [--cells plain ...]     train what is not trained yet
    python benchmarks/figure3.py --time                             measure the steps, on a quiet machine, and write up

Every cell is a recipe of recipes/laptop with few changes, run by ``linformers pretrain`` in a process of its own into
``runs/figure3/<cell>``: finished cells are kept, interrupted ones go on. Time is not taken from those runs, which share
the machine, but from steps of each cell measured alone afterwards: stage by stage, medians over interleaved rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import torch
from rich.console import Console
from rich.table import Table

from linformers import LinformerForMaskedLM
from linformers.report.environment import command_line, describe_environment
from linformers.training.recipe import Recipe, Stage, load_recipe

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes" / "laptop"
LENGTHS = (512, 1024, 2048)
KINDS = {
    "softmax": ["model.attention_type=softmax", "model.local_window=0"],
    "linformer": [],
    "plain": ["model.local_window=0"],
}
SEEDED = ("linformer", "plain", "mean-pool", "softmax", "control")


def cells() -> dict[str, tuple[str, list[str]]]:
    """The grid: name to recipe and changes."""
    single = ("linformer", "plain", "k64", "k128", "mean-pool", "sharing-none", "sharing-headwise", "sharing-layerwise")
    grid: dict[str, tuple[str, list[str]]] = {name: (name, []) for name in (*single, "softmax", "kfree", "control")}
    grid |= {f"{kind}-n{n}": (f"n{n}", changes) for n in LENGTHS for kind, changes in KINDS.items()}
    grid |= {f"{name}-seed{seed}": (name, [f"training.seed={seed}"]) for seed in (1, 2) for name in SEEDED}
    return grid


def recipe_of(name: str, runs: Path) -> Recipe:
    """The recipe of a cell."""
    base, changes = cells()[name]
    return load_recipe(RECIPES / f"{base}.yaml", [*changes, f"output.folder={runs / name}"])


def train(names: list[str], runs: Path, jobs: int, console: Console) -> None:
    """Train the cells that are not finished, some at a time."""
    todo = [name for name in names if not (runs / name / "results.json").is_file()]
    threads = str(max((os.cpu_count() or 1) // jobs, 1))
    start, done = time.perf_counter(), 0

    def one(name: str) -> None:
        nonlocal done
        base, changes = cells()[name]
        command = [sys.executable, "-m", "linformers", "pretrain", str(RECIPES / f"{base}.yaml"), *changes]
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        run = subprocess.run(
            [*command, f"output.folder={runs / name}", "output.report_to=none"],
            capture_output=True,
            text=True,
            env=environment,
        )
        if run.returncode:
            raise RuntimeError(f"{name}: {run.stdout[-500:]} {run.stderr[-2000:]}")
        done += 1
        left = (time.perf_counter() - start) / done * (len(todo) - done)
        best = json.loads((runs / name / "results.json").read_text())["best"]
        console.print(f"{name}: perplexity {best['perplexity']:.2f}; {done}/{len(todo)}, {left / 60:.0f} min left")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, todo))


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """Its lengths with their shares of the steps."""
    return recipe.data.stages or (Stage(length=recipe.data.length, share=1.0),)


class Stepper:
    """A cell's model, ready to take training steps on random tokens of any of its lengths."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(0)
        self.tokens = recipe.training.batch_size * recipe.data.length
        self.vocabulary = recipe.tokenizer.vocab_size
        self.model = LinformerForMaskedLM(recipe.config(vocab_size=self.vocabulary)).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def seconds(self, length: int, steps: int = 3) -> float:
        """Of one step, the median of a few."""
        ids = torch.randint(5, self.vocabulary, (self.tokens // length, length))
        labels = torch.where(torch.rand(ids.shape) < 0.15, ids, -100)
        taken = []
        for _ in range(steps):
            start = time.perf_counter()
            self.model(ids, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)


def measure_steps(names: list[str], runs: Path, rounds: int, console: Console) -> dict[str, dict[int, float]]:
    """Seconds a step of each cell at each of its lengths; cells that differ in their seed share them."""
    kinds = {name: name.partition("-seed")[0] for name in names}
    steppers = {kind: (Stepper(recipe_of(kind, runs)), stages_of(recipe_of(kind, runs))) for kind in kinds.values()}
    taken: dict[tuple[str, int], list[float]] = {}
    for turn in range(rounds + 1):
        for kind, (stepper, stages) in steppers.items():
            for stage in stages:
                elapsed = stepper.seconds(stage.length)
                if turn:  # one round of warm-up
                    taken.setdefault((kind, stage.length), []).append(elapsed)
        console.print(f"timing: round {turn} of {rounds}")
    return {
        name: {length: statistics.median(kept) for (of, length), kept in taken.items() if of == kind}
        for name, kind in kinds.items()
    }


def seconds_at(step: int, recipe: Recipe, step_seconds: dict[int, float]) -> float:
    """Time of the first steps of a run."""
    total, done, share = 0.0, 0, 0.0
    for stage in stages_of(recipe):
        share += stage.share
        until = min(round(share * recipe.training.steps), step)
        total, done = total + max(until - done, 0) * step_seconds[stage.length], max(until, done)
    return total


def plot(found: dict[str, dict], path: Path) -> None:
    """Perplexity against steps and time; by length; by k and sharing."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 8), constrained_layout=True)
    shown = ("control", "softmax", "linformer", "plain", "mean-pool", "kfree")
    panels = [
        (axes[0, 0], "steps", shown),
        (axes[0, 1], "seconds", shown),
        (axes[1, 1], "seconds", [f"{kind}-n{LENGTHS[-1]}" for kind in KINDS]),
    ]
    for axis, unit, names in panels:
        for name in names:
            if name in found:
                x = [entry[unit] for entry in found[name]["evaluations"]]
                axis.plot(x, [entry["perplexity"] for entry in found[name]["evaluations"]], label=name)
        axis.set(xlabel=f"{unit} of training", ylabel="held-out perplexity", yscale="log", ylim=(8, 60))
        axis.set_yticks(ticks := [8, 10, 15, 20, 30, 40, 60], labels=map(str, ticks))
        axis.minorticks_off()
        axis.legend()
    lengths = [256, *LENGTHS]
    for kind in KINDS:
        there = [(n, found[name]["perplexity"]) for n in lengths if (name := kind + f"-n{n}" * (n > 256)) in found]
        axes[1, 0].plot(*zip(*there, strict=True), marker="o", label=kind)
    axes[1, 0].set(xlabel="sequence length, tokens (k = 32)", ylabel="held-out perplexity at the end", xscale="log")
    axes[1, 0].set_xticks(lengths, labels=map(str, lengths))
    axes[1, 0].minorticks_off()
    axes[1, 0].legend()
    figure.suptitle(
        "Training sequences grow to full length; until then the last positions of an evaluation are unlearned"
    )
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train, and with ``--time`` measure and write results/figure3-laptop.{json,png}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/figure3"), help="folder of the runs")
    parser.add_argument("--cells", nargs="+", choices=list(cells()), default=list(cells()), metavar="CELL")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--time", action="store_true", help="measure the steps and write the results")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "results")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    train(arguments.cells, arguments.runs, arguments.jobs, console)
    if not arguments.time:
        console.print(f"All cells are in {arguments.runs}. Next, on a quiet machine: figure3.py --time")
        return

    recipes = {name: recipe_of(name, arguments.runs) for name in arguments.cells}
    steps = measure_steps(arguments.cells, arguments.runs, arguments.rounds, console)
    found = {}
    for name, recipe in recipes.items():
        results = json.loads((arguments.runs / name / "results.json").read_text())
        evaluations = [
            {"steps": step, "seconds": seconds_at(step, recipe, steps[name]), "perplexity": entry["perplexity"]}
            for step, entry in results["evaluations"]
        ]
        found[name] = {
            "recipe": cells()[name],
            "length": recipe.data.length,
            "parameters": results["parameters"],
            "perplexity": evaluations[-1]["perplexity"],
            "seconds": evaluations[-1]["seconds"],
            "step_seconds": steps[name],
            "evaluations": evaluations,
        }
    table = Table(title="Held-out perplexity after equal steps; time of all steps, measured alone")
    for column in ("cell", "n", "perplexity", "seconds"):
        table.add_column(column, justify="left" if column == "cell" else "right")
    for name, cell in found.items():
        table.add_row(name, str(cell["length"]), f"{cell['perplexity']:.2f}", f"{cell['seconds']:.0f}")
    console.print(table)
    environment = describe_environment(torch.device("cpu"))
    path = arguments.output / "figure3-laptop.json"
    path.write_text(
        json.dumps({"command": command_line(), "environment": environment, "cells": found}, indent=1) + "\n"
    )
    plot(found, path.with_suffix(".png"))
    console.print(f"written: {os.path.relpath(path)}, {os.path.relpath(path.with_suffix('.png'))}")


if __name__ == "__main__":
    main()
