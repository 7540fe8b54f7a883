"""How benchmarks train small classifiers: to a number of steps or a time, on the device there is."""

import copy
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed

from linformers.classification.data import LengthBatches, by_length
from linformers.files.environment import command_line, describe_environment
from linformers.training import tensors
from linformers.training.engine import Batches, Engine, Objective
from linformers.training.history import History
from linformers.training.processes import Layout
from linformers.training.recipe import TrainingRecipe
from linformers.training.watchers import TrainProgress, Watcher

TRIAL = 21  # steps, from which the number that fits a time is told


class Examples(Protocol):
    """Labelled examples: how many, how long each, and batches of them (with ``labels``)."""

    labels: np.ndarray
    lengths: np.ndarray

    def batch(self, rows: Sequence[int], training: bool) -> dict[str, Tensor]:
        """Some of them; ``training`` may change them at random."""
        ...


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How to train.

    Args:
        steps: of the optimiser; None = as many as the time allows.
        seconds: of training, evaluations left out, by the speed of some steps of a copy of the model (on a CPU by
            the time that is spent on them, whatever else runs); None = as long as the steps take.
        batch_size: examples a step.
        learning_rate: the peak, after a tenth of the budget; then a cosine.
        weight_decay: of AdamW.
        evaluations: on the validation examples, evenly spread; the best weights are kept. 0 = keep the last.
    """

    steps: int | None = None
    seconds: float | None = None
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    evaluations: int = 0

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise ValueError("a budget needs steps, seconds or both")
        for name in ("steps", "seconds", "batch_size"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}: training would never end.")


def pick_device(name: str) -> torch.device:
    """``auto``: CUDA where there is one."""
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 on CUDA."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


class Clock(Watcher):
    """When each step ended, by the time that passes or by ``clock``."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.ends: list[float] = []
        self.clock = clock

    def step(self, history: History) -> None:
        """Note the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(self.clock())

    @property
    def seconds(self) -> list[float]:
        """Time of each step but the first."""
        return [end - start for start, end in pairwise(self.ends)]


class Accuracy(Objective):
    """The right class; its share among the validation examples chooses the weights that are kept."""

    metric, sign = "accuracy", 1

    def __init__(self, validation: Examples | None, batch_size: int, device: torch.device) -> None:
        self.validation, self.batch_size, self.device = validation, batch_size, device
        self.seconds = 0.0  # of measuring

    def measure(self, model: nn.Module) -> dict[str, float]:
        """The accuracy."""
        if self.validation is None:
            return {}
        begun = time.perf_counter()
        found = accuracy(model, self.validation, device=self.device, batch_size=self.batch_size)
        self.seconds += time.perf_counter() - begun
        return {"accuracy": found}


def train_classifier(
    model: PreTrainedModel,
    train: Examples,
    validation: Examples | None,
    budget: Budget,
    *,
    device: torch.device,
    seed: int,
    name: str,
    console: Console,
) -> dict[str, Any]:
    """Train a model in place.

    Returns:
        Steps, seconds of training, examples a second, and the accuracies on the way.
    """
    steps = budget.steps or sys.maxsize
    if budget.seconds is not None:
        clock = Clock(time.thread_time if device.type == "cpu" else time.perf_counter)
        _engine(copy.deepcopy(model), train, Accuracy(None, 1, device), budget, TRIAL, seed, [clock]).train()
        steps = min(steps, max(1, round(budget.seconds / statistics.mean(clock.seconds))))
    objective = Accuracy(validation if budget.evaluations else None, 2 * budget.batch_size, device)
    progress = TrainProgress(console, name, budget.batch_size, unit="examples")
    with tempfile.TemporaryDirectory() as folder:
        best = Path(folder) / "best"
        history = _engine(model, train, objective, budget, steps, seed, [progress], best).train()
        if device.type == "cuda":
            torch.cuda.synchronize()
        chosen = History.read(best).step if history.evaluations else None
        if chosen is not None:
            tensors.load_weights(model, best)
    found = [(step, metrics["accuracy"]) for step, metrics in history.evaluations]
    seconds = history.seconds - objective.seconds
    seen = f", validation {found[-1][1]:.4f}" if found else ""
    console.print(f"{name}: step {steps}, loss {history.losses[-1][1]:.4f}{seen}; {steps / seconds:.1f} steps/s")
    return {
        "steps": steps,
        "seconds": round(seconds, 2),
        "examples_per_second": round(steps * budget.batch_size / seconds, 1),
        "best": None if chosen is None else {"accuracy": dict(found)[chosen], "step": chosen},
        "evaluations": found,
    }


def _engine(
    model: PreTrainedModel,
    train: Examples,
    objective: Accuracy,
    budget: Budget,
    steps: int,
    seed: int,
    watchers: Sequence[Watcher],
    best: Path | None = None,
) -> Engine:
    set_seed(seed)  # of what changes examples at random
    training = TrainingRecipe(
        steps=steps,
        batch_size=budget.batch_size,
        learning_rate=budget.learning_rate,
        schedule="cosine",
        warmup_share=0.1,
        weight_decay=budget.weight_decay,
        epsilon=1e-8,
        evaluate_every=max(1, steps // max(budget.evaluations, 1)),
        log_every=max(1, min(100, steps // 10)),
        seed=seed,
    )
    order = LengthBatches(train.lengths, budget.batch_size, steps, seed)
    rows: Any = range(len(train.labels))
    batches = Batches(rows, order, lambda some: train.batch(some, True))
    return Engine(
        model, objective, training, batches, layout=Layout(device=objective.device), best=best, watchers=watchers
    )


@torch.no_grad()
def accuracy(model: nn.Module, data: Examples, *, device: torch.device, batch_size: int) -> float:
    """Share of examples whose highest logit is the right one."""
    model.eval()
    right = torch.zeros((), device=device, dtype=torch.long)
    for rows in by_length(data.lengths, batch_size):
        batch = {key: x.to(device) for key, x in data.batch(rows, False).items()}
        labels = batch.pop("labels")
        with precision(device):
            right += (model(**batch).logits.argmax(-1) == labels).sum()
    return right.item() / len(data.labels)


def measure_speed(
    model: nn.Module, data: Examples, *, device: torch.device, batch_size: int, seconds: float = 3.0
) -> float:
    """Examples a second without gradients, batches on the device already: median of passes over some of them."""
    model.eval()
    rows = by_length(data.lengths, batch_size)[:: max(len(data.labels) // (8 * batch_size), 1)]
    batches = [{key: x.to(device) for key, x in data.batch(some, False).items() if key != "labels"} for some in rows]
    count, taken = sum(map(len, rows)), []
    with torch.no_grad(), precision(device):
        while len(taken) < 4 or (sum(taken) < seconds and len(taken) < 50):
            begun = time.perf_counter()
            for batch in batches:
                model(**batch)
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - begun)
    return count / statistics.median(taken[1:])


def run_cells(
    cells: dict[str, Callable[[], dict[str, Any]]], folder: Path, console: Console, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Run what is not done yet, each into a file of its own in ``folder``, and give all results."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    done = sum((folder / f"{name}.json").is_file() for name in cells)
    made, todo = 0, len(cells) - done
    for name, cell in cells.items():
        path = folder / f"{name}.json"
        if path.is_file():
            continue
        result = cell() | {"environment": describe_environment(device)}
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(result, indent=1) + "\n")
        os.replace(unfinished, path)
        made += 1
        left = (time.perf_counter() - begun) / made * (todo - made)
        score = result.get("accuracy", result.get("perplexity"))
        console.print(f"[bold]{name}[/bold]: {score:.4f}; {made} of {todo}, {left / 60:.1f} min left")
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in cells}


def write_results(path: Path, console: Console, device: torch.device, **found: Any) -> None:
    """A result file: the command, the machine, and what was found."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"command": command_line(), "environment": describe_environment(device)}
    path.write_text(json.dumps(facts | found, indent=1) + "\n")
    console.print(f"written: {os.path.relpath(path)}")
