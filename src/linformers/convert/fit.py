"""Fit projections to a teacher: E and F that give its attention's output on sample text."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from linformers.attention import LinformerAttention, SoftmaxAttention
from linformers.attention.softmax import softmax_of
from linformers.convert.load import longest_input
from linformers.data.tokenise import TextEncoder

STEPS, BATCH = 100, 2
RATE = 0.02  # of the root mean square of each E's entries, falling to zero


def fit_projections(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Move E and F, and nothing else, so that each layer's attention on the teacher's hidden states is softmax's.

    Every layer is fitted by itself, on what it gets in the teacher; Adam on the squared error, relative to the size of
    the output. A closed form (the leading singular vectors of keys and values over the texts) spans them best, but
    attention over such slots is no average over tokens; the output is what counts.

    Args:
        student: whose projections are fitted, in place.
        teacher: where it comes from.
        tokenizer: Tokenizer of both.
        texts: read in turn, each up to the length that both take.
        on_progress: called after each step with the steps done and their number.
    """
    layers: dict[int, Any] = dict(enumerate(student.base_model.get_submodule("encoder.layers").children()))
    attentions = {i: layer.attention for i, layer in layers.items() if isinstance(layer.attention, LinformerAttention)}
    exact = {i: softmax_of(attention) for i, attention in attentions.items()}
    projections = [
        e for attention in attentions.values() for e in (attention.key_projection, attention.value_projection)
    ]
    fitted = list(dict.fromkeys(parameter for e in projections for parameter in e.parameters()))
    optimizer = torch.optim.Adam(
        [{"params": [p], "lr": RATE * float(p.detach().square().mean().sqrt())} for p in fitted]
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    encoder, limit = TextEncoder(tokenizer), min(longest_input(student), longest_input(teacher))
    for step in range(STEPS):
        batch = [texts[(step * BATCH + i) % len(texts)] for i in range(BATCH)]
        inputs = encoder.batch(batch, max_length=limit).to(student.device)
        with torch.no_grad():
            states = teacher.base_model(**inputs, output_hidden_states=True).hidden_states
            read = {i: layers[i].attention_norm(states[i]) if layers[i].pre_norm else states[i] for i in attentions}
        errors = [_error(a, exact[i], read[i], inputs["attention_mask"]) for i, a in attentions.items()]
        gradients = torch.autograd.grad(torch.stack(errors).sum(), fitted)
        for parameter, gradient in zip(fitted, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
        if on_progress is not None:
            on_progress(step + 1, STEPS)
    for parameter in fitted:
        parameter.grad = None


def _error(attention: LinformerAttention, exact: SoftmaxAttention, states: Tensor, mask: Tensor) -> Tensor:
    """Squared error of the outputs, relative to their size; padding gives zeros in both."""
    with torch.no_grad():
        expected = exact(states, mask)
    return (attention(states, mask) - expected).square().sum() / expected.square().sum()
