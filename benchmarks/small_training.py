"""How benchmarks train small classifiers: one plain loop, to a number of steps or a time, on the device there is."""

import copy
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import set_seed

from linformers.classification.data import LengthBatches, by_length
from linformers.files.environment import command_line, describe_environment

SAID_EVERY = 15.0  # seconds


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
        seconds: of training, evaluations left out; None = as long as the steps take. The rate follows whichever is
            nearer its end.
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

    def share(self, step: int, seconds: float) -> float:
        """How much of it is used up."""
        return max(step / self.steps if self.steps else 0.0, seconds / self.seconds if self.seconds else 0.0)


def pick_device(name: str) -> torch.device:
    """``auto``: CUDA where there is one."""
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 on CUDA."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def train_classifier(
    model: nn.Module,
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
    set_seed(seed)
    model.to(device).train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": budget.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=budget.learning_rate,
        betas=(0.9, 0.98),
        fused=device.type == "cuda",
    )
    batches = iter(LengthBatches(train.lengths, budget.batch_size, sys.maxsize, seed))
    found: list[tuple[int, float]] = []
    best: dict[str, Any] | None = None
    step, seconds, loss_sum, said = 0, 0.0, torch.zeros((), device=device), time.perf_counter()
    since = 0
    while (share := budget.share(step, seconds)) < 1:
        begun = time.perf_counter()
        rate = min(share / 0.1, 0.5 * (1 + math.cos(math.pi * (share - 0.1) / 0.9)) if share > 0.1 else 1)
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate * max(rate, 1e-3)
        batch = {key: x.to(device, non_blocking=True) for key, x in train.batch(next(batches), True).items()}
        with precision(device):
            loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss_sum += loss.detach()
        if budget.seconds is not None and device.type == "cuda" and step % 20 == 0:
            torch.cuda.synchronize()
        step, since = step + 1, since + 1
        seconds += time.perf_counter() - begun
        share = budget.share(step, seconds)
        if budget.evaluations and validation and share * budget.evaluations >= len(found) + 1:
            found.append((step, accuracy(model, validation, device=device, batch_size=2 * budget.batch_size)))
            if best is None or found[-1][1] > best["accuracy"]:
                best = {"accuracy": found[-1][1], "step": step, "weights": copy.deepcopy(model.state_dict())}
            model.train()
        now = time.perf_counter()
        if now - said > SAID_EVERY or share >= 1:
            seen = f", validation {found[-1][1]:.4f}" if found else ""
            left = seconds * (1 - share) / share if share else 0
            console.print(
                f"{name}: step {step}, loss {loss_sum.item() / since:.4f}{seen}; {step / seconds:.1f} steps/s, "
                f"{left:.0f} s left"
            )
            said, since = now, 0
            loss_sum.zero_()
    if device.type == "cuda":
        torch.cuda.synchronize()
    if best is not None:
        model.load_state_dict(best.pop("weights"))
    return {
        "steps": step,
        "seconds": round(seconds, 2),
        "examples_per_second": round(step * budget.batch_size / seconds, 1),
        "best": best,
        "evaluations": found,
    }


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
