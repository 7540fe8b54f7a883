"""A model as one ONNX graph for any batch and any length."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any

import onnx
import onnx_ir
import torch
from jaxtyping import Int
from onnx_ir.passes import common
from onnxscript import optimizer
from torch import Tensor
from torch.fx.experimental import _config as symbolic
from transformers import PreTrainedModel

from linformers._registration import ATTENTION
from linformers.convert.load import longest_input
from linformers.export.fuse import fuse_attention

LARGEST_FILE = 2**31 - 2**24  # bytes: protobuf ends at 2 GiB, and the graph itself needs some
OPSET = 23  # the first that has Attention
AXES = ("batch", "length")
AXES_OF_CHOICES = ("batch", "choices", "length")


def takes_choices(model: PreTrainedModel) -> bool:
    """Whether inputs have an axis of choices."""
    return type(model).__name__.endswith("ForMultipleChoice")


def axes(model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the axes of all inputs."""
    return AXES_OF_CHOICES if takes_choices(model) else AXES


def input_names(model: PreTrainedModel) -> tuple[str, ...]:
    """What the graph takes."""
    takes = "token_type_ids" in signature(model.forward).parameters
    types = ("token_type_ids",) if takes and getattr(model.config, "type_vocab_size", 0) > 1 else ()
    return ("input_ids", "attention_mask", *types)


def random_inputs(
    model: PreTrainedModel, batch: int, length: int, seed: int = 0
) -> dict[str, Int[Tensor, "batch *choices length"]]:
    """Inputs of a shape (with two choices where the model has them), nothing padded."""
    shape = (batch, 2, length) if len(axes(model)) == 3 else (batch, length)
    draws = torch.Generator().manual_seed(seed)
    limits = {"input_ids": model.config.vocab_size, "token_type_ids": getattr(model.config, "type_vocab_size", 1)}
    return {
        name: torch.randint(limits[name], shape, generator=draws) if name in limits else torch.ones(shape).long()
        for name in input_names(model)
    }


def check_size(model: PreTrainedModel) -> None:
    """Refuse a model that one file cannot hold.

    Raises:
        ValueError: more than 2 GB of weights.
    """
    size = sum(4 * weight.numel() for weight in {*model.parameters(), *model.buffers()})
    if size > LARGEST_FILE:
        raise ValueError(
            f"the model has {size / 1e9:.1f} GB of weights in float32, and an ONNX file holds at most 2 GB: export a "
            "smaller model, or one with a smaller vocabulary"
        )


def trace(model: PreTrainedModel) -> torch.export.ExportedProgram:
    """The model as a graph of PyTorch, with batch and length left open.

    Raises:
        ValueError: it cannot be traced.
    """
    longest = longest_input(model)
    # What is traced decides nothing; but a length of several blocks and windows that is no round number meets the
    # fewest coincidences that would tie the graph to it.
    example = random_inputs(model, 2, max(1, longest * 3 // 4 | 1) if longest > 1 else 1)
    limits = {"batch": {}, "choices": {}, "length": {"max": longest}}
    dims = {
        axis: torch.export.Dim(name, min=1, **limits[name]) if limits[name] != {"max": 1} else None
        for axis, name in enumerate(axes(model))
    }
    try:
        # As torch.onnx.export does it, so that a batch or length of 1 is no case of its own; but that would, without a
        # word, tie the graph to some lengths where it cannot be had for all.
        with torch.no_grad(), symbolic.patch(backed_size_oblivious=True), _quiet():  # type: ignore[attr-defined]
            return torch.export.export(
                model,
                (),
                kwargs=example,
                dynamic_shapes=dict.fromkeys(example, dims),
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # torch has many kinds of its own
        raise _failure(model, error) from error


def translate(
    program: torch.export.ExportedProgram,
    model: PreTrainedModel,
    output_names: list[str],
    *,
    for_int8: bool = False,
) -> onnx.ModelProto:
    """The graph as ONNX, with constants folded.

    Args:
        program: the graph of PyTorch.
        model: what it was made of.
        output_names: Names of the model's outputs, in their order.
        for_int8: give each product a matrix of its own, where it would be an embedding table transposed at loading.

    Raises:
        ValueError: ONNX lacks an operation of it.
    """
    try:
        with _quiet():
            # Its own optimisation takes minutes, for what ONNX Runtime does at loading.
            made = torch.onnx.export(
                program,
                (),
                dynamo=True,
                input_names=list(input_names(model)),
                output_names=output_names,
                external_data=False,
                optimize=False,
                opset_version=OPSET,
                verbose=False,
            )
            assert made is not None
            graph = onnx_ir.to_proto(_tidied(made.model, for_int8))
    except Exception as error:
        raise _failure(model, error) from error
    del graph.graph.value_info[:]  # sizes of the example, some of them, which the quantiser would trust
    _name_axes(graph.graph, axes(model))
    return graph


def _name_axes(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Names for people, in place of the symbols of the tracer."""
    shapes = [one.type.tensor_type.shape.dim for one in [*graph.input, *graph.output]]
    found = {
        dim.dim_param: name for shape in shapes[: len(graph.input)] for dim, name in zip(shape, names, strict=True)
    }
    for dim in (dim for shape in shapes for dim in shape if dim.dim_param in found):
        dim.dim_param = found[dim.dim_param]


def _tidied(graph: onnx_ir.Model, for_int8: bool) -> onnx_ir.Model:
    def is_weight(node: onnx_ir.Node) -> bool | None:
        """Whether to fold a node: linear layers hold their weights transposed. None = if it is small."""
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or not weight.is_initializer():
            return None
        return for_int8 or not any(use.node.op_type == "Gather" for use in weight.uses())

    common.InlinePass()(graph)
    common.CommonSubexpressionEliminationPass()(graph)  # or each use of a weight gets a copy of its own
    optimizer.fold_constants(graph, onnx_shape_inference=False, should_fold=is_weight)
    fuse_attention(graph.graph)
    for tidy in (
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),  # stack traces, with the folders of this machine
    ):
        graph = tidy(graph).model
    return graph


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says about packages that are not needed."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _failure(model: PreTrainedModel, error: Exception) -> ValueError:
    config: Any = model.config
    options = ("attention_type", "projection_kind", "projection_sharing", "local_window", "global_tokens", "hidden_act")
    options = (*options, ATTENTION)  # of which a model has those of ours, or the last
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    has = ", ".join(f"{name}={getattr(config, name)!r}" for name in options if getattr(config, name, None) is not None)
    return ValueError(
        f"the model cannot be exported with {has}: {said} Choose another of these, or report it with --debug"
    )
