"""The projections E and F: ways to compress the sequence axis from n tokens to k slots.

Each kind is a module that maps (batch, seq, features) to (batch, projected, features). With ``per_head`` it holds one
projection per head; then it takes (batch, heads, seq, head_dim), or (batch, seq, features) to be compressed by all the
heads' projections, and gives (batch, heads, projected, ...). Inputs are aligned and zero at padding (see ``Padding``).
"""

import abc
import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from linformers.attention.checks import check_choice, check_int
from linformers.attention.padding import Padding, lengths_of


class Projection(nn.Module, abc.ABC):
    """One E or F.

    Args:
        max_length: The longest sequence, n_max.
        projected_dim: Slots, k.
        num_heads: Hold one projection per head; None = one for all.
    """

    kind: ClassVar[str]
    is_linear: ClassVar[bool] = True
    """Whether it commutes with the feature projections, ``E (X W) = (E X) W``."""
    has_parameters: ClassVar[bool] = True
    is_pooling: ClassVar[bool] = False
    """Whether slots are windows of tokens, so that with a slot for each token nothing is compressed."""

    def __init__(self, max_length: int, projected_dim: int, num_heads: int | None = None) -> None:
        super().__init__()
        check_int("max_length", max_length)
        check_int("projected_dim", projected_dim)
        self.max_length = max_length
        self.projected_dim = projected_dim
        self.num_heads = num_heads

    @property
    def per_head(self) -> bool:
        """Whether each head has its own."""
        return self.num_heads is not None

    @property
    def cost_per_token(self) -> int:
        """Multiplications per token and feature, to compare orders of computation."""
        return self.num_heads or 1

    @abc.abstractmethod
    def forward(self, x: Float[Tensor, "batch *heads seq dim"], padding: Padding | None) -> Tensor:
        """Compress the sequence axis."""

    def log_mass(self, x: Float[Tensor, "batch seq dim"], padding: Padding | None) -> Tensor | None:
        """What to add to the scores of each slot, (batch or 1, projected); -inf = slot without tokens; None = 0."""
        return None

    def slot_starts(self, lengths: Int[Tensor, " batch"]) -> Int[Tensor, "batch edges"] | None:
        """First token of each slot, and the end, where slots *stand for* windows of tokens; else None."""
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
        self.weight = nn.Parameter(torch.empty(*heads, max_length, projected_dim))
        self.reset_parameters()

    @property
    def cost_per_token(self) -> int:
        """K for each E."""
        return self.projected_dim * (self.num_heads or 1)

    def forward(self, x: Float[Tensor, "batch *heads seq dim"], padding: Padding | None) -> Tensor:
        """``E X``: O(seq * projected * dim)."""
        weight = self.weight.to(x.dtype)
        if padding is not None and padding.first is not None:
            return padding.reduce(self._compress_stretch(weight, x, padding.first))
        if not self.per_head:
            return weight[: x.shape[-2]].transpose(0, 1) @ x
        weight = weight.transpose(0, 1)[: x.shape[-2]]
        if x.ndim == 4:
            return torch.einsum("nhk,bhnd->bhkd", weight, x)
        stacked = weight.flatten(1)  # one product for all heads: (seq, heads * projected)
        return (stacked.transpose(0, 1) @ x).unflatten(1, (-1, self.projected_dim))

    def _compress_stretch(self, weight: Tensor, x: Tensor, first: Int[Tensor, " batch"]) -> Tensor:
        """The part of ``E X`` that tokens ``first, first + 1, ...`` of each document contribute."""
        rows = first[:, None] + torch.arange(x.shape[-2], device=x.device)
        rows = rows.clamp(0, self.max_length - 1)  # outside lie padding and global tokens only, and they are zero
        if not self.per_head:
            return torch.einsum("bnk,bnd->bkd", weight[rows], x)
        tokens = "bhnd" if x.ndim == 4 else "bnd"
        return torch.einsum(f"hbnk,{tokens}->bhkd", weight[:, rows], x)

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
        self.stride = math.ceil(max_length / projected_dim)
        heads = () if num_heads is None else (num_heads,)
        self.weight = nn.Parameter(torch.empty(*heads, self.stride))
        self.reset_parameters()

    def forward(self, x: Float[Tensor, "batch *heads seq dim"], padding: Padding | None) -> Tensor:
        """Weighted sums of windows: O(seq * dim)."""
        if padding is not None and padding.first is not None:
            return padding.reduce(self._compress_stretch(x, padding))
        seq = x.shape[-2]
        # A traced graph serves every length, so there all slots are filled up.
        slots = self.projected_dim if torch.compiler.is_compiling() else math.ceil(seq / self.stride)
        windows = F.pad(x, (0, 0, 0, slots * self.stride - seq)).unflatten(-2, (slots, self.stride))
        weight = self.weight.to(x.dtype)
        if not self.per_head:
            sums = torch.einsum("bjtd,t->bjd", windows, weight)
        elif x.ndim == 4:
            sums = torch.einsum("bhjtd,ht->bhjd", windows, weight)
        else:
            sums = torch.einsum("bjtd,ht->bhjd", windows, weight)
        return F.pad(sums, (0, 0, 0, self.projected_dim - slots))

    def _compress_stretch(self, x: Tensor, padding: Padding) -> Tensor:
        """The part of each slot that a stretch of the documents contributes."""
        starts = torch.arange(self.projected_dim + 1, device=x.device)[None] * self.stride
        tokens = x.transpose(1, 2).flatten(2) if x.ndim == 4 else x
        windows, real = gather_windows(tokens, starts, self.stride, padding)
        windows = windows.masked_fill(~real[..., None], 0)
        weight = self.weight.to(x.dtype)
        if not self.per_head:
            return torch.einsum("bjtd,t->bjd", windows, weight)
        if x.ndim == 4:
            return torch.einsum("bjthd,ht->bhjd", windows.unflatten(-1, (x.shape[1], -1)), weight)
        return torch.einsum("bjtd,ht->bhjd", windows, weight)

    def log_mass(self, x: Float[Tensor, "batch seq dim"], padding: Padding | None) -> Tensor:
        """0 for slots with a token, -inf for the others."""
        first = torch.arange(self.projected_dim, device=x.device) * self.stride
        bias = torch.zeros(1, self.projected_dim, device=x.device, dtype=x.dtype)
        return bias.masked_fill(first >= lengths_of(x, padding)[:, None], -torch.inf)

    def reset_parameters(self) -> None:
        """Start as mean pooling."""
        nn.init.constant_(self.weight, 1 / self.stride)


