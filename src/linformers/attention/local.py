"""The local window: exact neighbours beside the compressed slots, in blocks, O(n (k + w)).

Low rank blurs exactly what is near. Here one softmax runs over the k slots and the w neighbours on each side, as in
Transformer-LS (Zhu et al., arXiv 2107.02192). Queries are cut into blocks; a block sees the slots, itself and a halo of
w tokens on each side. There is never an n x n mask.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from linformers.attention.functional import attend

MIN_BLOCK = 64


def attend_with_window(
    query: Float[Tensor, "batch heads seq head_dim"],
    keys: Float[Tensor, "batch heads source head_dim"],
    values: Float[Tensor, "batch heads source head_dim"],
    slot_keys: Float[Tensor, "batch heads slots head_dim"],
    slot_values: Float[Tensor, "batch heads slots head_dim"],
    window: int,
    *,
    start: int = 0,
    before: int = 0,
    offset: Int[Tensor, " #batch"] | None = None,
    first: int = 0,
    lengths: Int[Tensor, " #batch"],
    slot_bias: Float[Tensor, "#batch slots"] | None = None,
    slot_starts: Int[Tensor, "#batch edges"] | None = None,
    dropout: float = 0.0,
    return_weights: bool = False,
) -> tuple[Float[Tensor, "batch heads seq head_dim"], Float[Tensor, "batch heads seq _"] | None]:
    """One softmax over the slots and the tokens at most ``window`` away.

    Args:
        query: Queries of tokens ``start, start + 1, ...``
        keys: Keys of all tokens at hand, after those of ``before`` more.
        values: Values of all tokens.
        slot_keys: Keys of the slots.
        slot_values: Values of the slots.
        window: Neighbours on each side, in tokens.
        start: Position of the first query.
        before: Neighbours that the keys begin with, before token 0.
        offset: Index in its document of token 0; None = 0.
        first: Tokens before this one are no neighbours: they are among the slots, as global tokens.
        lengths: Tokens per sequence that are no padding (one entry if all are the same).
        slot_bias: Added to the slots' scores.
        slot_starts: Where slots stand for windows of tokens: their borders. A token that is attended exactly is then
            not counted again in its slot; this replaces ``slot_bias`` for as many slots as there are windows.
        dropout: Probability of dropping a weight.
        return_weights: Also return the weights: slots first, then column ``slots + window + (j - i)`` for token j.
    """
    batch, heads, seq, head_dim = query.shape
    slots = slot_keys.shape[2]
    # Every block copies the slots, which wants wide ones; every query scores its whole block, which wants narrow ones.
    block = max(MIN_BLOCK, window, slots // 2)
    if not torch.compiler.is_compiling():  # there the length is a symbol, and the block must not depend on it
        block = min(block, seq)
    num_blocks = (seq + block - 1) // block
    width = block + 2 * window

    def to_blocks(slot: Tensor, token: Tensor) -> Tensor:
        """(batch * blocks, heads, slots + width, head_dim): what each block sees."""
        token = _span(token, before + start - window, num_blocks * block + 2 * window)
        if torch.compiler.is_exporting():  # there, unfolding and moving axes are copies: take rows of all heads, once
            first = torch.arange(num_blocks, device=query.device)[:, None] * block + slots
            own = first + torch.arange(width, device=query.device)
            rows = torch.cat([torch.arange(slots, device=query.device).expand(num_blocks, -1), own], dim=1)
            seen = torch.cat([slot, token], dim=2).transpose(1, 2).index_select(1, rows.flatten())
            return seen.unflatten(1, rows.shape).flatten(0, 1).transpose(1, 2)
        token = token.unfold(2, width, block).permute(0, 2, 1, 4, 3)
        slot = slot[:, None].expand(-1, num_blocks, -1, -1, -1)
        return torch.cat([slot, token], dim=3).flatten(0, 1)

    positions = start + torch.arange(num_blocks * block, device=query.device).view(num_blocks, block, 1)
    if offset is not None:
        positions = positions + offset[:, None, None, None]
    neighbours = positions[..., :1, :] - window + torch.arange(width, device=query.device)  # (..., blocks, 1, width)
    near = ((positions - neighbours).abs() <= window) & (neighbours >= first)
    near = near & (neighbours < lengths[:, None, None, None])  # (#batch, blocks, block, width)
    bias = torch.cat(
        [
            _slot_scores(positions, slots, window, slot_bias, slot_starts, near, query.dtype),
            torch.zeros_like(near, dtype=query.dtype).masked_fill(~near, -torch.inf),
        ],
        dim=-1,
    )
    bias = bias.expand(batch, -1, -1, -1).flatten(0, 1)[:, None]

    blocks = F.pad(query.transpose(1, 2), (0, 0, 0, 0, 0, num_blocks * block - seq))
    blocks = blocks.unflatten(1, (num_blocks, block)).flatten(0, 1).transpose(1, 2)
    read, weights = attend(
        blocks, to_blocks(slot_keys, keys), to_blocks(slot_values, values), bias, dropout, return_weights
    )

    def from_blocks(x: Tensor) -> Tensor:
        return x.transpose(1, 2).unflatten(0, (batch, num_blocks)).flatten(1, 2)[:, :seq].transpose(1, 2)

    if weights is not None:
        offsets = torch.arange(block, device=query.device)[:, None] + torch.arange(2 * window + 1, device=query.device)
        band = weights[..., slots:].gather(-1, offsets.expand(*weights.shape[:2], -1, -1))
        weights = from_blocks(torch.cat([weights[..., :slots], band], dim=-1))
    return from_blocks(read), weights


def _span(x: Tensor, first: int, size: int) -> Tensor:
    """Rows ``first ... first + size`` of the sequence axis, zeros outside of it."""
    last = first + size
    x = x[:, :, max(first, 0) : last] if last < x.shape[2] else x[:, :, max(first, 0) :]
    before = max(-first, 0)
    return F.pad(x, (0, 0, before, size - before - x.shape[2]))


def _slot_scores(
    positions: Int[Tensor, "*#batch blocks block 1"],
    slots: int,
    window: int,
    slot_bias: Tensor | None,
    slot_starts: Tensor | None,
    near: Bool[Tensor, "#batch blocks block width"],
    dtype: torch.dtype,
) -> Float[Tensor, "#batch blocks block slots"]:
    """What is added to each slot's score, per query."""
    shape = (*near.shape[:3], slots)
    if slot_starts is None:
        bias = torch.zeros(slots, device=near.device) if slot_bias is None else slot_bias[:, None, None]
        return bias.to(dtype).expand(shape)
    begin, end = slot_starts[:, None, None, :-1], slot_starts[:, None, None, 1:]
    exact = torch.minimum(end, positions + window + 1) - torch.maximum(begin, positions - window)
    left = (end - begin) - exact.clamp(min=0)
    # A padded query may find neither a slot nor a token; its output is dropped, but must stay finite.
    scores = left.to(dtype).log().masked_fill(~(near.any(-1, keepdim=True) | (left > 0).any(-1, keepdim=True)), 0)
    if slot_bias is None or scores.shape[-1] == slots:
        return scores.expand(shape)
    others = slot_bias[:, None, None, scores.shape[-1] :].to(dtype)  # these stand for themselves
    return torch.cat([scores, others.expand(*shape[:-1], -1)], dim=-1)
