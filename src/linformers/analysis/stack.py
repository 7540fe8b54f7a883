"""An encoder in its own class whose layers read by softmax attention or by slots, as they are told, to compare both."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from linformers._registration import ATTENTION
from linformers.convert.interface import configure, layer_lists

KIND = "cluster"
Dims = tuple[int | None, ...]
"""Slots of each layer; None = softmax attention there, or the window that the model gives it."""


class _Reached(Exception):
    """What was asked of a pass has been computed."""


class Stack:
    """The layers of an encoder of text, over the weights of the given one, which is not changed.

    Args:
        teacher: Encoder that takes an attention implementation, with or without a head.
        local_window: Window of layers with slots.
        global_tokens: Global tokens of layers with slots.

    Raises:
        ValueError: Slots cannot be given to its layers; the message says why.
    """

    def __init__(self, teacher: PreTrainedModel, local_window: int, global_tokens: int) -> None:
        encoder: Any = teacher.base_model
        name, config = type(encoder).__name__, encoder.config
        if encoder.main_input_name != "input_ids":
            raise ValueError(f"{name} reads {encoder.main_input_name}; slots for each layer are advised for text only.")
        if getattr(config, "is_encoder_decoder", False):
            raise ValueError(f"{name} has a decoder, which is causal: give its encoder alone, or another model.")
        weights = {id(x): x for x in (*encoder.parameters(), *encoder.buffers())}
        self.encoder: Any = copy.deepcopy(encoder, weights).eval()
        self.softmax_implementation = config._attn_implementation if config._attn_implementation != ATTENTION else None
        vars(self.encoder.config).pop(ATTENTION, None)  # what it is told here and nothing else
        options = {"projection_kind": KIND, "local_window": local_window, "global_tokens": global_tokens}
        configure(self.encoder, exact_length=0, **options)
        layers = next(layer_lists(self.encoder), None)
        if layers is None:
            raise ValueError(
                f"{name} has no list of {config.num_hidden_layers} layers, as where layers are one module that is used "
                "again (ALBERT): slots cannot differ between them, so give one projected_dim for all."
            )
        self.layers = list(layers)
        types = getattr(config, "layer_types", None) or ["full_attention"] * len(self.layers)
        self.free = tuple(number for number, kind in enumerate(types) if kind == "full_attention")
        self.clean: Dims = (None,) * len(self.layers)
        self.ids, self.last = torch.empty(0, 0, dtype=torch.long), []

    def take(self, ids: Int[np.ndarray, "texts n"]) -> None:
        """Take the texts that all else is measured on."""
        self.ids = torch.from_numpy(ids).to(self.encoder.device)
        self.last = [self._run(text, self.clean) for text in self.ids]

    def all_at(self, k: int) -> Dims:
        """The same slots in every layer that can have some."""
        return self.with_free([k] * len(self.free))

    def with_free(self, dims: Sequence[int | None]) -> Dims:
        """Slots of all layers, from those of the layers that can have some."""
        given = dict(zip(self.free, dims, strict=True))
        return tuple(given.get(layer) for layer in range(len(self.layers)))

    @contextmanager
    def softmax(self) -> Iterator[PreTrainedModel]:
        """The encoder with an attention implementation of transformers."""
        self.encoder.set_attn_implementation(self.softmax_implementation or "eager")
        try:
            yield self.encoder
        finally:
            self.encoder.set_attn_implementation(ATTENTION)

    def error(self, dims: Dims) -> float:
        """Relative error of the last hidden states: size of the difference over size."""
        return _relative((self._run(text, dims), last) for text, last in zip(self.ids, self.last, strict=True))

    def errors_around(self, dims: Dims, grid: Sequence[int], note: Any) -> Float[np.ndarray, "layers grid"]:
        """``error`` when one layer's slots are changed, for each layer that can have some and each number of slots."""
        difference = np.zeros((len(self.free), len(grid)))
        for text, last in zip(self.ids, self.last, strict=True):
            states: list[Any] = []
            with _hooked(self.layers, lambda layer, given, out, states=states: states.append(out)):
                self._run(text, dims)
            for row, layer in enumerate(self.free):
                before = states[layer - 1] if layer else None
                for column, k in enumerate(grid):
                    found = self._run(text, (*dims[:layer], k, *dims[layer + 1 :]), layer, before)
                    difference[row, column] += float((found - last).double().square().sum())
                note()
        size = sum(float(last.double().square().sum()) for last in self.last)
        return np.sqrt(difference / size)

    def exact_inputs(self) -> Iterator[tuple[int, list[Any]]]:
        """Each layer that can have slots, and what the one before it gives of each text, all of them being exact."""
        before: list[Any] = [None] * len(self.ids)
        for number, layer in enumerate(self.layers):
            if number in self.free:
                yield number, before
            before = [
                self._until(layer, text, self.clean, number, state)
                for text, state in zip(self.ids, before, strict=True)
            ]

    def attention_error(self, layer: int, before: Sequence[Any]) -> Callable[[int], float]:
        """How to find the relative error of the output of one layer's attention, from its slots.

        Raises:
            ValueError: No number of slots changes it.
        """
        output = self._output_of_attention(layer, before[0])
        pairs = list(zip(self.ids, before, strict=True))
        exact = [self._until(output, text, self.clean, layer, state) for text, state in pairs]

        def error(k: int) -> float:
            dims = self._alone(layer, k)
            return _relative(zip((self._until(output, text, dims, layer, x) for text, x in pairs), exact, strict=True))

        return error

    def _alone(self, layer: int, k: int) -> Dims:
        return (*self.clean[:layer], k, *self.clean[layer + 1 :])

    def _output_of_attention(self, layer: int, before: Any) -> nn.Module:
        """The first linear map of a layer whose input depends on its slots: families name it in many ways."""
        inputs: list[dict[nn.Module, Tensor]] = [{}, {}]
        for dims, seen in zip((self.clean, self._alone(layer, 1)), inputs, strict=True):
            with _hooked(
                _linears(self.layers[layer]), lambda module, given, out, seen=seen: seen.update({module: given[0]})
            ):
                self._until(self.layers[layer], self.ids[0], dims, layer, before)
        for module, given in inputs[0].items():
            if not torch.equal(given, inputs[1][module]):
                return module
        raise ValueError(
            f"layer {layer} of {type(self.encoder).__name__} reads {len(self.ids[0])} tokens by one slot as by softmax "
            "attention: give a greater length, or a smaller local_window and global_tokens. If they are right, its "
            "attention asks for no implementation."
        )

    def _until(self, module: nn.Module, text: Tensor, dims: Dims, first: int, before: Any) -> Any:
        """Output of a module, where the pass ends; the rest as in ``_run``."""
        outputs: list[Any] = []

        def end(module: nn.Module, given: Any, out: Any) -> None:
            outputs.append(out)
            raise _Reached

        with _hooked([module], end), suppress(_Reached):
            self._run(text, dims, first, before)
        return outputs[0]

    @torch.inference_mode()
    def _run(self, text: Tensor, dims: Dims, first: int = 0, before: Any = None) -> Tensor:
        """Last hidden states of a text.

        Args:
            text: Token ids.
            dims: Slots of each layer.
            first: First layer to compute; those before it are passed over.
            before: What the layer before it gave.
        """
        getattr(self.encoder.config, ATTENTION)["projected_dim"] = list(dims)
        for layer in self.layers[:first]:
            layer.forward = lambda *args, **kwargs: before
        try:
            return self.encoder(input_ids=text[None]).last_hidden_state
        finally:
            for layer in self.layers[:first]:
                del layer.forward


def _linears(layer: nn.Module) -> list[nn.Module]:
    return [module for module in layer.modules() if isinstance(module, nn.Linear)]


@contextmanager
def _hooked(modules: Iterable[nn.Module], call: Callable[..., None]) -> Iterator[None]:
    """Call a function with each module, its inputs and its output, for a while."""
    hooks = [module.register_forward_hook(call) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _relative(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    difference = size = 0.0
    for found, expected in pairs:
        difference += float((found - expected).double().square().sum())
        size += float(expected.double().square().sum())
    return (difference / size) ** 0.5
