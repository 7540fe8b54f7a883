"""Trains a classifier on its labels, and on what a teacher makes of the same inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from linformers.classification.data import EncodedPart, by_length
from linformers.classification.media import MediaPart
from linformers.classification.metrics import measure, probabilities
from linformers.data.tasks_rules import Kind
from linformers.files.progress import ReadProgress
from linformers.training.distil import Distillation, distillation_loss
from linformers.training.resumable import ResumableTrainer


class ClassifyTrainer(ResumableTrainer):
    """See ``ResumableTrainer``.

    Args:
        kind: of the task.
        class_weights: weight of an error on each class (of a missed one, where there are several labels).
        teacher: without gradients; None = labels only.
        distillation: what to imitate of the teacher.
        options: of ``ResumableTrainer``.
    """

    def __init__(
        self,
        *arguments: Any,
        kind: Kind,
        class_weights: Tensor | None,
        teacher: PreTrainedModel | None,
        distillation: Distillation,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.kind: Kind = kind
        self.class_weights = None if class_weights is None else class_weights.to(self.args.device)
        self.teacher = None if teacher is None else teacher.to(self.args.device)  # type: ignore[arg-type]
        self.distillation = distillation

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean loss of the labels, and the distance to the teacher; then without dropout, which the teacher has not."""
        if self.teacher is not None:
            model.eval()
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        outputs = model(**inputs, output_hidden_states=self.teacher is not None)
        loss = task_loss(outputs.logits, labels, self.kind, self.class_weights)
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher(**inputs, output_hidden_states=True)
            loss = loss + distillation_loss(outputs, taught, inputs["attention_mask"], self.distillation)
        return (loss, outputs) if return_outputs else loss

    def measure(self, dataset: Any) -> dict[str, float]:
        """Loss of the labels and all metrics."""
        logits = predict_logits(self._plain_model(), dataset, self.collate, self.args.per_device_eval_batch_size)
        loss = task_loss(torch.from_numpy(logits), dataset.labels, self.kind, None).item()
        return {"loss": loss, **measure(dataset.labels.numpy(), probabilities(logits, self.kind), self.kind)}


def task_loss(
    logits: Float[Tensor, "batch classes"], labels: Tensor, kind: Kind, class_weights: Tensor | None
) -> Float[Tensor, ""]:
    """Cross-entropy, one for each class where there are several labels, or the squared error."""
    logits = logits.float()
    if kind == "regression":
        return F.mse_loss(logits[:, 0], labels)
    if kind == "multi_label":
        return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=class_weights)
    return F.cross_entropy(logits, labels, weight=class_weights)


@torch.no_grad()
def predict_logits(
    model: PreTrainedModel,
    data: EncodedPart | MediaPart,
    collate: Callable[[Sequence[Any]], dict[str, Tensor]],
    batch_size: int,
    progress: ReadProgress | None = None,
) -> Float[np.ndarray, "rows classes"]:
    """Logits of every row, in the order of the rows; the longest inputs are read first."""
    model.eval()
    logits = np.zeros((len(data), len(model.config.id2label or ())), dtype=np.float32)
    read, tokens = 0, max(int(data.lengths.sum()), 1)
    for rows in by_length(data.lengths, batch_size):
        batch = {name: tensor.to(model.device) for name, tensor in collate([data[row] for row in rows]).items()}
        del batch["labels"]
        logits[rows] = model(**batch).logits.float().cpu().numpy()
        if progress is not None:
            read += int(data.lengths[rows].sum())
            progress.reached(read / tokens)
            progress.add(len(rows))
    return logits
