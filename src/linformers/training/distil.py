"""What a student is to learn from its teacher: the hidden states of every layer, and the predictions.

Layer by layer as in TinyBERT (Jiao et al., arXiv 1909.10351); for linear attention with the task as CALD
(arXiv 2410.06846).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor
from transformers.utils.generic import ModelOutput


def hidden_state_loss(
    student: Sequence[Float[Tensor, "batch seq hidden"]],
    teacher: Sequence[Float[Tensor, "batch seq hidden"]],
    attention_mask: Shaped[Tensor, "batch seq"] | None,
) -> Float[Tensor, ""]:
    """Squared error of the hidden states relative to the teacher's size, over kept tokens; the mean over layers.

    The first of the states, the embeddings, is left out where there are layers.
    """
    pairs = list(zip(student, teacher, strict=True))[1 if len(student) > 1 else 0 :]
    errors = []
    for own, taught in pairs:
        own, taught = own.float(), taught.float()
        error, size = (own - taught).square().sum(-1), taught.square().sum(-1)
        if attention_mask is not None:
            keep = attention_mask.bool()
            error, size = error.masked_fill(~keep, 0), size.masked_fill(~keep, 0)
        errors.append(error.sum() / size.sum().clamp(min=1e-12))
    return torch.stack(errors).mean()


def one_of_many(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"]
) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence of the predicted shares from the teacher's; of one logit, the squared error."""
    student, teacher = student.float().flatten(0, -2), teacher.float().flatten(0, -2)
    if student.shape[-1] == 1:
        return F.mse_loss(student, teacher)
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)


def each_for_itself(student: Float[Tensor, "*any"], teacher: Float[Tensor, "*any"]) -> Float[Tensor, ""]:
    """The same where every logit is a label of its own: mean divergence of the yes and no of each."""
    return one_of_many(*(torch.stack([x, torch.zeros_like(x)], dim=-1) for x in (student, teacher)))


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What counts for how much.

    Args:
        hidden_weight: Weight of the distance between the hidden states.
        logits_weight: Weight of the distance between the predictions, where both models make some.
        compare: the distance of two sets of logits, the student's and the teacher's.
    """

    hidden_weight: float = 1.0
    logits_weight: float = 1.0
    compare: Callable[[Tensor, Tensor], Tensor] = one_of_many


def distillation_loss(
    student: ModelOutput,
    teacher: ModelOutput,
    attention_mask: Shaped[Tensor, "batch seq"] | None,
    distillation: Distillation,
) -> Float[Tensor, ""]:
    """Distance of a student's outputs from its teacher's on the same inputs.

    Args:
        student: with ``hidden_states``; of several logits only ``logits`` is compared.
        teacher: likewise, without gradients.
        attention_mask: True or 1 = keep; None = all.
        distillation: the weights.
    """
    loss = torch.zeros((), device=student["hidden_states"][-1].device)
    if distillation.hidden_weight:
        hidden = hidden_state_loss(student["hidden_states"], teacher["hidden_states"], attention_mask)
        loss = loss + distillation.hidden_weight * hidden
    if distillation.logits_weight and "logits" in student and "logits" in teacher:
        loss = loss + distillation.logits_weight * distillation.compare(student["logits"], teacher["logits"])
    return loss
