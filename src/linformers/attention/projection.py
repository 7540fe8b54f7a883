"""The projections E and F: ways to compress the sequence axis from n tokens to k slots.

Each kind is a module that maps (batch, seq, features) to (batch, projected, features), a sum over the tokens (or their
maximum). With ``per_head`` it holds one projection per head; then it takes (batch, seq, heads, head_dim) and gives
(batch, heads, projected, head_dim). Inputs are aligned and zero at padding (see ``Documents``). Slots whose weights
come from the keys themselves are in ``slots.py``.
"""

import abc
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from linformers.attention.documents import Documents, wide
from linformers.checks import check_int


class Projection(nn.Module, abc.ABC):
    """One E or F.

    Args:
        max_length: The longest sequence, n_max; None = any, for kinds without parameters.
        projected_dim: Slots, k.
        num_heads: Hold one projection per head; None = one for all.
    """

    kind: ClassVar[str]
    is_linear: ClassVar[bool] = True
    """Whether it commutes with the feature projections, ``E (X W) = (E X) W``."""
    is_sum: ClassVar[bool] = True
    """Whether processes that share a sequence can add up what their stretches give."""
    has_parameters: ClassVar[bool] = True
    stands_for_tokens: ClassVar[bool] = False
    """Whether a slot stands for certain tokens, so that with a slot for each nothing is compressed."""

    def __init__(self, max_length: int | None, projected_dim: int, num_heads: int | None = None) -> None:
        super().__init__()
        if self.has_parameters or max_length is not None:
            check_int("max_length", max_length)
        check_int("projected_dim", projected_dim)
        self.max_length = max_length
        self.projected_dim = projected_dim
        self.num_heads: int | None = num_heads if self.has_parameters else None

    @property
    def per_head(self) -> bool:
        """Whether each head has its own."""
        return self.num_heads is not None

    @property
    def cost_per_token(self) -> int:
        """Multiplications per token and feature, to compare orders of computation."""
        return 1

    def compress(self, x: Float[Tensor, "batch seq *heads dim"], documents: Documents) -> Tensor:
        """Compress the sequence axis of the tokens at hand."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "batch seq *heads dim"], documents: Documents) -> Tensor:
        """Compress the sequence axis."""
        return documents.reduce(self.compress(x, documents))

    def log_mass(self, documents: Documents, dtype: torch.dtype) -> Float[Tensor, "#batch projected"] | None:
        """What to add to the scores of each slot; -inf = slot without tokens; None = 0."""
        return None

    def members(
        self, documents: Documents, dtype: torch.dtype
    ) -> tuple[Int[Tensor, "#batch seq"], Float[Tensor, "#batch seq"]] | None:
        """The slot of each token at hand and its share of it, where slots stand for tokens."""
        return None

    def reset_parameters(self) -> None:
        """Draw fresh weights."""

    def extra_repr(self) -> str:
        """Shown when the module is printed."""
        heads = f", num_heads={self.num_heads}" if self.per_head else ""
        return f"max_length={self.max_length}, projected_dim={self.projected_dim}{heads}"


class LinearProjection(Projection):
    """Learned E, (max_length, projected_dim): the paper's (section 4).

    Stored transposed, as only that layout exports with a dynamic length. Shorter inputs use the first rows.
    Entries start as N(0, 1/k), the Johnson-Lindenstrauss construction of the paper's Theorem 1.
    """

    kind = "linear"

    def __init__(self, max_length: int, projected_dim: int, num_heads: int | None = None) -> None:
        super().__init__(max_length, projected_dim, num_heads)
        heads = () if num_heads is None else (num_heads,)
        self.weight: nn.Parameter = nn.Parameter(torch.empty(*heads, max_length, projected_dim))
        self.reset_parameters()

    @property
    def cost_per_token(self) -> int:
        """K."""
        return self.projected_dim

    def compress(self, x: Float[Tensor, "batch seq *heads dim"], documents: Documents) -> Tensor:
        """``E X``: O(seq * projected * dim)."""
        weight = self.weight.to(x.dtype)
        if not documents.whole:
            x = x.masked_fill(~documents.keep.view(*documents.keep.shape, *(1,) * (x.ndim - 2)), 0)
            rows = documents.index.clamp(0, self.weight.shape[-2] - 1)
            if self.per_head:
                return torch.einsum("hbnk,bnhd->bhkd", weight[:, rows], x)
            return torch.einsum("bnk,bnd->bkd", weight[rows], x)
        if documents.skipped:
            weight = F.pad(weight, (0, 0, documents.skipped, 0))
        if self.per_head:
            return torch.einsum("nhk,bnhd->bhkd", weight.transpose(0, 1)[: x.shape[1]], x)
        return weight[: x.shape[1]].transpose(0, 1) @ x

    def reset_parameters(self) -> None:
        """N(0, 1/k)."""
        nn.init.normal_(self.weight, std=self.projected_dim**-0.5)


class ConvProjection(Projection):
    """A convolution with kernel = stride = ceil(max_length / k) (paper, section 4, "general projections").

    One kernel over the sequence axis, shared by the features, so that it is a (banded) matrix E like the others and
    commutes with the feature projections. The kernel starts as the mean. Slots without a token are masked out.
    """

    kind = "conv"

    def __init__(self, max_length: int, projected_dim: int, num_heads: int | None = None) -> None:
        super().__init__(max_length, projected_dim, num_heads)
        self.stride: int = math.ceil(max_length / projected_dim)
        heads = () if num_heads is None else (num_heads,)
        self.weight: nn.Parameter = nn.Parameter(torch.empty(*heads, self.stride))
        self.reset_parameters()

    def compress(self, x: Float[Tensor, "batch seq *heads dim"], documents: Documents) -> Tensor:
        """Weighted sums of windows: O(seq * dim)."""
        index = documents.index.clamp(0)
        slots = (index // self.stride).clamp(max=self.projected_dim - 1)
        weights = self.weight.to(x.dtype)[..., index % self.stride]
        weights = weights.transpose(0, 1) if self.per_head else weights[:, None]
        return sum_slots([x], slots[:, None], weights * documents.keep[:, None], self.projected_dim)[0]

    def log_mass(self, documents: Documents, dtype: torch.dtype) -> Float[Tensor, "#batch projected"]:
        """0 for slots with a token, -inf for the others."""
        first = torch.arange(self.projected_dim, device=documents.totals.device) * self.stride
        return torch.zeros_like(first, dtype=dtype).where(first < documents.totals[:, None], -torch.inf)

    def reset_parameters(self) -> None:
        """Start as mean pooling."""
        nn.init.constant_(self.weight, 1 / self.stride)


class Pooling(Projection):
    """Windows cut from each document's own length: token i of n goes to slot floor(i k / n).

    All k slots serve a long document, padding changes nothing, and where n <= k each token has a slot of its own, so
    that attention is exact. A slot stands for its c tokens: log c is added to its score.
    """

    has_parameters = False
    stands_for_tokens = True

    def counts(self, documents: Documents) -> Int[Tensor, "#batch projected"]:
        """Tokens in each slot."""
        # The first token of slot j is the smallest i with floor(i k / n) >= j.
        j = torch.arange(self.projected_dim + 1, device=documents.totals.device)
        return ((j * documents.totals[:, None] + self.projected_dim - 1) // self.projected_dim).diff(dim=1)

    def members(
        self, documents: Documents, dtype: torch.dtype
    ) -> tuple[Int[Tensor, "#batch seq"], Float[Tensor, "#batch seq"]]:
        """Windows, in which all tokens have the same share."""
        slots = documents.index * self.projected_dim // documents.totals.clamp(min=1)[:, None]
        slots = slots.clamp(0, self.projected_dim - 1)
        counts = self.counts(documents).clamp(min=1).gather(1, slots)
        return slots, documents.keep.to(dtype) / counts

    def log_mass(self, documents: Documents, dtype: torch.dtype) -> Float[Tensor, "#batch projected"]:
        """Log of the number of tokens in each slot."""
        return self.counts(documents).to(dtype).log()


class MeanPoolProjection(Pooling):
    """The mean of each window: O(seq * dim), no parameters."""

    kind = "mean_pool"

    def compress(self, x: Float[Tensor, "batch seq dim"], documents: Documents) -> Tensor:
        """Average the tokens of each slot; an empty slot gives zero."""
        slots, shares = self.members(documents, wide(x))
        return sum_slots([x], slots[:, None], shares[:, None], self.projected_dim)[0]


class MaxPoolProjection(Pooling):
    """The largest value of each feature in each window: O(seq * dim), no parameters.

    A maximum does not commute with the feature projections, so keys and values are projected first.
    """

    kind = "max_pool"
    is_linear = False
    is_sum = False

    def compress(self, x: Float[Tensor, "batch seq dim"], documents: Documents) -> Tensor:
        """Maximum over the tokens of each slot; an empty slot gives zero."""
        slots, _ = self.members(documents, torch.float32)
        x = x.masked_fill(~documents.keep[..., None], -torch.inf)
        largest = x.new_full((x.shape[0], self.projected_dim, x.shape[2]), -torch.inf)
        largest = largest.scatter_reduce(1, slots[..., None].expand_as(x), x, "amax")
        return largest.masked_fill(self.counts(documents)[..., None] == 0, 0)


# Up to so many pairs of tokens and slots, a product with all of them is faster than sorting the tokens.
FEW = 2**15


def sum_slots(
    rows: Sequence[Float[Tensor, "batch seq *heads _"]],
    slots: Int[Tensor, "#batch #heads seq"],
    weights: Float[Tensor, "#batch #heads seq"],
    count: int,
) -> list[Float[Tensor, "batch *heads slots _"]]:
    """Weighted sums of the tokens of each slot, for several arrays of tokens: O(seq * dim), in no certain order.

    ``embedding_bag`` sums without a copy of the tokens, and always in the same order. Where both are few, and in a
    traced graph, which is for every length, a product with the (slots, seq) matrix of the weights does the same.
    """
    batch, seq = rows[0].shape[:2]
    has_heads = rows[0].ndim == 4
    heads = rows[0].shape[2] if has_heads else 1
    if torch.compiler.is_compiling() or seq * count <= FEW:
        numbers = torch.arange(count, device=slots.device)[:, None]
        matrix = torch.where(slots[:, :, None] == numbers, weights[:, :, None], 0)
        tokens = [x.reshape(batch, seq, heads, -1).transpose(1, 2).to(wide(x)) for x in rows]
        sums = [(matrix.to(part.dtype) @ part).to(x.dtype) for x, part in zip(rows, tokens, strict=True)]
        return sums if has_heads else [x[:, 0] for x in sums]
    slots = slots.expand(batch, heads, seq).reshape(-1, seq)
    order = _order(slots, count)
    slots = slots.gather(1, order)
    lines = torch.arange(batch * heads, device=slots.device)[:, None]
    starts = torch.searchsorted(slots, torch.arange(count, device=slots.device).repeat(len(lines), 1)) + lines * seq
    weights = weights.expand(batch, heads, seq).reshape(-1, seq).gather(1, order).flatten()
    tokens = ((lines // heads * seq + order) * heads + lines % heads).flatten()
    sums = []
    for x in rows:
        dtype = wide(x)  # low precision would be summed in itself
        flat = x.reshape(batch * seq * heads, -1).to(dtype)
        bags = F.embedding_bag(tokens, flat, starts.flatten(), mode="sum", per_sample_weights=weights.to(dtype))
        sums.append(bags.to(x.dtype).unflatten(0, (batch, heads, count) if has_heads else (batch, count)))
    return sums


def _order(slots: Int[Tensor, "lines seq"], count: int) -> Int[Tensor, "lines seq"]:
    """What sorts the tokens of each line by slot."""
    if slots.device.type != "cpu" or count > 2**16:
        return slots.argsort(dim=-1, stable=True)
    # NumPy sorts integers of 16 bits by their digits, in a tenth of the time.
    return torch.from_numpy(np.argsort(slots.numpy().astype(np.uint16), axis=-1, kind="stable"))