class _Pooling(Projection):
    """Windows cut from each document's own length: token i of n goes to slot floor(i k / n).

    All k slots serve a long document, padding changes nothing, and where n <= k each token has a slot of its own, so
    that attention is exact. A slot stands for its c tokens: log c is added to its score.
    """

    has_parameters = False
    is_pooling = True

    def __init__(self, max_length: int, projected_dim: int, num_heads: int | None = None) -> None:
        super().__init__(max_length, projected_dim, None)  # nothing to hold per head

    def slot_starts(self, lengths: Int[Tensor, " batch"]) -> Int[Tensor, "batch edges"]:
        """Smallest i with floor(i k / n) >= j, for j = 0 ... k."""
        j = torch.arange(self.projected_dim + 1, device=lengths.device)
        return (j * lengths[:, None] + self.projected_dim - 1) // self.projected_dim

    def log_mass(self, x: Float[Tensor, "batch seq dim"], padding: Padding | None) -> Tensor:
        """Log of the number of tokens in each slot."""
        return self.slot_starts(lengths_of(x, padding)).diff(dim=1).to(x.dtype).log()

    def _windows(self, x: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor]:
        """Each slot's tokens, and which of them are real."""
        seq = x.shape[1] if padding is None else padding.document_seq
        width = (seq + self.projected_dim - 1) // self.projected_dim
        if torch.compiler.is_compiling():
            width = width + 1  # an axis that can be 1 would tie the traced graph to lengths beyond k
        return gather_windows(x, self.slot_starts(lengths_of(x, padding)), width, padding)


