"""Slots whose weights come from the keys: each is attention over its own tokens, tilted to the queries that read it.

For every query q a group of tokens T contributes ``sum_T exp(q.k)`` to the softmax. Around a reference query q0

    log sum_T exp(q.k) = log sum_T exp(q0.k) + (q - q0).k~ + (q - q0)' Var (q - q0) / 2 + ...
    their mean value   = v~ + (q - q0)' Cov + ...

with ``p = softmax_T(q0.k)``, ``k~ = sum p k``, ``v~ = sum p v``, Var the covariance of the keys under p and Cov that of
keys and values. So a slot is the pair k~, v~ with the bias ``log sum_T exp(q0.k) - q0.k~``, exact at q0. Added to the
bias is half of Var so far as it lies along the features, for the mean square distance of the queries that read the
slot. Cov is averaged over the tokens to one head_dim x head_dim matrix C, the slope: values become ``v~ - q0 C``, and
every query adds ``q C``. With q0 = 0 and nothing of second order this is mean pooling with its mass, log |T|.

It is an E that is computed from the data, as in k-free attention. Slots tilted to one reference query are in Multipole
Attention (Hooper et al., arXiv 2506.13059) and MuSe (arXiv 2509.10406), clusters of queries in Clustered Attention
(Vyas et al., arXiv 2007.04825). Here each slot has the reference that its own readers have.

What decides, centroids and references, is worked out on a sample of tokens spread evenly over the document. What
remains is a sum over tokens, so that it streams, and that processes can share it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from linformers.attention.documents import Documents, wide
from linformers.attention.keys import Keys
from linformers.attention.projection import Pooling, sum_slots

# Tokens that decide about the slots: at least so many, and two for each slot. Every second one is read as a query.
SAMPLE_TOKENS, SAMPLE_PER_SLOT = 512, 2
# A token weighs at least exp(-60) and at most exp(60) times as much as the centroid of its slot, for float32's range.
LARGEST_TILT = 60.0
# Tokens that look for their centroid at a time, so that what they compare stays in cache.
NEAREST_TOKENS = 256


@dataclass(frozen=True)
class SlotPlan:
    """What decides about the slots, the same in all processes.

    ``reference`` and ``spread`` are mean and variance of the (scaled) queries that read each slot.
    """

    centroids: Float[Tensor, "batch heads projected head_dim"]
    reference: Float[Tensor, "batch heads projected head_dim"]
    spread: Float[Tensor, "batch heads projected head_dim"]

    @property
    def shift(self) -> Float[Tensor, "batch heads projected"]:
        """Scores of the centroids, taken off those of their tokens so that exponentials stay in range."""
        return (self.reference * self.centroids).sum(-1)


@dataclass(frozen=True)
class SlotSums:
    """Weighted sums over tokens: by slot of 1, keys, their squares and values; over all of keys times values."""

    weights: Float[Tensor, "batch heads projected 1"]
    keys: Float[Tensor, "batch heads projected head_dim"]
    squares: Float[Tensor, "batch heads projected head_dim"]
    values: Float[Tensor, "batch heads projected head_dim"]
    products: Float[Tensor, "batch heads rows columns"]  # of size 0 where no slope is wanted

    def __add__(self, other: "SlotSums") -> "SlotSums":
        """Over the tokens of both."""
        return SlotSums(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def over(self, documents: Documents) -> "SlotSums":
        """Over all tokens of the documents, those of other processes included."""
        return SlotSums(*(documents.reduce(getattr(self, name)) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Pooled:
    """What pooling makes of some tokens: sums by slot, and the slot and the weight of each token."""

    sums: SlotSums
    slots: Int[Tensor, "batch heads seq"]
    weights: Float[Tensor, "batch heads seq"]

    def shares(self, sums: SlotSums) -> Float[Tensor, "batch heads seq"]:
        """Each token's share of its slot, from the sums over all tokens."""
        return self.weights / sums.weights.where(sums.weights > 0, 1)[..., 0].gather(2, self.slots)


