"""The papers' equations in plain loops: the oracle that every fast path is held to.

Nothing here is clever or fast. Each sample is reduced to the tokens it keeps, and each head and query is computed on
its own, so padding, batching, blocks and the order of multiplication cannot go wrong in the same way as in the modules
under test. Everything is differentiable, in any floating dtype. Dropout is not applied.

In this file token ``i`` of a sample is the i-th token that its mask KEEPS; rows of E, pooling windows, convolution
strides and the local window all count in it.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor


class _Compressed(NamedTuple):
    """The ``k`` keys and values that one head attends to, and how many tokens each stands for."""

    keys: Float[Tensor, "projected head_dim"]
    values: Float[Tensor, "projected head_dim"]
    masses: list[int]  # 0 = the slot is removed from the softmax
    slot_of_token: list[int] | None  # pooling only: a token attended exactly leaves the mass of its slot


def slot_of_token(num_tokens: int, projected_dim: int) -> list[int]:
    """Pooling slot of each token: ``floor(i * k / n)``, cut from the sample's own length ``n``."""
    return [i * projected_dim // num_tokens for i in range(num_tokens)]


def slot_masses(projection: Any, num_tokens: int) -> list[int]:
    """How many tokens each slot stands for in the softmax; 0 for a slot that is masked out.

    A pooled slot counts its tokens. Linear slots are all valid and count 1, as in the paper; so do convolution slots,
    where slot ``j`` is valid if its stride starts inside the sequence.
    """
    slots = range(projection.projected_dim)
    if projection.kind == "linear":
        return [1 for _ in slots]
    if projection.kind == "conv":
        return [1 if j * conv_stride(projection) < num_tokens else 0 for j in slots]
    return [slot_of_token(num_tokens, projection.projected_dim).count(j) for j in slots]


def conv_stride(projection: Any) -> int:
    """Stride (and width) of the convolution: ``ceil(max_length / k)`` tokens."""
    return math.ceil(projection.max_length / projection.projected_dim)


def projection_matrix(projection: Any, num_tokens: int, head: int) -> Float[Tensor, "projected seq"]:
    """The matrix ``E`` of Linformer, section 4, of shape (k, n), for one head and a sample of ``n`` kept tokens.

    linear: the first n rows of the stored weight, which is the transpose of the paper's E.
    mean_pool: ``1 / c_j`` at each of the ``c_j`` tokens of slot j.
    conv: the kernel, once per slot, at offset ``j * stride``; cut off at the end of the sequence.

    Raises:
        ValueError: max_pool, which is not linear and has no matrix.
    """
    if projection.kind == "max_pool":
        raise ValueError("kind='max_pool' has no projection matrix: use compress()")
    if projection.kind == "mean_pool":
        matrix = torch.zeros(projection.projected_dim, num_tokens, dtype=torch.float64)
        masses = slot_masses(projection, num_tokens)
        for i, j in enumerate(slot_of_token(num_tokens, projection.projected_dim)):
            matrix[j, i] = 1 / masses[j]
        return matrix

    weight = projection.weight[head] if projection.per_head else projection.weight
    if projection.kind == "linear":
        return weight[:num_tokens].T
    stride = conv_stride(projection)
    matrix = weight.new_zeros(projection.projected_dim, num_tokens)
    for i in range(num_tokens):
        matrix[i // stride, i] = weight[i % stride]
    return matrix


def compress(projection: Any, rows: Float[Tensor, "seq head_dim"], head: int) -> Float[Tensor, "projected head_dim"]:
    """``E K`` (or ``F V``) of Linformer, section 4; for max_pool the elementwise maximum of each slot's rows.

    Slots without a token are zero; `slot_masses` masks them.
    """
    num_tokens = len(rows)
    if projection.kind != "max_pool":
        return projection_matrix(projection, num_tokens, head).to(rows) @ rows
    slots = slot_of_token(num_tokens, projection.projected_dim)
    compressed = []
    for j in range(projection.projected_dim):
        members = [i for i in range(num_tokens) if slots[i] == j]
        compressed.append(rows[members].amax(dim=0) if members else rows.new_zeros(rows.shape[1]))
    return torch.stack(compressed)


def linformer_head(
    queries: Float[Tensor, "queries head_dim"],
    keys: Float[Tensor, "seq head_dim"],
    values: Float[Tensor, "seq head_dim"],
    key_projection: Any,
    value_projection: Any,
    head: int,
    local_window: int = 0,
    global_tokens: int = 0,
) -> tuple[Float[Tensor, "queries head_dim"], Float[Tensor, "queries columns"]]:
    """One head of Linformer, equation 7: ``softmax(Q (E K)^T / sqrt(d_h)) F V``.

    Three additions of ours. A pooled slot carries its mass: ``log c_j`` is added to its score, as if its ``c_j`` tokens
    were there. With ``local_window = w`` the same softmax also holds the exact tokens ``|i - j| <= w`` (as in
    Transformer-LS, arXiv 2107.02192); a token attended exactly leaves the mass of its pooled slot. With
    ``global_tokens = g`` the first g tokens are attended exactly by all, attend to all n tokens themselves by plain
    softmax attention (as in Longformer, arXiv 2004.05150), and are left out of slots and neighbours.

    Returns:
        The head's output, and its weights: ``k`` columns for the slots, ``g`` for the global tokens and, if ``w > 0``,
        ``2 w + 1`` for the neighbours, neighbour ``j`` of query ``i`` in column ``k + g + (j - i + w)``. Masked columns
        are 0, and so are the rows of global tokens.
    """
    k, w, g = key_projection.projected_dim, local_window, global_tokens
    others = max(len(keys) - g, 0)
    slots = _Compressed(
        keys=compress(key_projection, keys[g:], head) if others else keys.new_zeros(k, keys.shape[1]),
        values=compress(value_projection, values[g:], head) if others else values.new_zeros(k, values.shape[1]),
        masses=slot_masses(key_projection, others) if others or g == 0 else [0] * k,
        slot_of_token=slot_of_token(others, k) if key_projection.kind in ("mean_pool", "max_pool") else None,
    )
    outputs, weights = [], []
    for i in range(len(queries)):
        if i < g:
            output, _ = softmax_head(queries[i : i + 1], keys, values)
            outputs.append(output[0])
            weights.append(queries.new_zeros(k + g + (2 * w + 1 if w > 0 else 0)))
        else:
            output, row = _linformer_query(queries[i], i, keys, values, slots, w, g)
            outputs.append(output)
            weights.append(row)
    return torch.stack(outputs), torch.stack(weights)


def _linformer_query(
    query: Float[Tensor, " head_dim"],
    i: int,
    keys: Float[Tensor, "seq head_dim"],
    values: Float[Tensor, "seq head_dim"],
    slots: _Compressed,
    local_window: int,
    global_tokens: int,
) -> tuple[Float[Tensor, " head_dim"], Float[Tensor, " columns"]]:
    """Row ``i`` of equation 7: output and weights of one query."""
    k, w, g = len(slots.masses), local_window, global_tokens
    window = range(max(g, i - w), min(len(keys), i + w + 1)) if w > 0 else range(0)

    masses = list(slots.masses)
    if slots.slot_of_token is not None:
        for j in window:
            masses[slots.slot_of_token[j - g]] -= 1
    valid = [j for j in range(k) if masses[j] > 0]
    exact = [*range(min(g, len(keys))), *window]

    attended_keys = torch.cat([slots.keys[valid], keys[exact]])
    attended_values = torch.cat([slots.values[valid], values[exact]])
    bias = query.new_tensor([math.log(masses[j]) for j in valid] + [0.0 for _ in exact])
    probabilities = torch.softmax(attended_keys @ query / math.sqrt(len(query)) + bias, dim=0)

    weights = query.new_zeros(k + g + (2 * w + 1 if w > 0 else 0))
    columns = [*valid, *(k + j for j in range(min(g, len(keys)))), *(k + g + (j - i + w) for j in window)]
    weights[columns] = probabilities
    return probabilities @ attended_values, weights


def softmax_head(
    queries: Float[Tensor, "queries head_dim"],
    keys: Float[Tensor, "seq head_dim"],
    values: Float[Tensor, "seq head_dim"],
) -> tuple[Float[Tensor, "queries head_dim"], Float[Tensor, "queries seq"]]:
    """Scaled dot-product attention: ``softmax(Q K^T / sqrt(d_h)) V`` (Linformer, equation 2)."""
    weights = torch.softmax(queries @ keys.T / math.sqrt(queries.shape[1]), dim=1)
    return weights @ values, weights


def kfree_head(
    queries: Float[Tensor, "queries head_dim"],
    keys: Float[Tensor, "seq head_dim"],
    values: Float[Tensor, "seq head_dim"],
) -> tuple[Float[Tensor, "queries head_dim"], Float[Tensor, "queries head_dim"]]:
    """K-free attention: ``softmax_d(Q) (softmax_n(K)^T V)``.

    Verma 2021 (arXiv 2101.10277) asks for linear cost without a k to choose; the factorisation is that of Efficient
    Attention (Shen et al., arXiv 1812.01243). ``softmax_n(K)^T`` has the role of F, with ``k = d_h`` slots.
    """
    weights = torch.softmax(queries, dim=1)
    return weights @ (torch.softmax(keys, dim=0).T @ values), weights


def reference_attention(
    attention: Any,
    hidden_states: Float[Tensor, "batch seq hidden"],
    attention_mask: Bool[Tensor, "batch source"] | Integer[Tensor, "batch source"] | None = None,
    context: Float[Tensor, "batch source hidden"] | None = None,
) -> tuple[Float[Tensor, "batch seq hidden"], Float[Tensor, "batch heads seq columns"]]:
    """Output and weights of a LinformerAttention, SoftmaxAttention or KFreeAttention, computed from its parameters.

    Args:
        attention: the module; only its weights are used, never its code (beyond the ``nn.Linear`` projections).
        hidden_states: the queries, and without ``context`` the keys and values.
        attention_mask: nonzero = keep; belongs to ``context`` where that is given.
        context: keys and values of cross-attention; every query is then computed.

    Returns:
        ``output``: zero at padded queries, and in a sample that keeps no key. ``weights``: zero there too; columns are
        those of `linformer_head`, the positions of the source (softmax), or the ``d_h`` features (k-free).
    """
    source = hidden_states if context is None else context
    batch, seq, _ = hidden_states.shape
    heads, head_dim = attention.num_attention_heads, attention.head_dim

    columns = _num_columns(attention, source.shape[1])

    outputs, all_weights = [], []
    for sample in range(batch):
        kept = list(range(source.shape[1]))
        if attention_mask is not None:
            kept = [i for i in kept if attention_mask[sample, i] != 0]
        computed = kept if context is None else list(range(seq))

        output = torch.zeros_like(hidden_states[sample])
        weights = hidden_states.new_zeros(heads, seq, columns)
        if kept:
            q = attention.q_proj(hidden_states[sample, computed])
            k = attention.k_proj(source[sample, kept])
            v = attention.v_proj(source[sample, kept])
            head_outputs = []
            for head in range(heads):
                part = slice(head * head_dim, (head + 1) * head_dim)
                head_output, head_weights = _head(attention, q[:, part], k[:, part], v[:, part], head)
                head_outputs.append(head_output)
                if head_weights.shape[1] == columns:
                    weights[head, computed] = head_weights
                else:  # softmax attention: a column per kept token, put back where that token is
                    weights[head, torch.tensor(computed)[:, None], torch.tensor(kept)] = head_weights
            output[computed] = attention.o_proj(torch.cat(head_outputs, dim=1))
        outputs.append(output)
        all_weights.append(weights)
    return torch.stack(outputs), torch.stack(all_weights)


def _head(
    attention: Any,
    queries: Float[Tensor, "queries head_dim"],
    keys: Float[Tensor, "seq head_dim"],
    values: Float[Tensor, "seq head_dim"],
    head: int,
) -> tuple[Float[Tensor, "queries head_dim"], Float[Tensor, "queries columns"]]:
    if _is_linformer(attention):
        projections = attention.key_projection, attention.value_projection
        return linformer_head(
            queries, keys, values, *projections, head, attention.local_window, attention.global_tokens
        )
    if _is_kfree(attention):
        return kfree_head(queries, keys, values)
    return softmax_head(queries, keys, values)


def _is_linformer(attention: Any) -> bool:
    return hasattr(attention, "key_projection")


def _is_kfree(attention: Any) -> bool:
    # By name: this file reads the modules' weights and imports none of their code.
    return any(base.__name__ == "KFreeAttention" for base in type(attention).__mro__)


def _num_columns(attention: Any, source_length: int) -> int:
    if _is_linformer(attention):
        window = attention.local_window
        slots = attention.key_projection.projected_dim + attention.global_tokens
        return slots + (2 * window + 1 if window > 0 else 0)
    return attention.head_dim if _is_kfree(attention) else source_length
