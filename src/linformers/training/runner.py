"""One training run through ``transformers.Trainer``: settings in, history out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalPrediction

from linformers.data.streams import collate


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How long and how fast to train.

    Args:
        steps: optimiser steps.
        batch_size: items a step.
        learning_rate: the peak, reached after the warm-up; then a cosine falls to 0.
        warmup_share: share of the steps in which the rate rises.
        weight_decay: of AdamW, on matrices only.
        beta2: of AdamW; below the usual 0.999, for short runs.
        max_grad_norm: gradients are clipped to this norm.
        eval_every: steps between evaluations; one at the end comes on its own.
        log_every: steps between two entries of the training loss.
        eval_batch_size: items a batch of evaluation.
        seed: of everything random in the run.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    beta2: float = 0.98
    max_grad_norm: float = 1.0
    eval_every: int | None = None
    log_every: int = 10
    eval_batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "eval_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"warmup_share={self.warmup_share} must be at least 0 and below 1")

    def arguments(self, output_dir: Path, evaluates: bool) -> TrainingArguments:
        """The same for Trainer, which takes the device that there is."""
        arguments = TrainingArguments(
            output_dir=str(output_dir),
            max_steps=self.steps,
            per_device_train_batch_size=self.batch_size,
            per_device_eval_batch_size=self.eval_batch_size,
            train_sampling_strategy="sequential",  # the data sets shuffle, as functions of (seed, step)
            learning_rate=self.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=self.warmup_share,
            weight_decay=self.weight_decay,
            adam_beta2=self.beta2,
            max_grad_norm=self.max_grad_norm,
            eval_strategy="steps" if evaluates and self.eval_every else "no",
            eval_steps=self.eval_every,
            logging_steps=self.log_every,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            ddp_find_unused_parameters=False,
            seed=self.seed,
        )
        # One process uses one device; several are torchrun's job. Trainer would fall back to DataParallel, which
        # multiplies the batch.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        return arguments


@dataclass(frozen=True, kw_only=True)
class History:
    """What a run left behind: losses on the way, metrics of each evaluation, and the time it took."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def final(self) -> dict[str, float]:
        """Metrics of the last evaluation."""
        return self.evaluations[-1][1]


def fit(
    model: PreTrainedModel,
    train: Dataset,
    evaluation: Dataset | None,
    settings: TrainSettings,
    output_dir: Path,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
    optimizer: Optimizer | None = None,
    collate: Callable[[Sequence[Any]], dict[str, Any]] = collate,
) -> History:
    """Train a model in place.

    Args:
        model: any transformers model whose forward takes the items of the data sets and returns a loss.
        train: items in the order of training, at least ``steps * batch_size`` of them.
        evaluation: held-out items; None evaluates nothing.
        settings: length and rate of the run.
        output_dir: for what Trainer writes; nothing unless checkpoints are asked for.
        callbacks: watch the run.
        compute_metrics: from the predictions of an evaluation; None evaluates the loss only.
        collate: makes a batch of items.
        optimizer: for rates that differ between parameters; None = AdamW with those of ``settings``.
    """
    trainer = Trainer(
        model=model,
        args=settings.arguments(output_dir, evaluates=evaluation is not None),
        train_dataset=train,
        eval_dataset=evaluation,
        data_collator=collate,
        callbacks=list(callbacks),
        compute_metrics=compute_metrics,
        optimizers=(optimizer, None),
    )
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    if evaluation is not None and not settings.eval_every:  # else Trainer has evaluated the last step
        trainer.evaluate()
    return _history(trainer.state.log_history, seconds)


def _history(log: list[dict[str, float]], seconds: float) -> History:
    losses = [(int(entry["step"]), float(entry["loss"])) for entry in log if "loss" in entry]
    evaluations = [
        (
            int(entry["step"]),
            {
                key.removeprefix("eval_"): float(value)
                for key, value in entry.items()
                # how fast the evaluation was is no result
                if key.startswith("eval_") and not key.endswith(("_runtime", "_per_second"))
            },
        )
        for entry in log
        if "eval_loss" in entry
    ]
    return History(losses=losses, evaluations=evaluations, seconds=seconds)
