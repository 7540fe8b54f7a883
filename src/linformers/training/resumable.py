"""transformers' Trainer with what a long run needs: exact resumption, atomic checkpoints, the best weights kept.

Nothing random outlives a step: order and masks come from (seed, epoch, example), dropout from (seed, step, process). So
a checkpoint holds weights, optimiser and schedule, and a run that goes on from it equals one that never stopped.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import speed_metrics

from linformers.files.checkpoints import Checkpoints
from linformers.files.folders import write_folder
from linformers.training import tensors
from linformers.training.processes import Layout

STATE = "state.json"


def read_state(folder: Path) -> dict[str, Any]:
    """Step, seconds and more of a checkpoint, or step and loss of the best weights."""
    return json.loads((folder / STATE).read_text(encoding="utf-8"))


def history_at(checkpoint: str | None) -> TrainerState | None:
    """Trainer's history up to a checkpoint."""
    return None if checkpoint is None else TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))


def evaluations_in(state: TrainerState, names: Sequence[str]) -> list[tuple[int, dict[str, float]]]:
    """Step and metrics of every evaluation."""
    return [
        (int(entry["step"]), {name: entry[f"eval_{name}"] for name in names if f"eval_{name}" in entry})
        for entry in state.log_history
        if "eval_loss" in entry
    ]


def losses_in(state: TrainerState) -> list[tuple[int, float]]:
    """Step and training loss of every log entry."""
    return [(int(entry["step"]), entry["loss"]) for entry in state.log_history if "loss" in entry]


class _EachStep(TrainerCallback):
    """Seeds dropout, and logs the loss at checkpoints so that a run that goes on from one logs the same."""

    def __init__(self, seed: int, rank: int) -> None:
        self.seed, self.rank = seed, rank

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        words = np.random.SeedSequence((self.seed, state.global_step, self.rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0] >> 1))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        control.should_log = control.should_log or control.should_save


class _AtStart(TrainerCallback):
    """Measures the weights that a run starts from; see ``measure_start``."""

    def __init__(self, trainer: "ResumableTrainer") -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step == 0:
            self.trainer._determine_best_metric(self.trainer.evaluate(), None)


class ResumableTrainer(Trainer):
    """What pretraining, fine-tuning and distillation share; how they ``measure`` held-out items is theirs.

    Args:
        model: with the weights to start from.
        arguments: of Trainer; the batch sizes and the metric of the best weights are among them.
        layout: the processes.
        seed: of dropout.
        train: items; iterable, or read in the order of ``batches``.
        evaluation: held-out items.
        batches: items of each micro-batch of the run; None for iterable data sets.
        collate: makes a batch of items.
        checkpoints: where to write.
        best: folder for the weights with the best evaluation.
        workers: processes that prepare batches.
        measure_start: also evaluate before the first step, so that a run that makes nothing better changes nothing.
        callbacks: watch the run.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        arguments: TrainingArguments,
        layout: Layout,
        *,
        seed: int,
        train: Dataset,
        evaluation: Dataset,
        batches: Sampler[list[int]] | None,
        collate: Callable[[Sequence[Any]], dict[str, Tensor]],
        checkpoints: Checkpoints,
        best: Path,
        workers: int = 0,
        measure_start: bool = False,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.layout, self.checkpoints, self.best, self.workers = layout, checkpoints, best, workers
        self.batches, self.collate = batches, collate
        self.seconds_before = 0.0
        super().__init__(
            model,
            arguments,
            train_dataset=train,
            eval_dataset=evaluation,
            # Signals are asked last, so that what they ask for is not undone.
            callbacks=[_EachStep(seed, layout.rank), *([_AtStart(self)] if measure_start else []), *callbacks],
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader:
        """Micro-batches of this process; not prepared by accelerate, which would cut them up again."""
        dataset: Any = self.train_dataset
        if isinstance(dataset, IterableDataset):  # it knows this process's share
            options: dict[str, Any] = {"batch_size": self.args.per_device_train_batch_size}
        else:
            options = {"batch_sampler": self.batches}
        return DataLoader(dataset, collate_fn=self.collate, num_workers=self.workers, **options)

    def measure(self, dataset: Any) -> dict[str, float]:
        """Metrics on held-out items, ``loss`` among them; the model is in evaluation mode."""
        raise NotImplementedError

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """``measure``, with what Trainer does around it."""
        start = time.time()
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        self._plain_model().eval()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.measure(dataset).items()}
        metrics |= speed_metrics(metric_key_prefix, start, num_samples=len(dataset))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        better = super()._determine_best_metric(metrics, trial)
        if better:
            weights = tensors.model_tensors(self._plain_model(), keep=self.layout.rank == 0)
            found = {"step": self.state.global_step, "loss": metrics["eval_loss"]}

            def write(folder: Path) -> None:
                tensors.save_model(self._plain_model(), weights, folder)
                (folder / STATE).write_text(json.dumps(found))

            self.layout.from_first(lambda: write_folder(self.best, write, intact="the checkpoints are intact"))
        return better

    # --- checkpoints

    def _plain_model(self) -> PreTrainedModel:
        return self.accelerator.unwrap_model(self.model)  # type: ignore[arg-type]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        plain, keep = self._plain_model(), self.layout.rank == 0
        weights = tensors.model_tensors(plain, keep=keep)
        moments = tensors.optimizer_tensors(plain, self.optimizer, keep=keep)
        self.store_flos()
        scheduler: Any = self.lr_scheduler
        state = {"step": self.state.global_step, "seconds": self.seconds, "scheduler": scheduler.state_dict()}

        def write(folder: Path) -> None:
            tensors.save_model(plain, weights, folder)
            tensors.save_optimizer(moments, folder)
            (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

        self.layout.from_first(lambda: str(self.checkpoints.write(self.state.global_step, write)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Nothing: the weights were loaded before the model was wrapped."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        optimizer: Any = self.optimizer
        scheduler: Any = self.lr_scheduler
        state = read_state(Path(checkpoint))
        tensors.load_optimizer(self._plain_model(), optimizer, Path(checkpoint))
        scheduler.load_state_dict(state["scheduler"])
        for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        self.seconds_before = state["seconds"]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing: every step seeds itself."""

    # --- time

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Train; see ``Trainer.train``."""
        self.started = time.perf_counter()
        return super().train(*arguments, **options)

    @property
    def seconds(self) -> float:
        """Time spent on the run, over all its starts."""
        return self.seconds_before + time.perf_counter() - self.started
