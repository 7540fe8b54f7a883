"""Softmax attention of queries over a set of keys: the one place that calls the fused kernel."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def attend(
    query: Float[Tensor, "batch heads seq head_dim"],
    key: Float[Tensor, "batch heads keys head_dim"],
    value: Float[Tensor, "batch heads keys head_dim"],
    bias: Float[Tensor, "#batch 1 #seq keys"] | None = None,
    dropout: float = 0.0,
    return_weights: bool = False,
) -> tuple[Float[Tensor, "batch heads seq head_dim"], Float[Tensor, "batch heads seq keys"] | None]:
    """``softmax(query key^T / sqrt(head_dim) + bias) value``.

    With compressed keys and values this is equation 7 of Linformer (section 4). ``scaled_dot_product_attention``
    does the work; only where the weights are asked for is the plain formula used, softmax in at least float32.

    Args:
        query: Queries.
        key: Keys, one per slot or token.
        value: Values of the same slots or tokens.
        bias: Added to the scores; -inf removes a key. Every query must keep at least one key.
        dropout: Probability of dropping a weight.
        return_weights: Also return the weights (after dropout).

    Returns:
        The attended values, and the weights or None.
    """
    if not return_weights:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout), None
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    accumulate = torch.promote_types(scores.dtype, torch.float32)
    weights = F.dropout(scores.softmax(-1, dtype=accumulate).to(query.dtype), dropout)
    return weights @ value, weights
