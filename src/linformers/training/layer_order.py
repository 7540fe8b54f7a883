"""Converting the layers one after another while distilling, instead of all at once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from linformers._registration import ATTENTION, MODEL_TYPE
from linformers.attention import LinformerAttention, SoftmaxAttention
from linformers.attention.softmax import softmax_of
from linformers.convert.interface import layer_slots, number_layers

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
    with torch.no_grad():
        states: Sequence[Float[Tensor, "batch seq hidden"]] = teacher(
            input_ids, output_hidden_states=True
        ).hidden_states
        found = (
            _errors_of_ours(student, states)
            if student.config.model_type == MODEL_TYPE
            else _errors_in_own_class(student, input_ids, states)
        )
        errors = {i: error / states[i + 1].square().sum().item() for i, error in found}
    return sorted(errors, key=lambda i: errors[i])


def _errors_of_ours(student: Any, states: Sequence[Tensor]) -> Iterator[tuple[int, float]]:
    for i, layer in enumerate(student.encoder.layers):
        if isinstance(layer.attention, LinformerAttention):
            own, _ = layer(states[i])
            yield i, (own - states[i + 1]).square().sum().item()


def _errors_in_own_class(
    student: Any, input_ids: Int[Tensor, "batch seq"], states: Sequence[Tensor]
) -> Iterator[tuple[int, float]]:
    """With softmax attention before it, a layer is given the teacher's input of it."""
    compressed = _compressed(student)
    for i in compressed:
        with _softmax_in(student, [layer for layer in compressed if layer != i]):
            own = student(input_ids, output_hidden_states=True).hidden_states[i + 1]
        yield i, (own - states[i + 1]).square().sum().item()


def _compressed(model: Any) -> list[int]:
    return [i for i, k in enumerate(layer_slots(model.config)) if k is not None]


@contextmanager
def _softmax_in(model: Any, layers: Sequence[int]) -> Iterator[None]:
    """Softmax attention in some layers of a model in its own class."""
    before = getattr(model.config, ATTENTION)
    dims = [None if i in layers else k for i, k in enumerate(layer_slots(model.config))]
    number_layers(model)
    setattr(model.config, ATTENTION, {**before, "projected_dim": dims})
    try:
        yield
    finally:
        setattr(model.config, ATTENTION, before)


class LayerOrder:
    """Softmax attention, with the layer's own weights, stands in for the layers that are not linear yet.

    Over the first half of the steps the layers become linear at equal intervals, the first of them before the first.

    Args:
        model: the student, without its head; it is changed within ``at`` alone.
        order: layers in the order of their conversion.
        steps: Steps of the whole run.
    """

    order: list[int]
    model: Any

    def __init__(self, model: Any, order: Sequence[int], steps: int) -> None:
        self.order, self.model = list(order), model
        self.interval: float = max(steps * GREEDY_SHARE / max(len(self.order), 1), 1)
        self.ours: bool = model.config.model_type == MODEL_TYPE
        self.stand_ins: dict[int, SoftmaxAttention] = (
            {i: softmax_of(model.encoder.layers[i].attention) for i in self.order} if self.ours else {}
        )

    def waiting(self, step: int) -> list[int]:
        """The layers that are not linear yet at a step, counted from 0."""
        return self.order[1 + int(step / self.interval) :]

    @contextmanager
    def at(self, step: int) -> Iterator[None]:
        """The model as it is at a step."""
        if not (waiting := self.waiting(step)):
            yield
            return
        with _stand_ins(self.model, waiting, self.stand_ins) if self.ours else _softmax_in(self.model, waiting):
            yield


@contextmanager
def _stand_ins(model: Any, layers: Sequence[int], stand_ins: Mapping[int, SoftmaxAttention]) -> Iterator[None]:
    """Softmax attention in some layers of a model of ours."""
    linear = {i: model.encoder.layers[i].attention for i in layers}
    for i in linear:
        model.encoder.layers[i].attention = stand_ins[i]
    try:
        yield
    finally:
        for i, attention in linear.items():
            model.encoder.layers[i].attention = attention
