"""The n x n maps by which the attention of an encoder mixes its tokens, head by head; one matrix at a time in memory.

In softmax attention the map is the attention matrix P. In a Linformer, and in a model that is linear in its own class,
it is ``P F``: the weights over the slots times the rows of the compression, with the columns of global tokens and of
the window beside them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from linformers._registration import ATTENTION
from linformers.analysis.spectrum_projection import matrix_of
from linformers.attention import Attention, Documents, KFreeAttention, LinformerAttention, SoftmaxAttention
from linformers.attention.slots import AttentionPoolProjection, finish
from linformers.convert.interface import attention, padding_mask

NAME = "linformers_spectrum"
Visit = Callable[[int, int, Tensor], None]
"""Called with a layer, a head and its map, which is the callee's to keep."""


@torch.inference_mode()
def visit_maps(model: PreTrainedModel, input_ids: Int[Tensor, "1 n"], visit: Visit) -> None:
    """Run an encoder on one text without padding, and show each head's map.

    Args:
        model: an encoder of transformers or ours, in evaluation mode.
        input_ids: the text.
        visit: called for every head of every layer that has attention, in order.

    Raises:
        ValueError: attention that is no n x n map, or whose weights cannot be had.
    """
    encoder: Any = model.base_model
    if encoder.config.model_type == "linformer":
        with _watching_ours(encoder, visit):
            encoder(input_ids)
    elif getattr(encoder, "_supports_attention_backend", False):
        with _watching_theirs(encoder, visit):
            encoder(input_ids)
    else:
        _visit_outputs(encoder, input_ids, visit)


