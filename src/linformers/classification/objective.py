"""What a classifier learns: its labels, and what a teacher makes of the same inputs."""

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
from linformers.classification.metrics import measure, probabilities, sign_of
from linformers.data.tasks_rules import Kind
from linformers.files.progress import ReadProgress
from linformers.training.distil import Distillation, distillation_loss
from linformers.training.engine import Batch, Objective


class Classification(Objective):
    """Labels, and a teacher's states and predictions.

    Args:
        kind: Kind of the task.
        validation: Rows that choose the step.
        collate: Makes a batch of rows.
        batch_size: Number of rows to measure at once.
        class_weights: Weight of an error on each class (of a missed one, where there are several labels); None = alike.
        select_by: Metric that chooses the step.
        positive: Number of the class that F1 is of, where there are two.
        teacher: Model without gradients, where the student is; None = labels only.
        distillation: What to imitate of the teacher.
    """

    validation: EncodedPart | MediaPart
    collate: Callable[[Sequence[Any]], Batch]
    batch_size: int
    class_weights: Tensor | None
    teacher: PreTrainedModel | None
    distillation: Distillation
    metric: str
    positive: int

    def __init__(
        self,
        kind: Kind,
        validation: EncodedPart | MediaPart,
        collate: Callable[[Sequence[Any]], Batch],
        batch_size: int,
        *,
        class_weights: Tensor | None,
        select_by: str,
        positive: int,
        teacher: PreTrainedModel | None,
        distillation: Distillation,
    ) -> None:
        self.kind: Kind = kind
        self.validation, self.collate, self.batch_size = validation, collate, batch_size
        self.class_weights, self.teacher, self.distillation = class_weights, teacher, distillation
        self.metric, self.positive = select_by, positive
        self.sign: int = sign_of(self.metric)

    def loss(self, model: nn.Module, batch: Batch, items: int, step: int) -> Tensor:
        """Mean loss of the labels, and the distance to the teacher; with a teacher there is no dropout."""
        if self.teacher is not None:
            model.eval()
        labels = batch.pop("labels")
        outputs = model(**batch, output_hidden_states=self.teacher is not None)
        loss = task_loss(outputs.logits, labels, self.kind, self.class_weights)
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher(**batch, output_hidden_states=True)
            loss = loss + distillation_loss(outputs, taught, batch["attention_mask"], self.distillation)
        return loss / items

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Loss of the labels and all metrics, on the validation rows."""
        logits, labels = predict_logits(model, self.validation, self.collate, self.batch_size), self.validation.labels
        loss = task_loss(torch.from_numpy(logits), labels, self.kind, None).item()
        found = {"loss": loss, **measure(labels.numpy(), probabilities(logits, self.kind), self.kind, self.positive)}
        if self.metric not in found:
            raise ValueError(
                f"select_by={self.metric!r} is not defined on the validation rows, which are of one class; choose "
                f"one of {', '.join(found)}, or set more rows aside with validation_size"
            )
        return found


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
