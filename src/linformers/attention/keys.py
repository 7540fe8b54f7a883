"""Keys with a bias, the one notion of this package, and softmax attention over them.

Slots, global tokens, the tokens of a block and the tokens of a short document are all such sets; attention is one
softmax over their union.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from linformers.attention.documents import Documents, wide

Through = Callable[[Tensor], Tensor]
"""What attention weights go through before values are weighted by them: it keeps what the caller is to be given, and
returns weights made of that, so that gradients of the output reach what was given."""


@dataclass(frozen=True)
class Keys:
    """Keys, values, and what is added to the scores of each (-inf removes a key; None = 0)."""

    keys: Float[Tensor, "batch heads keys head_dim"]
    values: Float[Tensor, "batch heads keys head_dim"]
    bias: Float[Tensor, "#batch #heads #queries keys"] | None = None

    def raised(self, bias: Float[Tensor, "#batch heads queries keys"]) -> "Keys":
        """The same with more added to the scores."""
        return Keys(self.keys, self.values, bias if self.bias is None else self.bias + bias)

    def __add__(self, other: "Keys") -> "Keys":
        """The union."""
        keys = torch.cat([self.keys, other.keys], dim=2)
        values = torch.cat([self.values, other.values], dim=2)
        if self.bias is None and other.bias is None:
            return Keys(keys, values)
        biases = [x.keys.new_zeros(1, 1, 1, x.keys.shape[2]) if x.bias is None else x.bias for x in (self, other)]
        rows = torch.broadcast_shapes(*(bias.shape[:3] for bias in biases))
        return Keys(keys, values, torch.cat([bias.to(keys.dtype).expand(*rows, -1) for bias in biases], dim=-1))


def bias_of(keep: Bool[Tensor, "#batch *heads keys"], dtype: torch.dtype) -> Float[Tensor, "#batch *heads keys"]:
    """0 where a key is kept, -inf elsewhere."""
    return torch.zeros_like(keep, dtype=dtype).masked_fill(~keep, -torch.inf)


def token_keys(
    keys: Float[Tensor, "batch heads seq head_dim"],
    values: Float[Tensor, "batch heads seq head_dim"],
    documents: Documents,
) -> Keys:
    """Every token as a key. A document without tokens keeps its padding, so that its output stays finite."""
    if not documents.padded:
        return Keys(keys, values)
    return Keys(keys, values, bias_of(documents.keep | documents.empty[:, None], keys.dtype)[:, None, None])


def attend(
    query: Float[Tensor, "batch heads seq head_dim"],
    seen: Keys,
    dropout: float = 0.0,
    return_weights: bool | Through = False,
) -> tuple[Float[Tensor, "batch heads seq head_dim"], Float[Tensor, "batch heads seq keys"] | None]:
    """``softmax(query keys^T / sqrt(head_dim) + bias) values``.

    With compressed keys and values this is equation 7 of Linformer (section 4). ``scaled_dot_product_attention``
    does the work; only where the weights are asked for is the plain formula used, softmax in at least float32.

    Args:
        query: Queries. Each must see at least one key.
        seen: What they attend to.
        dropout: Probability of dropping a weight.
        return_weights: Also return the weights (after dropout); a function is called with them first.

    Returns:
        The attended values, and the weights or None.
    """
    bias = None if seen.bias is None else seen.bias.to(query.dtype)
    if return_weights is False:
        return F.scaled_dot_product_attention(query, seen.keys, seen.values, attn_mask=bias, dropout_p=dropout), None
    scores = query @ seen.keys.transpose(-1, -2) * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    weights = F.dropout(scores.softmax(-1, dtype=wide(scores)).to(query.dtype), dropout)
    weights = return_weights(weights) if callable(return_weights) else weights
    return weights @ seen.values, weights


def weighted_part(
    scores: Float[Tensor, "batch heads rows part"], values: Float[Tensor, "batch heads part head_dim"], dropout: float
) -> tuple[Float[Tensor, "batch heads rows head_dim"], Float[Tensor, "batch heads rows 1"]]:
    """``softmax(scores) values`` over a part of the tokens, and the logarithm of what the softmax was divided by."""
    # A softmax by hand: its sum is needed as well, and on a GPU the fused kernel is slow along a long axis.
    largest = scores.detach().amax(-1, keepdim=True)
    weights = (scores - largest).exp()
    total = weights.sum(-1, keepdim=True)
    weights = F.dropout(weights / total, dropout)
    return (weights.to(values.dtype) @ values).to(scores.dtype), largest + total.log()


def join_parts(
    parts: Sequence[tuple[Float[Tensor, "batch heads rows head_dim"], Float[Tensor, "batch heads rows 1"]]],
    documents: Documents,
) -> Float[Tensor, "batch heads rows head_dim"]:
    """One softmax over all tokens of the documents from those over their parts, here and in other processes."""
    if len(parts) == 1 and documents.whole:
        return parts[0][0]
    reads, log_sums = (torch.stack(x) for x in zip(*parts, strict=True))
    shares = (log_sums - documents.maximum(log_sums.amax(0))).exp()
    return documents.reduce((reads * shares).sum(0)) / documents.reduce(shares.sum(0))
