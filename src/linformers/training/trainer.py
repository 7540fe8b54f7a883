"""transformers' Trainer with what a long run needs: exact resumption, atomic checkpoints, exact evaluation.

Nothing random outlives a step: order and masks come from (seed, epoch, example), dropout from (seed, step, process). So
a checkpoint holds weights, optimiser and schedule, and a run that goes on from it equals one that never stopped.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
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

from linformers.data.masking import IGNORED
from linformers.training import tensors
from linformers.training.checkpoints import Checkpoints, write_folder
from linformers.training.processes import Layout, StepBatches, evaluation_batches, layers_of, shard, split_batch
from linformers.training.recipe import TrainingRecipe

STATE = "state.json"


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


class PretrainTrainer(Trainer):
    """Trains a masked language model.

    Args:
        model: with the weights to start from.
        arguments: see ``training_arguments``.
        training: the recipe's section.
        layout: the processes.
        train: items in the order of training.
        evaluation: held-out items.
        collate: makes a batch of items.
        checkpoints: where to write.
        best: folder for the weights with the best evaluation.
        workers: processes that prepare batches.
        callbacks: watch the run.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        arguments: TrainingArguments,
        training: TrainingRecipe,
        layout: Layout,
        *,
        train: Dataset,
        evaluation: Dataset,
        collate: Callable[[Sequence[Any]], dict[str, Tensor]],
        checkpoints: Checkpoints,
        best: Path,
        workers: int = 0,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.layout, self.checkpoints, self.best, self.workers = layout, checkpoints, best, workers
        self.micro_batch, accumulation = split_batch(training, layout)
        arguments.gradient_accumulation_steps = accumulation
        arguments.per_device_train_batch_size = self.micro_batch
        arguments.per_device_eval_batch_size = training.evaluation_batch_size
        self.collate = lambda items: layout.stretch(collate(items))
        self.seconds_before = 0.0
        super().__init__(
            model,
            arguments,
            train_dataset=train,
            eval_dataset=evaluation,
            # Signals are asked last, so that what they ask for is not undone.
            callbacks=[_EachStep(training.seed, layout.rank), *callbacks],
        )
        self.remove_callback(PrinterCallback)
        if training.compile:
            for layer in layers_of(model):  # one compilation serves all layers
                layer.compile()
        if training.sharding == "full" and layout.world > 1:
            # Trainer's own fsdp option trains with DDP on a CPU, without a word. A model that is sharded already is
            # left to it as one that transformers has sharded while loading.
            shard(model)
            self.is_distributed_loading_by_transformers = True

    # --- data: the same sequences in each step, however many processes there are

    def get_train_dataloader(self) -> DataLoader:
        """Micro-batches of this process; not prepared by accelerate, which would cut them up again."""
        dataset: Any = self.train_dataset
        if isinstance(dataset, IterableDataset):  # it knows this process's share
            options: dict[str, Any] = {"batch_size": self.micro_batch}
        else:
            count = self.args.max_steps * self.args.gradient_accumulation_steps
            replica, replicas = self.layout.replica, self.layout.replicas
            options = {"batch_sampler": StepBatches(count, self.micro_batch, replica=replica, replicas=replicas)}
        return DataLoader(dataset, collate_fn=self.collate, num_workers=self.workers, **options)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One forward and backward pass, of a stretch of the sequences where they are shared."""
        with self.layout.shared_sequence():
            return super().training_step(model, inputs, num_items_in_batch)

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean loss per predicted token, in nats, and its exponential; exact over batches and processes."""
        start = time.time()
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        size = self.args.per_device_eval_batch_size
        model, total, count = self.model, 0.0, 0
        assert model is not None
        model.eval()
        with self.layout.shared_sequence():
            for items in evaluation_batches(len(dataset), size, self.layout):
                batch = self._prepare_inputs(self.collate([dataset[item] for item in items or [0]]))
                if not items:  # sharded weights need all processes in every pass
                    batch["labels"] = torch.full_like(batch["labels"], IGNORED)
                loss = model(**batch, num_items_in_batch=1, return_logits=False).loss
                total += loss.double().item()
                count += int((batch["labels"] != IGNORED).sum())
        total, tokens = self.layout.total(total, count, device=self.args.device)
        mean = total / max(tokens, 1)
        metrics = {f"{metric_key_prefix}_loss": mean, f"{metric_key_prefix}_perplexity": math.exp(min(mean, 700))}
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
        state = json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))
        tensors.load_optimizer(self._plain_model(), optimizer, Path(checkpoint))
        scheduler.load_state_dict(state["scheduler"])
        for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        self.seconds_before = state["seconds"]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing: every step seeds itself."""

    # --- time, and what Trainer does not know of sharded models

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Train; see ``Trainer.train``."""
        self.started = time.perf_counter()
        return super().train(*arguments, **options)

    @property
    def seconds(self) -> float:
        """Time spent on the run, over all its starts."""
        return self.seconds_before + time.perf_counter() - self.started

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        return _GradientsStayHere(self.model)


class _GradientsStayHere:
    """Until the last micro-batch of a step, a sharded model adds up gradients where they are."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.model.set_requires_gradient_sync(False)

    def __exit__(self, *exception: object) -> None:
        self.model.set_requires_gradient_sync(True)
