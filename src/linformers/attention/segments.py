"""Reading in segments that see the document: a segment's own tokens exactly, all others as slots that weigh less.

An encoder that learned from short texts gives its best states where it reads as much as it did then. Attention over all
of a long document takes weight away from what is near, whether it is softmax or linear. So a document is cut into
segments of a length that the encoder knows, as people cut it into chunks; but beside its own tokens a segment sees the
slots of all the others. Their mass is held down: at equal scores they weigh together at most ``context_weight`` times
as much as a segment. At 0 there are no slots; without a limit this is the attention of ``memory.py`` with an exact
window. Global tokens read the whole document, what a classifier sees of it, and every segment sees them; with neither
slots nor global tokens a segment is a chunk that is read by itself.

Between reading in chunks and "late chunking" (Günther et al., arXiv 2409.04701), which is softmax over all.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from linformers.attention.distances import Distances
from linformers.attention.documents import Documents, wide
from linformers.attention.keys import Keys, attend, bias_of
from linformers.attention.memory import Gathered, gather_tokens
from linformers.attention.slots import AttentionPoolProjection


def read_in_segments(
    query: Float[Tensor, "batch seq heads head_dim"],
    keys: Float[Tensor, "batch seq heads head_dim"],
    values: Float[Tensor, "batch seq heads head_dim"],
    documents: Documents,
    pooling: AttentionPoolProjection,
    *,
    length: int,
    context_weight: float,
    global_tokens: int = 0,
    dropout: float = 0.0,
    distances: Distances | None = None,
) -> Float[Tensor, "batch seq heads head_dim"]:
    """What the (aligned) tokens of whole documents, all longer than a segment, read of each other.

    Args:
        query: Queries, not scaled.
        keys: Keys.
        values: Values.
        documents: Where the documents end.
        pooling: What makes the slots.
        length: Tokens of a segment; the last of a document may be shorter.
        context_weight: The most that all tokens outside of a segment weigh, at equal scores, of what a segment weighs.
        global_tokens: Tokens at the start of a document that all segments see exactly, and that read all tokens.
        dropout: Probability of dropping a weight.
        distances: What is added to scores for the distance of two tokens. All outside of a segment count as far away.
    """
    batch, seq = query.shape[:2]
    g, rest = global_tokens, documents.after(global_tokens)
    index, first = (torch.arange(count, device=query.device) for count in (seq, g))
    heads = documents.rows(query, first[None]).transpose(1, 2) * query.shape[-1] ** -0.5 if g else None
    of_globals = {
        "global_query": heads,
        "dropout": dropout,
        "global_bias": None if distances is None else distances.between(first, index),
        "slope": False,
        "global_tokens": g,
    }
    slots = None
    if context_weight:
        found, plan = gather_tokens(query, keys, values, documents, pooling, **of_globals)
        slots, _ = found.slots(plan, length)
    else:  # nothing outside of a segment is seen, but for the global tokens
        found = Gathered.of([((keys, values), documents)], documents, pooling, None, **of_globals)
    # One more than needed in a traced graph, as a graph of one segment would be tied to short sequences.
    count = (seq + (2 if torch.compiler.is_compiling() else 1) * length - 1) // length
    places = torch.arange(count * length, device=query.device).unflatten(0, (count, length))

    def cut(x: Tensor) -> Float[Tensor, "segments heads length head_dim"]:
        if torch.compiler.is_compiling() or count * length > seq:
            x = F.pad(x, (0, 0, 0, 0, 0, count * length - seq))
        return x.unflatten(1, (count, length)).flatten(0, 1).transpose(1, 2)

    def given(x: Tensor) -> Float[Tensor, "segments heads _ head_dim"]:
        return x[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)

    own = (places >= g) & (places < documents.totals[:, None, None])
    near = bias_of(own, wide(keys))[:, :, None, None]
    there = first < documents.totals[:, None]
    of_first = bias_of(there, near.dtype)[:, None, None, None]
    if distances is not None:
        near = near + distances.between(places[0], places[0])
        of_first = of_first + distances.between(places.flatten(), first).unflatten(1, (count, length)).transpose(0, 1)
    beside = [documents.rows(x, first[None]).transpose(1, 2) for x in (keys, values)]
    biases = [of_first, near]
    if slots is not None:
        assert found.pooled is not None and found.sums is not None and slots.bias is not None
        shares = found.pooled.shares(found.sums)
        left = _outside(found.pooled.slots, shares, slots.keys.shape[2], length, count, distances)
        outside = rest.totals[:, None] - own.sum(-1)  # tokens, of each segment; the last may be short
        far = outside.clamp(min=1).to(slots.bias)
        weight = (context_weight * length / far).clamp(max=1).log()[:, :, None, None]
        of_slots = slots.bias.transpose(1, 2) + left.transpose(1, 2) + weight  # (batch, segments, heads, slots)
        beside = [torch.cat(pair, dim=2) for pair in zip((slots.keys, slots.values), beside, strict=True)]
        biases = [of_slots[:, :, :, None], of_first, near]
    shape = torch.broadcast_shapes(*(x.shape[:-1] for x in biases))
    bias = torch.cat([x.expand(*shape, -1) for x in biases], dim=-1)
    none = (bias == -torch.inf).all(-1, keepdim=True)  # padding, whose output is dropped, but stays finite
    bias = bias.masked_fill(none, 0).expand(batch, *shape[1:], -1).flatten(0, 1)
    seen_keys, seen_values = (
        torch.cat([given(shared), cut(own)], dim=2) for shared, own in zip(beside, (keys, values), strict=True)
    )
    union = Keys(seen_keys, seen_values, bias.to(query.dtype))
    read, _ = attend(cut(query), union, dropout)
    read = read.transpose(1, 2).unflatten(0, (batch, count)).flatten(1, 2)
    # In a traced graph a slice would ask whether it is the whole, and tie the graph to an answer.
    read = read.index_select(1, index) if torch.compiler.is_compiling() else read[:, :seq]
    if found.global_reads is None:
        return read
    whole = found.global_reads.to(read.dtype).transpose(1, 2).index_select(1, index.clamp(max=g - 1))
    return torch.where(index[:, None, None] < g, whole, read)


def _outside(
    slots: Tensor, shares: Tensor, k: int, length: int, count: int, distances: Distances | None
) -> Float[Tensor, "batch heads segments projected"]:
    """Logarithm of the share of each slot that lies outside of each segment, raised by its distance."""
    pad = (0, count * length - slots.shape[2])
    slots, shares = (F.pad(x, pad).unflatten(2, (count, length)) for x in (slots, shares))
    held = torch.where(slots[..., None] == torch.arange(k, device=slots.device), shares[..., None], 0).sum(3)
    before = F.pad(held.cumsum(2), (0, 0, 1, 0))[:, :, :-1]
    after = F.pad(held.flip(2).cumsum(2), (0, 0, 1, 0))[:, :, :-1].flip(2)
    if distances is not None:
        first, last = distances.table[:, [0, -1]].exp().to(held.dtype)[:, None, None].unbind(-1)
        before, after = first * before, last * after
    mass = before + after
    tiny = torch.finfo(mass.dtype).tiny  # nothing is left of a slot, and its logarithm would have no gradient
    return mass.clamp(min=tiny).log().masked_fill(mass <= tiny, -torch.inf)