class AttentionPoolProjection(Pooling):
    """Windows of neighbouring tokens, each pooled by the attention of the queries that read it. No parameters."""

    kind = "attention_pool"
    lloyd_steps = 0

    @property
    def sample_tokens(self) -> int:
        """Tokens that decide about the slots of a long document."""
        return max(SAMPLE_TOKENS, SAMPLE_PER_SLOT * self.projected_dim)

    def sample(self, documents: Documents) -> Int[Tensor, "#batch sample"]:
        """Indices of the tokens that decide, spread evenly over each document; a short one has fewer, then -1."""
        size = self.sample_tokens
        size = size if torch.compiler.is_compiling() else min(size, max(documents.longest, 1))
        ranks = torch.arange(size, device=documents.totals.device)
        counts = documents.totals.clamp(min=1, max=size)[:, None]
        return torch.where(ranks < counts, ranks * documents.totals[:, None] // counts, -1)

    def plan(
        self,
        keys: Float[Tensor, "batch sample heads head_dim"],
        queries: Float[Tensor, "batch heads readers head_dim"],
        real: Bool[Tensor, "#batch sample"],
        real_queries: Bool[Tensor, "#batch readers"] | None,
    ) -> SlotPlan:
        """Centroids of the sampled keys, and for each mean and variance of the (scaled) queries that read it.

        The first centroids are those of windows. Where there are fewer tokens than slots some have none and stay 0;
        each token is its own centroid then, and nearer to that.
        """
        with torch.autocast(keys.device.type, enabled=False):
            ones = keys.new_ones(1, 1, 1, 1).expand(*keys.shape[:3], 1)
            ranks = torch.arange(real.shape[1], device=real.device)
            slots = ranks * self.projected_dim // real.sum(-1, keepdim=True).clamp(min=1)
            slots, centroids = slots.clamp(max=self.projected_dim - 1)[:, None], None
            for _ in range(self.lloyd_steps + 1):
                slots = slots if centroids is None else nearest(keys.transpose(1, 2), centroids)
                sums, counts = sum_slots([keys, ones], slots, real[:, None].to(keys.dtype), self.projected_dim)
                means = sums / counts.clamp(min=1)
                centroids = means if centroids is None else torch.where(counts > 0, means, centroids)
            assert centroids is not None
            readers = (queries @ centroids.transpose(-1, -2)).softmax(-1)
            if real_queries is not None:
                readers = readers * real_queries[:, None, :, None]
            ones = queries.new_ones(1, 1, 1, 1).expand(*queries.shape[:3], 1)
            sums = readers.transpose(-1, -2) @ torch.cat([queries, queries.square(), ones], dim=-1)
            sums = sums[..., :-1] / (sums[..., -1:] + 1e-20)
            reference, squares = sums.chunk(2, dim=-1)
            return SlotPlan(centroids, reference, (squares - reference.square()).clamp(min=0))

    def assign(
        self, keys: Float[Tensor, "batch heads seq head_dim"], plan: SlotPlan, documents: Documents
    ) -> Int[Tensor, "#batch #heads seq"]:
        """The slot of each token."""
        return self.members(documents, keys.dtype)[0][:, None]

    def pool(
        self,
        keys: Float[Tensor, "batch seq heads head_dim"],
        values: Float[Tensor, "batch seq heads head_dim"],
        plan: SlotPlan,
        documents: Documents,
        slope: bool = True,
    ) -> Pooled:
        """Sums over some tokens, in at least float32; with what the ``slope`` is made of, or without."""
        batch, seq, heads, _ = keys.shape
        keys, values = (x.to(wide(x)) for x in (keys, values))
        by_head = keys.transpose(1, 2)
        with torch.autocast(keys.device.type, enabled=False):
            slots = self.assign(by_head, plan, documents).expand(batch, heads, seq)
        lines = torch.arange(batch * heads, device=keys.device).view(batch, heads, 1)
        reference = F.embedding(slots + lines * self.projected_dim, plan.reference.flatten(0, 2))
        scores = (reference * by_head).sum(-1) - plan.shift.gather(2, slots)
        weights = scores.clamp(-LARGEST_TILT, LARGEST_TILT).exp() * documents.keep[:, None]
        rows = [keys.new_ones(1, 1, 1, 1).expand(batch, seq, heads, 1), keys, keys.square(), values]
        with torch.autocast(keys.device.type, enabled=False):
            ones, firsts, squares, seconds = sum_slots(rows, slots, weights, self.projected_dim)
            products = keys.new_zeros(batch, heads, 0, 0)
            if slope:
                products = (by_head * weights[..., None]).transpose(-1, -2) @ values.transpose(1, 2)
        return Pooled(SlotSums(ones, firsts, squares, seconds, products), slots, weights)


class ClusterProjection(AttentionPoolProjection):
    """Slots that follow the content: tokens with like keys share one, per head, wherever they stand. No parameters.

    Centroids are those of k-means on the sample, started from windows of neighbours; a token goes to the nearest.
    Keys that were rotated (RoPE) cluster as they are.
    """

    kind = "cluster"
    lloyd_steps = 1

    def assign(
        self, keys: Float[Tensor, "batch heads seq head_dim"], plan: SlotPlan, documents: Documents
    ) -> Int[Tensor, "batch heads seq"]:
        """The nearest centroid."""
        return nearest(keys, plan.centroids)


def finish(
    sums: SlotSums, plan: SlotPlan, slope: bool
) -> tuple[Keys, Float[Tensor, "batch heads head_dim head_dim"] | None]:
    """The slots, from the sums over all tokens, and the slope if asked for; a slot without any token gets -inf."""
    there = sums.weights > 0
    weights = sums.weights.where(there, 1)
    keys, values = sums.keys / weights, sums.values / weights
    variance = (sums.squares / weights - keys.square()).clamp(min=0)
    bias = weights[..., 0].log() + plan.shift - (plan.reference * keys).sum(-1) + (plan.spread * variance).sum(-1) / 2
    bias = bias.masked_fill(~there[..., 0], -torch.inf)
    if not slope:
        return Keys(keys, values, bias[:, :, None]), None
    with torch.autocast(keys.device.type, enabled=False):
        matrix = (sums.products - sums.keys.transpose(-1, -2) @ values) / sums.weights.sum(-2, keepdim=True).clamp(
            1e-30
        )
        return Keys(keys, values - plan.reference @ matrix, bias[:, :, None]), matrix


@torch.no_grad()
def nearest(
    keys: Float[Tensor, "batch heads seq head_dim"], centroids: Float[Tensor, "batch heads projected head_dim"]
) -> Int[Tensor, "batch heads seq"]:
    """Number of the nearest centroid of each key; the last of several that are equally near.

    The largest of ``c.k - c.c / 2``. ``argmax`` is not vectorised on a CPU and took two thirds of the whole, so that
    the number is found by a second maximum: all differences, times a large number, are far below 0 but the largest's.
    """
    large = 1e20
    targets = large * centroids.flatten(0, 1).transpose(1, 2)
    half = large * centroids.flatten(0, 1).square().sum(-1)[:, None] / 2
    numbers = torch.arange(half.shape[-1], device=keys.device, dtype=half.dtype)

    def number(keys: Tensor) -> Tensor:
        scores = torch.bmm(keys.flatten(0, 1), targets).sub_(half)
        return scores.sub_(scores.amax(-1, keepdim=True)).add_(numbers).amax(-1).long().unflatten(0, keys.shape[:2])

    if torch.compiler.is_compiling():
        return number(keys)
    return torch.cat([number(part) for part in keys.split(NEAREST_TOKENS, dim=2)], dim=2)
