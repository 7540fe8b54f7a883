"""The papers' equations in plain loops: the oracle that every fast path is held to.

Nothing here is clever or fast. Each sample is reduced to the tokens it keeps, and each head and query is computed on
its own, so padding, batching, blocks and the order of multiplication cannot go wrong in the same way as in the modules
under test. Everything is differentiable, in any floating dtype. Dropout is not applied.

In this file token ``i`` of a sample is the i-th token that its mask KEEPS; rows of E, pooling windows, convolution
strides and blocks of the window all count in it.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor


class _Compressed(NamedTuple):
    """The ``k`` keys and values that one head attends to, and what is added to the score of each."""

    keys: Float[Tensor, "projected head_dim"]
    values: Float[Tensor, "projected head_dim"]
    biases: list[Tensor | float]  # -inf = the slot is removed from the softmax
    # Where slots stand for tokens: a token attended exactly takes its share from its slot.
    slot_of_token: list[int] | None
    shares: list[Tensor | float]
    # What each scaled query adds, where there is no window.
    slope: Float[Tensor, "head_dim head_dim"] | None = None


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


def compressed_by_projections(
    keys: Float[Tensor, "seq head_dim"],
    values: Float[Tensor, "seq head_dim"],
    key_projection: Any,
    value_projection: Any,
    head: int,
    empty: bool,
) -> _Compressed:
    """Slots of the paper's kinds. ``empty``: there is nothing to compress, so that no slot is left."""
    k = key_projection.projected_dim
    if not len(keys):
        zeros = keys.new_zeros(k, keys.shape[1])
        return _Compressed(zeros, zeros, [-math.inf if empty else 0.0] * k, None, [])
    masses = slot_masses(key_projection, len(keys))
    slots = slot_of_token(len(keys), k) if key_projection.kind in ("mean_pool", "max_pool") else None
    return _Compressed(
        keys=compress(key_projection, keys, head),
        values=compress(value_projection, values, head),
        biases=[math.log(mass) if mass else -math.inf for mass in masses],
        slot_of_token=slots,
        shares=[] if slots is None else [1 / masses[j] for j in slots],
    )