class MeanPoolProjection(_Pooling):
    """The mean of each window: O(seq * dim), no parameters."""

    kind = "mean_pool"

    def forward(self, x: Float[Tensor, "batch seq dim"], padding: Padding | None) -> Tensor:
        """Average the tokens of each slot; an empty slot gives zero."""
        shard = padding is not None and padding.first is not None
        if torch.compiler.is_compiling() or shard or x.dtype not in (torch.float32, torch.float64):
            windows, real = self._windows(x, padding)
            counts = self.slot_starts(lengths_of(x, padding)).diff(dim=1).clamp(min=1)
            pooled = torch.einsum("bjt,bjtd->bjd", real.to(x.dtype) / counts[..., None], windows)
            return pooled if padding is None else padding.reduce(pooled)
        # A slot is a bag of tokens, which `embedding_bag` averages without a copy of them (it would sum float16 in
        # float16). What follows the last slot of a document, its padding, is one more bag.
        batch, seq = x.shape[:2]
        starts = self.slot_starts(lengths_of(x, padding)) + torch.arange(batch, device=x.device)[:, None] * seq
        edges = F.pad(starts.flatten(), (0, 1), value=batch * seq)
        tokens = torch.arange(batch * seq, device=x.device)
        bags = F.embedding_bag(tokens, x.flatten(0, 1), edges, mode="mean", include_last_offset=True)
        return bags.unflatten(0, (batch, -1))[:, :-1]


class MaxPoolProjection(_Pooling):
    """The largest value of each feature in each window: O(seq * dim), no parameters.

    A maximum does not commute with the feature projections, so keys and values are projected first.
    """

    kind = "max_pool"
    is_linear = False

    def forward(self, x: Float[Tensor, "batch seq dim"], padding: Padding | None) -> Tensor:
        """Maximum over the tokens of each slot; an empty slot gives zero."""
        windows, real = self._windows(x, padding)
        windows = windows.masked_fill(~real[..., None], -torch.inf)
        return windows.amax(2).masked_fill(~real.any(-1, keepdim=True), 0)


def gather_windows(
    x: Float[Tensor, "batch seq dim"], starts: Int[Tensor, "#batch edges"], width: int, padding: Padding | None
) -> tuple[Float[Tensor, "batch slots width dim"], Bool[Tensor, "batch slots width"]]:
    """Gather the tokens between neighbouring ``starts`` (indices in the document), at most ``width`` of them.

    Returns:
        The tokens, and which of them are real: in the window, and at hand. What is not real is some other token.
    """
    batch, seq = x.shape[:2]
    if padding is not None and padding.first is not None:
        starts = starts - padding.first[:, None]
    index = starts[:, :-1, None] + torch.arange(width, device=x.device)
    lengths = seq if padding is None else padding.lengths[:, None, None]
    real = (index >= 0) & (index < lengths) & (index < starts[:, 1:, None])
    rows = index.clamp(0, seq - 1) + torch.arange(batch, device=x.device)[:, None, None] * seq
    windows = x.flatten(0, 1).index_select(0, rows.flatten())
    return windows.unflatten(0, (batch, starts.shape[1] - 1, width)), real.expand(batch, -1, -1)


PROJECTION_KINDS: dict[str, type[Projection]] = {
    cls.kind: cls for cls in (LinearProjection, MeanPoolProjection, MaxPoolProjection, ConvProjection)
}


def build_projection(kind: str, max_length: int, projected_dim: int, num_heads: int | None = None) -> Projection:
    """Make one projection of a kind by name.

    Raises:
        ValueError: Unknown kind, or a size below 1.
    """
    check_choice("projection_kind", kind, PROJECTION_KINDS)
    return PROJECTION_KINDS[kind](max_length, projected_dim, num_heads)
