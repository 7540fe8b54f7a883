"""Linearise: give a trained encoder attention that is linear in sequence length, in its own class."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, overload

from torch import nn
from transformers import PreTrainedModel

from linformers.attention.sharing import per_layer
from linformers.checks import check_choice
from linformers.convert.interface import configure, settings_of
from linformers.convert.load import layer_numbers, load_teacher
from linformers.models.resize import Positions, extend_positions, segment_length_of

ModelT = TypeVar("ModelT", bound=nn.Module)


@overload
def linearise(
    model_or_path: str | Path,
    *,
    max_length: int | None = ...,
    positions: str = ...,
    softmax_layers: Sequence[int] = ...,
    **settings: Any,
) -> PreTrainedModel: ...
@overload
def linearise(
    model_or_path: ModelT,
    *,
    max_length: int | None = ...,
    positions: str = ...,
    softmax_layers: Sequence[int] = ...,
    **settings: Any,
) -> ModelT: ...
def linearise(
    model_or_path: Any,
    *,
    max_length: int | None = None,
    positions: str = "tile",
    softmax_layers: Sequence[int] = (),
    **settings: Any,
) -> Any:
    """Give a trained encoder attention that is linear in sequence length, in its own class.

    >>> from transformers import BertConfig, BertModel
    >>> teacher = BertModel(BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4))
    >>> linear = linearise(teacher, max_length=4096)
    >>> type(linear).__name__, linear.config.max_position_embeddings
    ('BertModel', 4096)

    The result is what it was, with every weight, head and module around it; it reads longer texts, and those of up to
    ``exact_length`` tokens as before. ``to_linformer`` gives a class of ours instead, for what only that can do.

    Args:
        model_or_path: Encoder of transformers that takes an attention implementation, what holds one, such as a
            ``SentenceTransformer`` or ``CrossEncoder``, or a folder (or hub name) of an encoder as safetensors.
        max_length: Longest input of the result, in tokens; None = the teacher's.
        positions: Growth of a table of learned positions, ``tile`` or ``interpolate`` (not with segments).
        softmax_layers: Layers that keep softmax attention; negative ones count from the last.
        settings: As for ``configure``: ``projected_dim``, ``projection_kind``, ``local_window``, ``global_tokens``,
            ``exact_length``, ``segment_length`` (positions are tiled at that length then), ``context_weight``,
            ``trained_length``.

    Returns:
        A new model in evaluation mode; the given one is not changed.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: A model whose attention cannot be set, a setting that is unknown or out of range, or more tokens
            than its positions can be made for.
        OSError: No such model, or one that is damaged.
    """
    check_choice("positions", positions, get_args(Positions))
    if isinstance(model_or_path, str | Path):
        model: Any = load_teacher(model_or_path)
    elif isinstance(model_or_path, nn.Module):
        model = copy.deepcopy(model_or_path)
    else:
        raise TypeError(f"the model must be a path or a module, got {type(model_or_path).__name__}.")
    if len(softmax_layers):
        settings["projected_dim"] = _without(softmax_layers, settings.get("projected_dim"), model)
    before = segment_length_of(model)
    configure(model, **settings)
    after = segment_length_of(model)
    if before and (not after or after > before):
        raise ValueError(
            f"segment_length={after}: the model's positions repeat every {before} tokens, for segments of that length; "
            "begin with the model that it was made from."
        )
    if max_length is not None or (after and after != before):
        extend_positions(model, max_length, positions)
    return model.eval()


def _without(layers: Sequence[int], given: Any, model: nn.Module) -> list[int | None]:
    """Slots for each layer, with none for those that keep softmax attention."""
    configs = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}
    counts = {config.num_hidden_layers for config in configs.values()}
    if len(counts) != 1:
        raise ValueError(f"softmax_layers={list(layers)} needs a model of one encoder: call configure on each part.")
    (count,) = counts
    kept = layer_numbers(layers, count)
    if given is None:
        (first, *_) = configs.values()
        given = settings_of(first).projected_dim  # what it has already, else the default
    dims = per_layer("projected_dim", given, count)
    return [None if layer in kept else k for layer, k in enumerate(dims)]