@contextmanager
def _watching_theirs(encoder: Any, visit: Visit) -> Iterator[None]:
    """Put a function in the place of attention's kernel, by transformers' own register of them.

    Of a model that is linear in its own class the map is what its attention makes of one-hot values.
    """
    layers = iter(range(10**6))
    linear = encoder.config._attn_implementation == ATTENTION

    def attend(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        layer, heads = next(layers), query.shape[1]
        if linear:
            n, size = value.shape[2:]
            # One-hot values, some columns at a time: each is a text of the batch.
            columns = torch.eye(n, -(-n // size) * size, dtype=value.dtype, device=value.device)
            values = torch.stack(columns.split(size, dim=1))[:, None]
            for head in range(heads):
                shared = head * key.shape[1] // heads
                q, k = query[:, [head]].expand_as(values), key[:, [shared]].expand_as(values)
                found = attention(module, q, k, values, None, scaling, **options)[0][:, :, 0]
                visit(layer, head, found.transpose(0, 1).flatten(1)[:, :n].float())
            return attention(module, query, key, value, attention_mask, scaling, **options)
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        output = torch.empty_like(query)
        for head in range(heads):
            shared = head * key.shape[1] // heads  # grouped queries share keys
            scores = query[0, head] @ key[0, shared].T * factor
            if attention_mask is not None:
                scores = scores + attention_mask[0, min(head, attention_mask.shape[1] - 1)]
            weights = scores.softmax(-1, dtype=torch.float32)
            output[0, head] = weights.to(value.dtype) @ value[0, shared]
            visit(layer, head, weights)
        return output.transpose(1, 2).contiguous(), None

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, padding_mask if linear else eager_mask)
    before = encoder.config._attn_implementation
    encoder.set_attn_implementation(NAME)
    try:
        yield
    finally:
        encoder.set_attn_implementation(before)


def _visit_outputs(encoder: Any, input_ids: Tensor, visit: Visit) -> None:
    """For encoders with attention code of their own: what they return, all layers at once."""
    found = encoder(input_ids, output_attentions=True).attentions
    if not found or found[0] is None or found[0].shape[-1] != input_ids.shape[1]:
        raise ValueError(f"model_type={encoder.config.model_type!r} does not give its attention weights; use another")
    for layer, weights in enumerate(found):
        for head in range(weights.shape[1]):
            visit(layer, head, weights[0, head].float().clone())


@contextmanager
def _watching_ours(encoder: Any, visit: Visit) -> Iterator[None]:
    """Watch the layers, not their attention: a layer that streams takes that apart."""
    hooks = []
    for number, layer in enumerate(encoder.encoder.layers):
        if layer.attention is not None:

            def show(layer: Any, inputs: tuple[Any, ...], number: int = number) -> None:
                x = layer.attention_norm(inputs[0]) if layer.pre_norm else inputs[0]
                for head, matrix in enumerate(attention_maps(layer.attention, x)):
                    visit(number, head, matrix)

            hooks.append(layer.register_forward_pre_hook(show))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def attention_maps(attention: Attention, x: Float[Tensor, "1 n hidden"]) -> Iterator[Float[Tensor, "n n"]]:
    """The map of each head of one of our attention modules: what it reads is the map times the tokens' values.

    Args:
        attention: softmax, Linformer or k-free.
        x: its input, without padding.

    Raises:
        ValueError: max pooling, which is not linear in the values.
    """
    query, key = (attention.split_heads(linear(x))[0] for linear in (attention.q_proj, attention.k_proj))
    if isinstance(attention, SoftmaxAttention) or x.shape[1] <= attention.exact_length:
        for head in range(len(query)):
            yield _softmax_rows(query[head], key[head])
    elif isinstance(attention, KFreeAttention):
        for head in range(len(query)):
            yield query[head].float().softmax(-1) @ key[head].float().softmax(0).T
    elif isinstance(attention, LinformerAttention):
        yield from _linformer_maps(attention, x, query, key)
    else:
        raise ValueError(f"{type(attention).__name__} has no n x n map")


def _linformer_maps(
    attention: LinformerAttention,
    x: Float[Tensor, "1 n hidden"],
    query: Float[Tensor, "heads n head_dim"],
    key: Float[Tensor, "heads n head_dim"],
) -> Iterator[Float[Tensor, "n n"]]:
    projection, window, first = attention.value_projection, attention.local_window, attention.global_tokens
    if not projection.is_linear:
        raise ValueError(
            f"projection_kind={projection.kind!r} has no n x n map, as a maximum is no sum over tokens; use a model "
            "of another kind"
        )
    n, slots = x.shape[1], attention.projected_dim
    documents = Documents(None, n, x.device)
    _, weights = attention.read(x, attention.build_memory(x, documents, return_weights=True), return_weights=True)
    assert weights is not None
    slopes = None
    if isinstance(projection, AttentionPoolProjection):
        rows, slopes = _rows_of_pooling(attention, projection, x, documents.after(first))
    else:
        rows = matrix_of(projection, documents.after(first), x.dtype)
    near = torch.arange(n, device=x.device)[:, None] + torch.arange(-window, window + 1, device=x.device)
    for head in range(len(query)):
        w = weights[0, head]
        matrix = w[:, :slots] @ rows[head % len(rows)].to(w.dtype)
        if slopes is not None:
            matrix += query[head] * attention.head_dim**-0.5 @ slopes[head].to(w.dtype)
        matrix[:, :first] += w[:, slots : slots + first]
        if window:  # what lies beyond the text has no weight
            matrix.scatter_add_(1, near.clamp(0, n - 1), w[:, slots + first :])
        matrix[:first] = _softmax_rows(query[head, :first], key[head])
        yield matrix.float()


def _rows_of_pooling(
    attention: LinformerAttention, projection: AttentionPoolProjection, x: Float[Tensor, "1 n hidden"], rest: Documents
) -> tuple[Float[Tensor, "heads slots n"], Float[Tensor, "heads head_dim n"] | None]:
    """What becomes of the tokens in the slots, and in the slope: the values are one-hot, some columns at a time."""
    n, size = x.shape[1], attention.head_dim
    keys = attention.k_proj(x).unflatten(-1, (attention.num_attention_heads, size))
    plan = attention._plan(x, None, rest, None)
    rows, slopes = [], []
    for values in torch.eye(n, -(-n // size) * size, dtype=x.dtype, device=x.device).split(size, dim=1):
        values = values[None, :, None].expand(keys.shape)
        slots, slope = finish(projection.pool(keys, values, plan, rest).sums, plan, slope=not attention.local_window)
        rows.append(slots.values[0])
        slopes += [] if slope is None else [slope[0]]
    return torch.cat(rows, -1)[..., :n], torch.cat(slopes, -1)[..., :n] if slopes else None


def _softmax_rows(query: Float[Tensor, "rows head_dim"], key: Float[Tensor, "n head_dim"]) -> Float[Tensor, "rows n"]:
    return (query @ key.T * query.shape[-1] ** -0.5).softmax(-1, dtype=torch.float32)
