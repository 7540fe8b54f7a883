"""The local window: the exact tokens around each query beside the slots, in blocks, O(n (k + w)).

Low rank blurs exactly what is near. Here one softmax runs over the slots and the w tokens on each side of the query, as
in Transformer-LS (Zhu et al., arXiv 2107.02192). Queries are cut into blocks; a block computes the scores of the slots,
of itself and of a halo of w tokens on each side. There is never an n x n mask.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from linformers.attention.distances import Distances
from linformers.attention.documents import Documents
from linformers.attention.keys import Keys, Through, attend, bias_of

# Every block copies the slots, which wants wide blocks; every query computes the scores of its whole block, which wants
# narrow ones. A slot with less than SMALLEST_SHARE of its mass left beside the exact tokens is none: it is a difference
# of sums.
MIN_BLOCK, SMALLEST_SHARE = 64, 1e-5


@dataclass(frozen=True)
class Nearby:
    """The tokens that a window may show.

    Attributes:
        keys: Keys of the tokens at hand, between those of ``before`` more on each side.
        values: Their values.
        before: Tokens of other processes that come before the first at hand.
        slots: The slot of each token, where slots stand for tokens; else None.
        shares: Each token's share of its slot.
        distances: What is added to their scores; the bias of the seen is that of each query then.
    """

    keys: Float[Tensor, "batch tokens heads head_dim"]
    values: Float[Tensor, "batch tokens heads head_dim"]
    before: int = 0
    slots: Int[Tensor, "#batch #heads tokens"] | None = None
    shares: Float[Tensor, "#batch #heads tokens"] | None = None
    distances: Distances | None = None

    @classmethod
    def around(
        cls,
        keys: Float[Tensor, "batch seq heads head_dim"],
        values: Float[Tensor, "batch seq heads head_dim"],
        members: tuple[Tensor, Tensor] | None,
        documents: Documents,
        window: int,
    ) -> "Nearby":
        """The tokens at hand, and those of other processes that are near; ``members``: slots and shares."""
        slots, shares = (None, None) if members is None else members
        if documents.whole:
            return cls(keys, values, 0, slots, shares)
        both, before = documents.with_neighbours(torch.cat([keys, values], dim=-1), window)
        keys, values = both.chunk(2, dim=-1)
        if slots is not None and shares is not None:
            marks = torch.stack([slots.to(shares.dtype), shares], dim=-1).expand(len(keys), -1, -1, -1)
            marks, _ = documents.with_neighbours(marks.transpose(1, 2), window)
            slots, shares = marks.transpose(1, 2).unbind(-1)
            slots = slots.long()
        return cls(keys, values, before, slots, shares)


def attend_in_blocks(
    query: Float[Tensor, "batch heads seq head_dim"],
    seen: Keys,
    nearby: Nearby,
    documents: Documents,
    *,
    window: int,
    start: int = 0,
    global_tokens: int = 0,
    dropout: float = 0.0,
    return_weights: bool | Through = False,
) -> tuple[Float[Tensor, "batch heads seq head_dim"], Float[Tensor, "batch heads seq _"] | None]:
    """One softmax over what all see and the tokens at most ``window`` away.

    A token that is seen exactly does not count in its slot, so that where every token has a slot to itself this is
    softmax attention.

    Args:
        query: Queries of the tokens at hand from number ``start`` on.
        seen: What every query sees; the slots come first.
        nearby: The tokens around them.
        documents: Where the tokens at hand stand.
        window: Tokens on each side of a query.
        start: Number of the first query among the tokens at hand.
        global_tokens: So many tokens at the start of a document are among the seen already.
        dropout: Probability of dropping a weight.
        return_weights: Also return the weights: the seen first, then column ``seen + window + (j - i)`` for token j. A
            function is called with them before they are used.
    """
    batch, _, seq, _ = query.shape
    slots = seen.keys.shape[2] - global_tokens
    block = max(MIN_BLOCK, window, slots // 2)
    if torch.compiler.is_compiling():  # the length is a symbol: one block would tie the graph to short sequences
        count = (seq + 2 * block - 1) // block
    else:
        block = min(block, seq)
        count = (seq + block - 1) // block
    offsets = torch.arange(block + 2 * window, device=query.device) - window
    place = start + torch.arange(count, device=query.device)[:, None] * block + offsets  # among the tokens at hand
    index = documents.first[:, None, None] + place
    usable = (index >= global_tokens) & (index < documents.totals[:, None, None])  # (#batch, count, width)
    local = (place + nearby.before).clamp(0, nearby.keys.shape[1] - 1).flatten()
    band = (offsets - torch.arange(block, device=query.device)[:, None]).abs() <= window  # (block, width)

    def of_blocks(common: Tensor, tokens: Tensor) -> Tensor:
        own = tokens.index_select(1, local).unflatten(1, place.shape)
        common = common.transpose(1, 2)[:, None].expand(-1, count, -1, -1, -1)
        return torch.cat([common, own], dim=2).flatten(0, 1).transpose(1, 2)

    near = bias_of(usable[:, :, None] & band, query.dtype)[:, :, None]
    if nearby.distances is None:
        of_seen = _lowered(seen, nearby, local, usable, block, slots)
    else:
        assert seen.bias is not None
        near = near + nearby.distances.between(offsets[window : window + block], offsets).to(query.dtype)
        of_seen = F.pad(seen.bias, (0, 0, 0, count * block - seq)).unflatten(2, (count, block)).transpose(1, 2)
    biases = [of_seen.to(query.dtype), near]
    shape = torch.broadcast_shapes(*(x.shape[:-1] for x in biases))
    bias = torch.cat([x.expand(*shape, -1) for x in biases], dim=-1)
    none = (bias == -torch.inf).all(-1, keepdim=True)  # padding, whose output is dropped, but stays finite
    bias = bias.masked_fill(none, 0).expand(batch, -1, -1, -1, -1).flatten(0, 1)

    def to_blocks(x: Tensor) -> Tensor:
        padded = F.pad(x.transpose(1, 2), (0, 0, 0, 0, 0, count * block - seq))
        return padded.unflatten(1, (count, block)).flatten(0, 1).transpose(1, 2)

    keys = Keys(of_blocks(seen.keys, nearby.keys), of_blocks(seen.values, nearby.values), bias)
    columns = torch.arange(block, device=query.device)[:, None] + torch.arange(2 * window + 1, device=query.device)

    def from_blocks(x: Tensor) -> Tensor:
        return x.transpose(1, 2).unflatten(0, (batch, count)).flatten(1, 2)[:, :seq].transpose(1, 2)

    def of_tokens(weights: Tensor) -> Tensor:
        near = weights[..., seen.keys.shape[2] :].gather(-1, columns.expand(*weights.shape[:2], -1, -1))
        return from_blocks(torch.cat([weights[..., : seen.keys.shape[2]], near], dim=-1))

    def through(weights: Tensor) -> Tensor:
        assert callable(return_weights)
        common, near = to_blocks(return_weights(of_tokens(weights))).tensor_split([seen.keys.shape[2]], dim=-1)
        none = torch.zeros_like(weights[..., seen.keys.shape[2] :])
        return torch.cat([common, none.scatter(-1, columns.expand_as(near), near)], dim=-1)

    asked = through if callable(return_weights) else return_weights
    read, weights = attend(to_blocks(query), keys, dropout, asked)
    return from_blocks(read), None if weights is None else of_tokens(weights)


def _lowered(
    seen: Keys,
    nearby: Nearby,
    local: Int[Tensor, " tokens"],
    usable: Bool[Tensor, "#batch count width"],
    block: int,
    slots: int,
) -> Float[Tensor, "#batch #count #heads #block seen"]:
    """The bias of the seen for each query, where a slot has lost what the query sees exactly."""
    bias = seen.keys.new_zeros(1, 1, 1, 1, seen.keys.shape[2]) if seen.bias is None else seen.bias[:, None]
    if nearby.slots is None or nearby.shares is None:
        return bias
    own, shares = (x.index_select(2, local).unflatten(2, usable.shape[1:]) for x in (nearby.slots, nearby.shares))
    shares = (shares * usable[:, None])[..., None]  # (#batch, #heads, count, width, 1)
    parts = torch.where(own[..., None] == torch.arange(slots, device=own.device), shares, 0)
    sums = F.pad(parts.cumsum(-2), (0, 0, 1, 0))  # row i: over the tokens before number i
    left = (1 - sums[..., -block:, :] + sums[..., :block, :]).transpose(1, 2)
    lost = left.clamp(min=SMALLEST_SHARE).log().masked_fill(left <= SMALLEST_SHARE, -torch.inf)
    return bias + F.pad(lost, (0, bias.shape[-1] - slots))