def compressed_by_attention(
    keys: Float[Tensor, "seq head_dim"],
    values: Float[Tensor, "seq head_dim"],
    readers: Float[Tensor, "readers head_dim"],
    projection: Any,
    cross: bool,
    window: int,
) -> _Compressed:
    """Slots that are attention over their own tokens (``attention_pool``, ``cluster``; see ``slots.py``).

    ``readers``: the scaled queries of the same tokens, or with ``cross`` all queries.
    """
    n, k = len(keys), projection.projected_dim
    if not n:
        zeros = keys.new_zeros(k, keys.shape[1])
        return _Compressed(zeros, zeros, [-math.inf] * k, None, [])
    count = min(n, projection.sample_tokens)
    sample = [i * n // count for i in range(count)]
    slots = [i * k // count for i in range(count)]
    centroids: dict[int, Tensor] = {}
    for step in range(projection.lloyd_steps + 1):
        if step:
            slots = [_nearest(keys[i], centroids) for i in sample]
        for j in set(slots):
            centroids[j] = keys[[i for i, slot in zip(sample, slots, strict=True) if slot == j]].mean(0)

    size = projection.sample_tokens // 2
    chosen = [i * len(readers) // size for i in range(size)] if cross else sample[::2]
    queries = readers[chosen]
    filled = sorted(centroids)
    reading = torch.softmax(queries @ torch.stack([centroids[j] for j in filled]).T, dim=1)
    members: dict[int, list[int]] = {j: [] for j in range(k)}
    slot_of = [_nearest(key, centroids) if projection.kind == "cluster" else i * k // n for i, key in enumerate(keys)]
    for i, j in enumerate(slot_of):
        members[j].append(i)

    slot_keys, slot_values, biases, references = [], [], [], []
    products, mass = keys.new_zeros(keys.shape[1], keys.shape[1]), keys.new_zeros(())
    shares: list[Tensor | float] = [0.0] * n
    for j in range(k):
        if not members[j]:
            slot_keys.append(keys.new_zeros(keys.shape[1]))
            slot_values.append(values.new_zeros(values.shape[1]))
            biases.append(-math.inf)
            references.append(keys.new_zeros(keys.shape[1]))
            continue
        if j in centroids:
            weights = reading[:, filled.index(j)]
            weights = weights / (weights.sum() + 1e-20)
            reference = weights @ queries
            spread = (weights @ queries**2 - reference**2).clamp(min=0)
        else:  # a window without a sampled token; nothing is known of its readers
            reference = spread = keys.new_zeros(keys.shape[1])
        references.append(reference)
        scores = keys[members[j]] @ reference
        p = torch.softmax(scores, dim=0)
        key = p @ keys[members[j]]
        variance = (p @ keys[members[j]] ** 2 - key**2).clamp(min=0)
        slot_keys.append(key)
        slot_values.append(p @ values[members[j]])
        biases.append(torch.logsumexp(scores, dim=0) - reference @ key + (spread * variance).sum() / 2)
        for i, share in zip(members[j], p, strict=True):
            shares[i] = share
        # The covariance of keys and values in the slot, weighed by exp(score - score of the centroid).
        total = (scores - reference @ centroids[j]).exp().sum() if j in centroids else scores.new_tensor(len(scores))
        covariance = (p[:, None] * keys[members[j]]).T @ values[members[j]] - torch.outer(key, slot_values[-1])
        products, mass = products + total * covariance, mass + total
    slope = products / mass
    if window:
        return _Compressed(torch.stack(slot_keys), torch.stack(slot_values), biases, slot_of, shares)
    values = torch.stack(slot_values) - torch.stack(references) @ slope
    return _Compressed(torch.stack(slot_keys), values, biases, slot_of, shares, slope)


def _nearest(key: Float[Tensor, " head_dim"], centroids: dict[int, Tensor]) -> int:
    """The nearest centroid, the last of several that are equally near."""
    return max(centroids, key=lambda j: (-float((key - centroids[j]).detach().norm()), j))


def window_of(i: int, window: int, num_tokens: int) -> range:
    """Tokens that query ``i`` sees exactly: those at most ``window`` away, itself included."""
    return range(max(i - window, 0), min(i + window + 1, num_tokens)) if window else range(0)


def linformer_head(
    queries: Float[Tensor, "queries head_dim"],
    keys: Float[Tensor, "seq head_dim"],
    values: Float[Tensor, "seq head_dim"],
    key_projection: Any,
    value_projection: Any,
    head: int,
    local_window: int = 0,
    global_tokens: int = 0,
    cross: bool = False,
) -> tuple[Float[Tensor, "queries head_dim"], Float[Tensor, "queries columns"]]:
    """One head of Linformer, equation 7: ``softmax(Q (E K)^T / sqrt(d_h)) F V``.

    Additions of ours. A pooled slot carries its mass: ``log c_j`` is added to its score, as if its ``c_j`` tokens
    were there. With ``local_window = w`` the same softmax also holds the exact tokens of the query's block and of ``w``
    on each side of it (as in Transformer-LS, arXiv 2107.02192); a token attended exactly takes its share from its slot.
    With ``global_tokens = g`` the first g tokens are attended exactly by all, attend to all n tokens themselves by
    plain softmax attention (as in Longformer, arXiv 2004.05150), and are left out of slots and neighbours.

    Returns:
        The head's output, and its weights: ``k`` columns for the slots, ``g`` for the global tokens and, if ``w > 0``,
        ``2 w + 1`` for the tokens near, token ``j`` of query ``i`` in column ``k + g + w + j - i``.
        Masked columns are 0, and so are the rows of global tokens.
    """
    k, w, g = key_projection.projected_dim, local_window, global_tokens
    if key_projection.kind in ("attention_pool", "cluster"):
        readers = queries * queries.shape[1] ** -0.5
        readers = readers if cross else readers[g:]
        slots = compressed_by_attention(keys[g:], values[g:], readers, key_projection, cross, w)
    else:
        slots = compressed_by_projections(keys[g:], values[g:], key_projection, value_projection, head, g > 0)
    columns = k + g + (2 * w + 1 if w > 0 else 0)
    outputs, weights = [], []
    for i in range(len(queries)):
        if i < g:
            output, _ = softmax_head(queries[i : i + 1], keys, values)
            outputs.append(output[0])
            weights.append(queries.new_zeros(columns))
        else:
            output, row = _linformer_query(queries[i], i, keys, values, slots, w, g, columns)
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
    columns: int,
) -> tuple[Float[Tensor, " head_dim"], Float[Tensor, " columns"]]:
    """Row ``i`` of equation 7: output and weights of one query."""
    k, w, g = len(slots.biases), local_window, global_tokens
    window = [j for j in window_of(i, w, len(keys)) if j >= g]

    left: list[Tensor | float] = [1.0] * k
    if slots.slot_of_token is not None:
        for j in window:
            left[slots.slot_of_token[j - g]] = left[slots.slot_of_token[j - g]] - slots.shares[j - g]
    valid = [j for j in range(k) if slots.biases[j] != -math.inf and left[j] > 1e-5]
    exact = [*range(min(g, len(keys))), *window]

    attended_keys = torch.cat([slots.keys[valid], keys[exact]])
    attended_values = torch.cat([slots.values[valid], values[exact]])
    bias = [_number(slots.biases[j], query) + _number(left[j], query).log() for j in valid]
    bias = torch.stack([*bias, *(query.new_zeros(()) for _ in exact)])
    probabilities = torch.softmax(attended_keys @ query / math.sqrt(len(query)) + bias, dim=0)

    weights = query.new_zeros(columns)
    places = [*valid, *(k + j for j in range(min(g, len(keys)))), *(k + g + w + j - i for j in window)]
    weights[places] = probabilities
    output = probabilities @ attended_values
    if slots.slope is not None:
        output = output + query @ slots.slope / math.sqrt(len(query))
    return output, weights


def _number(x: Tensor | float, like: Tensor) -> Tensor:
    return x if isinstance(x, Tensor) else like.new_tensor(x)


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


def causal_head(
    queries: Float[Tensor, "seq head_dim"],
    keys: Float[Tensor, "seq head_dim"],
    values: Float[Tensor, "seq head_dim"],
    segment_length: int,
    segment_slots: int,
    columns: int,
) -> tuple[Float[Tensor, "seq head_dim"], Float[Tensor, "seq columns"]]:
    """Causal attention over slots of segments that have ended (after Transformer-LS, arXiv 2107.02192, section 3.2).

    Token ``i`` of segment ``t`` attends to the tokens of segments ``t - 1`` and ``t`` up to itself, and to the slots of
    segments ``0 ... t - 2``: means of ``segment_length / segment_slots`` neighbours, with the logarithm of their number
    added to the score.

    Returns:
        The head's output, and its weights: a column for each slot, then ``2 segment_length`` for the tokens of the
        segment before and of the query's own.
    """
    size = segment_length // segment_slots
    outputs, weights = [], []
    for i, query in enumerate(queries):
        segment = i // segment_length
        slots = range(max(segment - 1, 0) * segment_slots)
        near = range(max(segment - 1, 0) * segment_length, i + 1)
        rows = [torch.arange(j * size, (j + 1) * size) for j in slots]
        seen_keys = torch.stack([*(keys[tokens].mean(0) for tokens in rows), *(keys[j] for j in near)])
        seen_values = torch.stack([*(values[tokens].mean(0) for tokens in rows), *(values[j] for j in near)])
        bias = query.new_tensor([math.log(size)] * len(slots) + [0.0] * len(near))
        probabilities = torch.softmax(seen_keys @ query / math.sqrt(len(query)) + bias, dim=0)
        row = query.new_zeros(columns)
        row[[*slots, *(columns - segment_length + j - segment * segment_length for j in near)]] = probabilities
        outputs.append(probabilities @ seen_values)
        weights.append(row)
    return torch.stack(outputs), torch.stack(weights)


def reference_attention(
    attention: Any,
    hidden_states: Float[Tensor, "batch seq hidden"],
    attention_mask: Bool[Tensor, "batch source"] | Integer[Tensor, "batch source"] | None = None,
    context: Float[Tensor, "batch source hidden"] | None = None,
) -> tuple[Float[Tensor, "batch seq hidden"], Float[Tensor, "batch heads seq columns"]]:
    """Output and weights of an attention module of this package, computed from its parameters.

    Args:
        attention: the module; only its weights are used, never its code (beyond the ``nn.Linear`` projections).
        hidden_states: the queries, and without ``context`` the keys and values.
        attention_mask: nonzero = keep; belongs to ``context`` where that is given.
        context: keys and values of cross-attention; every query is then computed.

    Returns:
        ``output``: zero at padded queries, and in a sample that keeps no key. ``weights``: zero there too; columns are
        those of `linformer_head` or `causal_head`, the positions of the source (softmax), or the ``d_h`` features
        (k-free).
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
                head_output, head_weights = _head(
                    attention, q[:, part], k[:, part], v[:, part], head, context is not None, columns
                )
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
    cross: bool,
    columns: int,
) -> tuple[Float[Tensor, "queries head_dim"], Float[Tensor, "queries _"]]:
    if _is_causal(attention):
        return causal_head(queries, keys, values, attention.segment_length, attention.segment_slots, columns)
    if _is_linformer(attention):
        projections = attention.key_projection, attention.value_projection
        return linformer_head(
            queries, keys, values, *projections, head, attention.local_window, attention.global_tokens, cross
        )
    if _is_kfree(attention):
        return kfree_head(queries, keys, values)
    return softmax_head(queries, keys, values)


def _is_linformer(attention: Any) -> bool:
    return hasattr(attention, "key_projection")


def _is_causal(attention: Any) -> bool:
    return hasattr(attention, "segment_slots")


def _is_kfree(attention: Any) -> bool:
    # By name: this file reads the modules' weights and imports none of their code.
    return any(base.__name__ == "KFreeAttention" for base in type(attention).__mro__)


def _num_columns(attention: Any, source_length: int) -> int:
    if _is_causal(attention):
        full = source_length // attention.segment_length
        return full * attention.segment_slots + 2 * attention.segment_length
    if _is_linformer(attention):
        window = attention.local_window
        slots = attention.key_projection.projected_dim + attention.global_tokens
        return slots + (2 * window + 1 if window > 0 else 0)
    return attention.head_dim if _is_kfree(attention) else source_length
