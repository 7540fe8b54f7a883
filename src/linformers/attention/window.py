"""The local window: the exact tokens around each block of queries beside the slots, O(n (k + w)).

Low rank blurs exactly what is near. Here one softmax runs over the slots and the tokens near, as in Transformer-LS (Zhu
et al., arXiv 2107.02192). Queries are cut into blocks; all of a block see the slots, the block itself and a halo of w
tokens on each side. There is no mask for each query, and never an n x n one.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from linformers.attention.documents import Documents, take_rows
from linformers.attention.keys import Keys, attend, bias_of
from linformers.attention.projection import sum_slots

# Tokens in a block: at least so many, and as many as its two halos. A slot with less than SMALLEST_SHARE of its mass
# left beside the exact tokens is none: it is a difference of sums.
MIN_BLOCK, SMALLEST_SHARE = 32, 1e-5


def block_size(window: int) -> int:
    """Queries in a block, in tokens."""
    return max(MIN_BLOCK, 2 * window)


@dataclass(frozen=True)
class Nearby:
    """The tokens that a window may show.

    Attributes:
        keys: Keys of the tokens at hand and of some more on each side.
        values: Their values.
        first: Index in the document of the first of them.
        slots: The slot of each token, where slots stand for tokens; else None.
        shares: Each token's share of its slot.
    """

    keys: Float[Tensor, "batch tokens heads head_dim"]
    values: Float[Tensor, "batch tokens heads head_dim"]
    first: Int[Tensor, " #batch"]
    slots: Int[Tensor, "#batch #heads tokens"] | None = None
    shares: Float[Tensor, "#batch #heads tokens"] | None = None

    @classmethod
    def around(
        cls,
        keys: Float[Tensor, "batch seq heads head_dim"],
        values: Float[Tensor, "batch seq heads head_dim"],
        members: tuple[Tensor, Tensor] | None,
        documents: Documents,
        window: int,
    ) -> "Nearby":
        """The tokens at hand, and those of other processes that their blocks reach; ``members``: slots and shares."""
        slots, shares = (None, None) if members is None else members
        if documents.whole:
            return cls(keys, values, documents.first, slots, shares)
        reach = window + block_size(window)
        both, before = documents.with_neighbours(torch.cat([keys, values], dim=-1), reach)
        keys, values = both.chunk(2, dim=-1)
        if slots is not None and shares is not None:
            marks = torch.stack([slots.to(shares.dtype), shares], dim=-1).expand(len(keys), -1, -1, -1)
            marks, _ = documents.with_neighbours(marks.transpose(1, 2), reach)
            slots, shares = marks.transpose(1, 2).unbind(-1)
            slots = slots.long()
        return cls(keys, values, documents.first - before, slots, shares)


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
    return_weights: bool = False,
) -> tuple[Float[Tensor, "batch heads seq head_dim"], Float[Tensor, "batch heads seq _"] | None]:
    """One softmax over what all see and the tokens of the block with its halo.

    Args:
        query: Queries of the tokens at hand from number ``start`` on.
        seen: What every query sees; the slots come first.
        nearby: The tokens around them.
        documents: Where the tokens at hand stand. Blocks begin at multiples of their size in the document.
        window: The halo, in tokens on each side of a block.
        start: Number of the first query among the tokens at hand.
        global_tokens: So many tokens at the start of a document are among the seen already.
        dropout: Probability of dropping a weight.
        return_weights: Also return the weights: the seen first, then the tokens from ``window`` before the block on.
    """
    batch, heads, seq, _ = query.shape
    block = block_size(window)
    first = documents.first + start  # index of the first query in its document
    lead = first % block  # queries of its block that come before it
    # Stretches of other processes begin anywhere in a block, and then there may be one block more. So there is in a
    # traced graph, which an axis of one block would tie to short sequences.
    one_more = not documents.whole or torch.compiler.is_compiling()
    count = (start % block + seq + (2 if one_more else 1) * block - 1) // block
    starts = (first - lead)[:, None] + torch.arange(count, device=query.device) * block
    index = starts[..., None] + torch.arange(-window, block + window, device=query.device)  # (#batch, count, width)
    usable = (index >= global_tokens) & (index < documents.totals[:, None, None])
    local = (index - nearby.first[:, None, None]).clamp(0, nearby.keys.shape[1] - 1)

    # Take what each block sees: the seen, then its own tokens.
    numbers = torch.arange(seen.keys.shape[2], device=query.device).expand(*local.shape[:2], -1)
    rows = torch.cat([numbers, local + numbers.shape[-1]], dim=-1)

    def of_blocks(common: Tensor, tokens: Tensor) -> Tensor:
        taken = take_rows(torch.cat([common.transpose(1, 2), tokens], dim=1), rows.flatten(1).expand(batch, -1))
        return taken.unflatten(1, (-1, rows.shape[2])).flatten(0, 1).transpose(1, 2)

    slots = seen.keys.shape[2] - global_tokens
    biases = [_lowered(seen, nearby, local, usable, slots), bias_of(usable, query.dtype)[:, :, None]]
    shape = torch.broadcast_shapes(*(x.shape[:-1] for x in biases))
    bias = torch.cat([x.to(query.dtype).expand(*shape, -1) for x in biases], dim=-1)
    none = (bias == -torch.inf).all(-1, keepdim=True)  # a block of padding; its output is dropped, but stays finite
    bias = bias.masked_fill(none, 0).expand(batch, -1, -1, -1).flatten(0, 1)
    keys = Keys(of_blocks(seen.keys, nearby.keys), of_blocks(seen.values, nearby.values), bias)

    place = torch.arange(count * block, device=query.device) - lead[:, None]  # of each query among those given
    blocks = take_rows(query.transpose(1, 2), place.clamp(0, seq - 1).expand(batch, -1))
    blocks = blocks.unflatten(1, (-1, block)).flatten(0, 1).transpose(1, 2)
    read, weights = attend(blocks, keys, dropout, return_weights)

    back = lead[:, None] + torch.arange(seq, device=query.device)

    def from_blocks(x: Tensor) -> Tensor:
        x = x.transpose(1, 2).unflatten(0, (batch, count)).flatten(1, 2)
        return take_rows(x, back.expand(batch, -1)).transpose(1, 2)

    return from_blocks(read), None if weights is None else from_blocks(weights)


def _lowered(
    seen: Keys,
    nearby: Nearby,
    local: Int[Tensor, "#batch count width"],
    usable: Bool[Tensor, "#batch count width"],
    slots: int,
) -> Float[Tensor, "#batch #count #heads seen"]:
    """The bias of the seen for each block, where a slot has lost what the block sees exactly."""
    bias = seen.keys.new_zeros(1, 1, seen.keys.shape[2]) if seen.bias is None else seen.bias
    bias = bias[:, None]
    if nearby.slots is None or nearby.shares is None:
        return bias
    rows = max(local.shape[0], nearby.slots.shape[0])
    heads, (count, width) = nearby.slots.shape[1], local.shape[1:]
    index = local.flatten(1).expand(rows, -1)
    own, shares = (
        take_rows(x.expand(rows, -1, -1).transpose(1, 2), index).unflatten(1, (-1, width)).flatten(0, 1).transpose(1, 2)
        for x in (nearby.slots, nearby.shares)
    )
    shares = shares * usable.expand(rows, -1, -1).flatten(0, 1)[:, None]
    ones = shares.new_ones(1, 1, 1, 1).expand(rows * count, width, heads, 1)
    left = 1 - sum_slots([ones], own, shares, slots)[0][..., 0].unflatten(0, (rows, count))
    lost = left.clamp(min=SMALLEST_SHARE).log().masked_fill(left <= SMALLEST_SHARE, -torch.inf)
    return bias + F.pad(lost, (0, bias.shape[-1] - slots))
