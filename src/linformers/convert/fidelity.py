"""How far a converted model is from its teacher: hidden states compared layer by layer on given texts."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from linformers.attention.documents import masked_mean
from linformers.checks import check_int
from linformers.convert.load import longest_input
from linformers.data.tokenise import TextEncoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerFidelity:
    """Hidden states of one layer against the teacher's, as means over all kept tokens.

    Args:
        cosine: Cosine of student and teacher; 1 = the same direction.
        relative_error: size of the difference, divided by that of the teacher's; 0 = equal.
    """

    cosine: float
    relative_error: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How far a model is from its teacher on some texts.

    Args:
        layers: the embeddings, then every layer.
        embedding_cosine: Cosine of the mean of the last hidden states of a text, as a mean over texts.
        texts: how many there were.
        tokens: how many they were cut into.
        longest: tokens of the longest text.
        max_length: tokens of a text that are read at most.
    """

    layers: tuple[LayerFidelity, ...]
    embedding_cosine: float
    texts: int
    tokens: int
    longest: int
    max_length: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


@torch.no_grad()
def measure_fidelity(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    batch_size: int = 8,
    on_progress: Callable[[int, int], None] | None = None,
) -> Fidelity:
    """Compare hidden states at every layer; padding is left out. Both models are put in evaluation mode.

    Args:
        student: the converted model.
        teacher: what it was converted from.
        tokenizer: Tokenizer of both.
        texts: what to read; each is cut at ``max_length``.
        max_length: tokens; None = as many as both models take.
        batch_size: texts at a time.
        on_progress: called after each batch with the texts done and their number.

    Raises:
        ValueError: no texts, a longer ``max_length`` than a model takes, or models of different depth.
    """
    texts = list(texts)
    if not texts:
        raise ValueError("texts is empty: give at least one.")
    limit = min(longest_input(student), longest_input(teacher))
    if max_length is not None:
        check_int("max_length", max_length)
        if max_length > limit:
            raise ValueError(f"max_length={max_length} exceeds the {limit} tokens that both models take: lower it.")
        limit = max_length
    encoder = TextEncoder(tokenizer)
    student.eval()
    teacher.eval()
    sums: Tensor | None = None
    embedding_cosine, tokens, longest = 0.0, 0, 0
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        inputs = encoder.batch(batch, max_length=limit)
        ours, theirs = (
            model.base_model(**inputs.to(model.device), output_hidden_states=True).hidden_states
            for model in (student, teacher)
        )
        if len(ours) != len(theirs):
            raise ValueError(f"the student has {len(ours) - 1} layers, the teacher {len(theirs) - 1}: compare equals.")
        keep = inputs["attention_mask"].bool().cpu()
        found = torch.stack([_compare(a.cpu(), b.cpu(), keep) for a, b in zip(ours, theirs, strict=True)])
        sums = found if sums is None else sums + found
        means = [masked_mean(states[-1].cpu().float(), keep) for states in (ours, theirs)]
        embedding_cosine += torch.cosine_similarity(*means, dim=-1).sum().item()
        tokens += int(keep.sum())
        longest = max(longest, int(keep.sum(1).max()))
        if on_progress is not None:
            on_progress(start + len(batch), len(texts))
    assert sums is not None
    return Fidelity(
        layers=tuple(LayerFidelity(cosine=c, relative_error=e) for c, e in (sums / tokens).tolist()),
        embedding_cosine=embedding_cosine / len(texts),
        texts=len(texts),
        tokens=tokens,
        longest=longest,
        max_length=limit,
    )


def _compare(
    ours: Float[Tensor, "batch seq hidden"], theirs: Float[Tensor, "batch seq hidden"], keep: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "2"]:
    """Sums over kept tokens of the cosine and of the relative error."""
    ours, theirs = ours[keep].double(), theirs[keep].double()
    error = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp(min=1e-12)
    return torch.stack([torch.cosine_similarity(ours, theirs, dim=-1).sum(), error.sum()])
