"""What queries read, made of keys and values that are projected already: slots, global tokens and the tokens near."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from linformers.attention.distances import Distances
from linformers.attention.documents import Documents, wide
from linformers.attention.keys import Keys, Through, attend, bias_of, join_parts, weighted_part
from linformers.attention.projection import Projection
from linformers.attention.slots import AttentionPoolProjection, Pooled, SlotPlan, SlotSums, finish
from linformers.attention.window import Nearby, attend_in_blocks

Tokens = tuple[Float[Tensor, "batch tokens heads head_dim"], Float[Tensor, "batch tokens heads head_dim"]]
"""Keys and values."""


@dataclass(frozen=True)
class Memory:
    """What queries read: the keys that all see (slots, then global tokens), and what few see.

    Attributes:
        seen: Keys of all queries.
        documents: Where the tokens are that the memory was built from.
        window: Tokens on each side of a query that it sees exactly.
        global_tokens: Tokens at the start of a document that are among the seen, and that see all.
        nearby: Tokens for the window.
        global_reads: What the global tokens read.
        slope: What each query adds to what it reads: how values change with the query; see ``slots.py``.
    """

    seen: Keys
    documents: Documents
    window: int = 0
    global_tokens: int = 0
    nearby: Nearby | None = None
    global_reads: Float[Tensor, "batch heads globals head_dim"] | None = None
    slope: Float[Tensor, "batch heads head_dim head_dim"] | None = None

    def read(
        self,
        query: Float[Tensor, "batch heads seq head_dim"],
        start: int = 0,
        dropout: float = 0.0,
        return_weights: bool | Through = False,
    ) -> tuple[Float[Tensor, "batch heads seq head_dim"], Float[Tensor, "batch heads seq keys"] | None]:
        """Attend from tokens ``start, start + 1, ...`` to the slots, global tokens, and the tokens near.

        The weights of global tokens are zero: they attend to tokens, for which there are no columns.
        """
        g, documents = self.global_tokens, self.documents
        through, asked = return_weights, return_weights
        if callable(through):
            asked = lambda weights: through(self._without_global(weights, start))  # noqa: E731
        if self.nearby is None:
            read, weights = attend(query, self.seen, dropout, asked)
            if self.slope is not None:
                read = read + query @ self.slope.to(query.dtype)
        else:
            read, weights = attend_in_blocks(
                query,
                self.seen,
                self.nearby,
                documents,
                window=self.window,
                start=start,
                global_tokens=g,
                dropout=dropout,
                return_weights=asked,
            )
        index = self._places(read, start)
        if index is None or self.global_reads is None:
            return read, weights
        rows = index.shape[2]
        some = read[:, :, :rows]
        own = self.global_reads.to(read.dtype).gather(2, index.clamp(0, g - 1).expand(some.shape))
        read = torch.cat([torch.where(index < g, own, some), read[:, :, rows:]], dim=2)
        return read, None if weights is None else self._without_global(weights, start)

    def _places(self, read: Tensor, start: int) -> Int[Tensor, "#batch 1 rows 1"] | None:
        """Places in their documents of the first rows, which may be global tokens; None where no row can be."""
        whole = self.documents.whole
        if self.global_reads is None or (start >= self.global_tokens and whole):
            return None
        # Of whole documents only the first rows can be global; stretches of other processes begin anywhere.
        rows = self.global_tokens - start if whole and not torch.compiler.is_compiling() else read.shape[2]
        index = self.documents.first[:, None] + start + torch.arange(read.shape[2], device=read.device)[:rows]
        return index[:, None, :, None]

    def _without_global(self, weights: Tensor, start: int) -> Tensor:
        """Weights of queries; global tokens have none."""
        index = self._places(weights, start)
        if index is None:
            return weights
        rows = index.shape[2]
        none = weights[:, :, :rows].masked_fill(index < self.global_tokens, 0)
        return torch.cat([none, weights[:, :, rows:]], dim=2)


@dataclass(frozen=True)
class Gathered:
    """What is made of keys and values that come part by part.

    Attributes:
        tokens: The keys and values of the last part.
        pooled: What pooling made of the last part; None for kinds whose slots do not weigh their tokens.
        sums: Sums by slot over all parts, of all processes.
        global_reads: What the global tokens read in all parts.
    """

    tokens: Tokens
    pooled: Pooled | None
    sums: SlotSums | None
    global_reads: Float[Tensor, "batch heads globals head_dim"] | None

    @classmethod
    def of(
        cls,
        parts: Iterable[tuple[Tokens, Documents]],
        documents: Documents,
        pooling: Projection,
        plan: SlotPlan | None,
        global_query: Float[Tensor, "batch heads globals head_dim"] | None,
        global_tokens: int,
        dropout: float,
        global_bias: Float[Tensor, "heads globals part"] | None = None,
        slope: bool = True,
    ) -> "Gathered":
        """Go through the parts.

        ``global_query``: the scaled queries of the global tokens; ``global_bias``: what is added to their scores, where
        all tokens come as one part.
        """
        tokens = pooled = sums = None
        reads = []
        for tokens, place in parts:
            keys, values = tokens
            if plan is not None and isinstance(pooling, AttentionPoolProjection):
                pooled = pooling.pool(keys, values, plan, place.after(global_tokens), slope)
                sums = pooled.sums if sums is None else sums + pooled.sums  # of a long text there are many parts
            if global_query is not None:
                dtype = wide(keys)  # float16 cannot hold large scores, and under autocast products are not wide
                scores = (global_query.to(dtype) @ keys.to(dtype).permute(0, 2, 3, 1)).to(dtype)
                if global_bias is not None:
                    scores = scores + global_bias
                if documents.padded:
                    scores = scores.masked_fill(~place.keep[:, None, None], torch.finfo(dtype).min)
                reads.append(weighted_part(scores, values.transpose(1, 2), dropout))
        assert tokens is not None
        sums = None if sums is None else sums.over(documents)
        return cls(tokens, pooled, sums, join_parts(reads, documents) if reads else None)

    def slots(self, plan: SlotPlan, window: int) -> tuple[Keys, Float[Tensor, "batch heads head_dim head_dim"] | None]:
        """The slots, and the slope for queries as they are."""
        assert self.sums is not None
        # Beside a window little is left for the slope, and queries differ in how much of them slots answer.
        slots, slope = finish(self.sums, plan, slope=not window)
        dtype, size = self.tokens[0].dtype, slots.keys.shape[-1]
        slope = None if slope is None else slope * size**-0.5
        return Keys(slots.keys.to(dtype), slots.values.to(dtype), slots.bias), slope

    def nearby(self, pooling: Projection, rest: Documents, documents: Documents, window: int) -> Nearby | None:
        """All tokens, for the window, and what each of them has given to the slots."""
        if not window:
            return None
        keys, values = self.tokens
        members = None
        if self.pooled is not None and self.sums is not None:
            members = self.pooled.slots, self.pooled.shares(self.sums)
        elif (found := pooling.members(rest, wide(keys))) is not None:
            members = found[0][:, None], found[1][:, None]
        return Nearby.around(keys, values, members, documents, window)


def with_global(
    seen: Keys,
    tokens: Tokens | None,
    documents: Documents,
    raised: Float[Tensor, "#batch heads seq keys"] | None = None,
) -> Keys:
    """The slots and the first tokens of each document, as exact keys.

    ``raised``: what each query adds to their bias.
    """
    if tokens is not None:
        keys, values = tokens
        there = torch.arange(keys.shape[1], device=keys.device) < documents.totals[:, None]
        bias = bias_of(there, keys.dtype)[:, None, None]
        seen = seen + Keys(keys.transpose(1, 2), values.transpose(1, 2), bias)
    if raised is not None:
        seen = seen.raised(raised)
    if seen.bias is not None and documents.padded:
        # No key is left in an empty document; its output is dropped, but stays finite.
        seen = Keys(seen.keys, seen.values, seen.bias.masked_fill(documents.empty[:, None, None, None], 0))
    return seen


def plan_slots(
    pooling: AttentionPoolProjection,
    keys: Float[Tensor, "batch sample heads head_dim"],
    queries: Float[Tensor, "batch heads readers head_dim"],
    sample: Int[Tensor, "#batch sample"],
    real_queries: Tensor | None,
) -> SlotPlan:
    """What decides about slots that follow the data, from sampled keys and queries, in at least float32."""
    dtype = wide(keys)
    queries = queries.to(dtype) * queries.shape[-1] ** -0.5
    return pooling.plan(keys.to(dtype), queries, sample >= 0, real_queries)


def gather_tokens(
    query: Float[Tensor, "batch seq heads head_dim"],
    keys: Float[Tensor, "batch seq heads head_dim"],
    values: Float[Tensor, "batch seq heads head_dim"],
    documents: Documents,
    pooling: AttentionPoolProjection,
    *,
    global_tokens: int = 0,
    global_query: Float[Tensor, "batch heads globals head_dim"] | None = None,
    dropout: float = 0.0,
    global_bias: Float[Tensor, "heads globals part"] | None = None,
    slope: bool = True,
) -> tuple[Gathered, SlotPlan]:
    """What is made of the (aligned) tokens of whole documents, all at once, and what decided about the slots."""
    rest = documents.after(global_tokens)
    sample = pooling.sample(rest)
    real = sample[:, ::2] >= 0 if rest.padded or torch.compiler.is_compiling() else None
    queries = rest.rows(query, sample[:, ::2]).transpose(1, 2)
    plan = plan_slots(pooling, rest.rows(keys, sample), queries, sample, real)
    parts = [((keys, values), documents)]
    found = Gathered.of(parts, documents, pooling, plan, global_query, global_tokens, dropout, global_bias, slope=slope)
    return found, plan


def memory_of_tokens(
    query: Float[Tensor, "batch seq heads head_dim"],
    keys: Float[Tensor, "batch seq heads head_dim"],
    values: Float[Tensor, "batch seq heads head_dim"],
    documents: Documents,
    pooling: AttentionPoolProjection,
    *,
    window: int = 0,
    global_tokens: int = 0,
    dropout: float = 0.0,
    distances: Distances | None = None,
) -> Memory:
    """What the (aligned) tokens of whole documents read of each other, from their projections, all at once.

    ``softmax(query keys^T / sqrt(head_dim)) values`` is what it approximates; ``distances`` are added to the scores.
    """
    g, rest = global_tokens, documents.after(global_tokens)
    first = torch.arange(g, device=keys.device)[None]
    heads = documents.rows(query, first).transpose(1, 2) * query.shape[-1] ** -0.5 if g else None
    places = torch.arange(keys.shape[1], device=keys.device)
    bias = None if distances is None else distances.between(first[0], places)
    found, plan = gather_tokens(
        query,
        keys,
        values,
        documents,
        pooling,
        global_tokens=g,
        global_query=heads,
        dropout=dropout,
        global_bias=bias,
        slope=not window,
    )
    seen, slope = found.slots(plan, window)
    first_tokens = (documents.rows(keys, first), documents.rows(values, first)) if g else None
    if distances is None:
        seen, nearby = with_global(seen, first_tokens, documents), found.nearby(pooling, rest, documents, window)
    else:
        assert found.pooled is not None and found.sums is not None
        pooled, shares = found.pooled, found.pooled.shares(found.sums)
        of_slots = distances.of_slots(pooled.slots, shares, seen.keys.shape[2], window)
        of_first = distances.between(places, first[0]).expand(len(of_slots), -1, -1, -1)
        seen = with_global(seen, first_tokens, documents, torch.cat([of_slots, of_first], dim=-1))
        nearby = Nearby(keys, values, distances=distances) if window else None
    return Memory(seen, documents, window, g, nearby, found.global_reads, slope)
