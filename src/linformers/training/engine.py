"""The training loop: pretraining, fine-tuning, distillation, the quickstart and the benchmarks all run this one.

Nothing random outlives a step: order and masks come from (seed, epoch, example), dropout from (seed, step, process). So
a checkpoint holds weights, optimiser and history, and a run that goes on from it equals one that never stopped.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.utils.data import DataLoader, Dataset
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from linformers.files.checkpoints import Checkpoints
from linformers.files.folders import write_folder
from linformers.models.resize import tie_positions
from linformers.training import tensors
from linformers.training.history import History
from linformers.training.processes import Layout, layers_of, split_batch, spread
from linformers.training.recipe import TrainingRecipe
from linformers.training.stopping import StopOnSignal
from linformers.training.watchers import Watcher

Batch = dict[str, Tensor]


class Objective:
    """What a model is to learn, and how well it has; of itself, the loss that the model computes.

    Attributes:
        metric: Name of the metric that chooses the best weights.
        sign: 1 where more of it is better, -1 where less is.
    """

    metric: str = "loss"
    sign: int = -1

    def items(self, batch: Batch) -> int:
        """Number of things that the loss is a mean over, in a batch."""
        return 1

    def loss(self, model: nn.Module, batch: Batch, items: int, step: int) -> Tensor:
        """A batch's part of the loss: its sum over what there is, divided by the ``items`` of the whole step."""
        return model(**batch).loss / items

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Metrics on held-out items, ``loss`` among them; nothing where none are held out."""
        return {}


class Batches:
    """The micro-batches of a run, from any of them on.

    Args:
        dataset: items.
        order: items of each micro-batch; of an iterable data set, the number of them.
        collate: makes a batch of items.
        workers: processes that prepare batches.
    """

    dataset: Dataset[Any]
    order: Iterable[list[int]] | int

    def __init__(self, dataset: Dataset[Any], order: Iterable[list[int]] | int, collate: Any, workers: int = 0) -> None:
        self.dataset, self.order = dataset, order
        self.options: dict[str, Any] = {"collate_fn": collate, "num_workers": workers}

    def starting_at(self, number: int) -> Iterator[Batch]:
        """The micro-batches after the first ``number``."""
        if isinstance(self.order, int):  # what is skipped must be read
            return islice(DataLoader(self.dataset, batch_size=self.order, **self.options), number, None)
        return iter(DataLoader(self.dataset, batch_sampler=islice(self.order, number, None), **self.options))


class Engine:
    """Trains a model in place.

    Args:
        model: Model with the weights to start from.
        objective: What it is to learn.
        training: How long, how fast, and on what.
        batches: What it learns from.
        layout: This process among the others.
        rates: Peaks of the rate of parameters whose names begin so, where they are not the recipe's.
        checkpoints: Where to write checkpoints; None writes none.
        checkpoint: The one to go on from.
        best: Folder for the weights with the best evaluation; None keeps the last ones.
        measure_start: Whether to evaluate before the first step, so that a run that makes nothing better changes
            nothing.
        signals: What may ask for an end.
        watchers: What watches the run.
    """

    plain: PreTrainedModel
    objective: Objective
    training: TrainingRecipe
    batches: Batches
    layout: Layout
    checkpoints: Checkpoints | None
    best: Path | None
    measure_start: bool
    signals: StopOnSignal | None
    watchers: Sequence[Watcher]
    unlogged: Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        objective: Objective,
        training: TrainingRecipe,
        batches: Batches,
        *,
        layout: Layout,
        rates: Mapping[str, float] | None = None,
        checkpoints: Checkpoints | None = None,
        checkpoint: Path | None = None,
        best: Path | None = None,
        measure_start: bool = False,
        signals: StopOnSignal | None = None,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.plain, self.objective, self.training, self.batches = model, objective, training, batches
        self.layout, self.checkpoints, self.best = layout, checkpoints, best
        self.measure_start, self.signals, self.watchers = measure_start, signals, watchers
        self.accumulation: int = split_batch(training, layout)[1]
        self.bf16: bool = uses_bfloat16(training.precision, layout.device)
        self.history = History()
        if checkpoint is not None:
            tensors.load_weights(model, checkpoint)
            self.history: History = History.read(checkpoint)
        self.ties: list[RemovableHandle] = tie_positions(model)
        if training.activation_checkpointing:
            # transformers' older releases have the other name only, newer ones warn of it.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        if training.compile:
            for layer in layers_of(model):  # one compilation serves all layers
                layer.compile()
        self.model: nn.Module = spread(model, training.sharding, layout)
        self.optimizer: AdamW = AdamW(
            parameter_groups(model, training, rates or {}),
            betas=(training.beta1, training.beta2),
            eps=training.epsilon,
            fused=True,
        )
        if checkpoint is not None:
            tensors.load_optimizer(model, self.optimizer, checkpoint)
        self.unlogged = torch.tensor(self.history.unlogged if layout.rank == 0 else 0.0, device=layout.device)

    def train(self) -> History:
        """Take the steps that are left, and tell what happened on the way."""
        history, training = self.history, self.training
        started = time.perf_counter() - history.seconds
        batches = self.batches.starting_at(history.step * self.accumulation)
        try:
            for watcher in self.watchers:
                watcher.begin(history, training.steps)
            if self.measure_start and history.step == 0:
                self._evaluate()
            stopped = False
            while not (stopped or self.is_over()):
                self._step(batches)
                history.step, history.seconds = history.step + 1, time.perf_counter() - started
                if self._due(training.log_every):
                    self._log()
                for watcher in self.watchers:
                    watcher.step(history)
                if self._due(training.evaluate_every):
                    self._evaluate()
                stopped = self.signals is not None and self.signals.received_by_any()
                if self._due(training.save_every) or stopped or self.is_over():
                    self._save()
        finally:
            for tie in self.ties:
                tie.remove()
            for watcher in self.watchers:
                watcher.end()
        return history

    def is_over(self) -> bool:
        """Whether all steps are done, or evaluations have long been no better."""
        since = self.history.evaluations_since_best(self.objective.metric, self.objective.sign)
        patience = self.training.early_stopping
        return self.history.step >= self.training.steps or (patience is not None and since >= patience)

    def _due(self, every: int) -> bool:
        return self.history.step % every == 0 or self.history.step >= self.training.steps

    # --- a step

    def _step(self, batches: Iterator[Batch]) -> None:
        step, layout = self.history.step, self.layout
        words = np.random.SeedSequence((self.training.seed, step, layout.rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0] >> 1))
        parts = [layout.stretch(batch) for batch in islice(batches, self.accumulation)]
        if len(parts) < self.accumulation:
            raise ValueError(
                f"the data end after step {step} of steps={self.training.steps}; give more, or lower steps"
            )
        factor = rate_factor(self.training, step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        items = max(1, round(layout.total(sum(self.objective.items(part) for part in parts))[0]))
        self.model.train()
        for number, part in enumerate(parts, start=1):
            on_device = {name: tensor.to(layout.device, non_blocking=True) for name, tensor in part.items()}
            with layout.shared_sequence(), self._adding_up(last=number == len(parts)):
                with self._precision():
                    loss = self.objective.loss(self.model, on_device, items, step)
                (loss * layout.world).backward()  # other processes' gradients are averaged, and not added up
            self.unlogged += loss.detach()
        self.norm: Tensor = nn.utils.clip_grad_norm_(self.model.parameters(), self.training.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _adding_up(self, last: bool) -> AbstractContextManager[Any]:
        """Until the last micro-batch of a step, gradients stay where they are."""
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(last)
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.layout.device.type, torch.bfloat16, enabled=self.bf16)

    # --- what is kept of the run

    def _log(self) -> None:
        history = self.history
        mean = self._total_unlogged() / (history.step - history.logged)
        if not math.isfinite(mean):
            raise ValueError(
                f"the training loss is {mean} after step {history.step}: the run has diverged. Start it anew, in "
                "another folder, with a lower learning_rate"
            )
        norm: Any = self.norm
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        entry = {
            "loss": mean,
            "learning_rate": max(group["lr"] for group in self.optimizer.param_groups),
            "grad_norm": norm.item(),
        }
        history.log.append((history.step, entry))
        self.unlogged.zero_()
        for watcher in self.watchers:
            watcher.log(history.step, entry)

    def _total_unlogged(self) -> float:
        return self.layout.total(self.unlogged.item())[0]

    def _evaluate(self) -> None:
        history, objective = self.history, self.objective
        self.plain.eval()
        with torch.no_grad(), self._precision(), self.layout.shared_sequence():
            metrics = objective.measure(self.plain)
        if not metrics:
            return
        history.evaluations.append((history.step, metrics))
        for watcher in self.watchers:
            watcher.evaluation(history.step, metrics)
        best = self.best
        if best is not None and history.evaluations_since_best(objective.metric, objective.sign) == 0:
            intact = self.checkpoints.intact() if self.checkpoints is not None else ""
            self._write(lambda write: write_folder(best, write, intact=intact))

    def _save(self) -> None:
        checkpoints = self.checkpoints
        if checkpoints is None:
            return
        moments = tensors.optimizer_tensors(self.plain, self.optimizer, keep=self.layout.rank == 0)
        self.history.unlogged = self._total_unlogged()
        self._write(lambda write: checkpoints.write(self.history.step, write), moments)

    def _write(self, put: Callable[[Callable[[Path], None]], Any], moments: dict[str, Tensor] | None = None) -> None:
        """Put a folder with weights, history and, of a checkpoint, the optimiser's moments."""
        weights = tensors.model_tensors(self.plain, keep=self.layout.rank == 0)

        def write(folder: Path) -> None:
            tensors.save_model(self.plain, weights, folder)
            if moments is not None:
                tensors.save_optimizer(moments, folder)
            self.history.write(folder)

        self.layout.from_first(lambda: put(write))


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether a recipe's ``precision`` means bfloat16 on a device."""
    if precision != "auto":
        return precision == "bfloat16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def parameter_groups(model: nn.Module, training: TrainingRecipe, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameters by the peak of their rate, and whether they decay: matrices do."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            peak = next((rate for start, rate in rates.items() if name.startswith(start)), training.learning_rate)
            decay = training.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((peak, decay), []).append(parameter)
    return [{"params": found, "peak": peak, "weight_decay": decay} for (peak, decay), found in groups.items()]


def rate_factor(training: TrainingRecipe, step: int) -> float:
    """The rate of a step, counted from 0, as a share of its peak."""
    warmup = math.ceil(training.warmup_share * training.steps)
    if step < warmup:
        return step / warmup
    left = (training.steps - step) / (training.steps - warmup)
    if training.schedule == "linear":
        return left
    if training.schedule == "cosine":
        return 0.5 * (1 - math.cos(math.pi * left))
    return min(1.0, (training.steps - step) / max(round(training.decay_share * training.steps), 1))
