"""Masked-language-model training on one process or many, with an evaluation that is exact over both."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, TrainingArguments

from linformers.data.masking import IGNORED
from linformers.training.processes import Layout, StepBatches, evaluation_batches, layers_of, shard, split_batch
from linformers.training.recipe import TrainingRecipe
from linformers.training.resumable import ResumableTrainer


class PretrainTrainer(ResumableTrainer):
    """Trains a masked language model.

    Args:
        model: with the weights to start from.
        arguments: see ``training_arguments``.
        training: the recipe's section.
        layout: the processes.
        collate: makes a batch of whole sequences.
        options: the other arguments of ``ResumableTrainer``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        arguments: TrainingArguments,
        training: TrainingRecipe,
        layout: Layout,
        *,
        collate: Callable[[Sequence[Any]], dict[str, Tensor]],
        **options: Any,
    ) -> None:
        micro_batch, accumulation = split_batch(training, layout)
        arguments.gradient_accumulation_steps = accumulation
        arguments.per_device_train_batch_size = micro_batch
        arguments.per_device_eval_batch_size = training.evaluation_batch_size
        count, place = training.steps * accumulation, {"replica": layout.replica, "replicas": layout.replicas}
        super().__init__(
            model,
            arguments,
            layout,
            seed=training.seed,
            # the same sequences in each step, however many processes there are
            batches=StepBatches(count, micro_batch, **place),
            collate=lambda items: layout.stretch(collate(items)),
            **options,
        )
        if training.compile:
            for layer in layers_of(model):  # one compilation serves all layers
                layer.compile()
        if training.sharding == "full" and layout.world > 1:
            # Trainer's own fsdp option trains with DDP on a CPU, without a word. A model that is sharded already is
            # left to it as one that transformers has sharded while loading.
            shard(model)
            self.is_distributed_loading_by_transformers = True

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One forward and backward pass, of a stretch of the sequences where they are shared."""
        with self.layout.shared_sequence():
            return super().training_step(model, {**inputs, "return_logits": False}, num_items_in_batch)

    def measure(self, dataset: Any) -> dict[str, float]:
        """Mean loss per predicted token, in nats, and its exponential; exact over batches and processes."""
        size = self.args.per_device_eval_batch_size
        model, total, count = self.model, 0.0, 0
        assert model is not None
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
        return {"loss": mean, "perplexity": math.exp(min(mean, 700))}

    # --- what Trainer does not know of sharded models

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
