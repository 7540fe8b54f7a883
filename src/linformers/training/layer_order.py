"""Converting the layers one after another while distilling, instead of all at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from linformers.attention import LinformerAttention, SoftmaxAttention

GREEDY_SHARE = 0.5  # of the steps, over which the layers become linear


def easiest_first(student: PreTrainedModel, teacher: PreTrainedModel, input_ids: Int[Tensor, "batch seq"]) -> list[int]:
    """The compressed layers of a student's encoder, that first whose attention has the lowest rank.

    What counts is what its slots and window lose: each layer is given the teacher's input of it, and the relative error
    of its output against the teacher's is compared.

    Args:
        student: encoder of a converted model.
        teacher: what it was converted from, with as many layers.
        input_ids: sequences without padding.
    """
    encoder: Any = student.encoder
    errors: dict[int, float] = {}
    with torch.no_grad():
        states: Sequence[Float[Tensor, "batch seq hidden"]] = teacher(
            input_ids, output_hidden_states=True
        ).hidden_states
        for i, layer in enumerate(encoder.layers):
            if isinstance(layer.attention, LinformerAttention):
                own, _ = layer(states[i])
                errors[i] = ((own - states[i + 1]).square().sum() / states[i + 1].square().sum()).item()
    return sorted(errors, key=lambda i: errors[i])


class LayerOrder:
    """Softmax attention, with the layer's own weights, stands in for the layers that are not linear yet.

    Over the first half of the steps the layers become linear at equal intervals, the first of them before the first.

    Args:
        encoder: of the student; its ``layers`` are changed within ``at`` alone.
        order: layers in the order of their conversion.
        steps: of the whole run.
    """

    def __init__(self, encoder: Any, order: Sequence[int], steps: int) -> None:
        self.order = list(order)
        self.interval = max(steps * GREEDY_SHARE / max(len(self.order), 1), 1)
        self.layers = encoder.layers
        self.stand_ins = {i: _softmax_of(self.layers[i].attention) for i in self.order}

    def waiting(self, step: int) -> list[int]:
        """The layers that are not linear yet at a step, counted from 0."""
        return self.order[1 + int(step / self.interval) :]

    @contextmanager
    def at(self, step: int) -> Iterator[None]:
        """The encoder as it is at a step."""
        linear = {i: self.layers[i].attention for i in self.waiting(step)}
        for i in linear:
            self.layers[i].attention = self.stand_ins[i]
        try:
            yield
        finally:
            for i, attention in linear.items():
                self.layers[i].attention = attention


def _softmax_of(attention: LinformerAttention) -> SoftmaxAttention:
    """Softmax attention over the same parameters."""
    exact = SoftmaxAttention(attention.hidden_size, attention.num_attention_heads, dropout=attention.dropout)
    exact.q_proj, exact.k_proj = attention.q_proj, attention.k_proj
    exact.v_proj, exact.o_proj = attention.v_proj, attention.o_proj
    return exact.eval()
