"""Learning to predict masked tokens, with an evaluation that is exact over batches and processes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from linformers.data.masking import IGNORED
from linformers.training.engine import Batch, Objective
from linformers.training.processes import Layout, evaluation_batches


class MaskedLM(Objective):
    """The masked tokens of a batch, for models of ours.

    Args:
        evaluation: Held-out items, always masked alike; None measures nothing.
        collate: Makes a batch of whole sequences.
        batch_size: Number of items that a process evaluates at once.
        layout: The processes.
    """

    evaluation: Dataset[Any] | None
    collate: Callable[[Sequence[Any]], Batch]
    batch_size: int
    layout: Layout

    def __init__(
        self,
        evaluation: Dataset[Any] | None,
        collate: Callable[[Sequence[Any]], Batch],
        batch_size: int,
        layout: Layout,
    ) -> None:
        self.evaluation, self.collate, self.batch_size, self.layout = evaluation, collate, batch_size, layout

    def items(self, batch: Batch) -> int:
        """Number of predicted tokens."""
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Batch, items: int, step: int) -> Tensor:
        """Cross-entropy of the predicted tokens."""
        return model(**batch, num_items_in_batch=items, return_logits=False).loss

    @torch.no_grad()
    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Mean loss per predicted token, in nats, and its exponential."""
        data: Any = self.evaluation
        if data is None:
            return {}
        model.eval()
        total, count = 0.0, 0
        for items in evaluation_batches(len(data), self.batch_size, self.layout):
            batch = self.layout.stretch(self.collate([data[item] for item in items or [0]]))
            if not items:  # sharded weights need all processes in every pass
                batch["labels"] = torch.full_like(batch["labels"], IGNORED)
            count += self.items(batch)
            on_device = {name: tensor.to(self.layout.device) for name, tensor in batch.items()}
            total += self.loss(model, on_device, 1, 0).double().item()
        total, tokens = self.layout.total(total, count)
        mean = total / max(tokens, 1)
        return {"loss": mean, "perplexity": math.exp(min(mean, 700))}
