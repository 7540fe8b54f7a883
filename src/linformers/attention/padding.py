"""Padding: which tokens of a batch are real, worked out once and shared by every layer."""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


class Padding:
    """The kept tokens of a batch, and the way to and from the aligned order.

    Everything positional in this package (rows of E, pooling windows, convolution strides, the local window)
    counts the *kept* tokens of a document only. To make that cheap, sequences are first *aligned*: kept tokens
    moved to the front, in order. A batch that is padded on the right, as most are, already is.

    Attributes:
        keep: After alignment: True for the first ``lengths[b]`` positions of row b.
        lengths: Kept tokens per sequence.
    """

    def __init__(self, mask: Bool[Tensor, "batch seq"]) -> None:
        """Read a mask in the caller's order, True = keep."""
        seq = mask.shape[1]
        positions = torch.arange(seq, device=mask.device)
        self.lengths: Int[Tensor, " batch"] = mask.sum(1)
        self.keep: Bool[Tensor, "batch seq"] = positions < self.lengths[:, None]
        self._destination: Int[Tensor, "batch seq"] | None = None
        # The comparison waits for the device, once per forward; a traced graph must not branch on data.
        if torch.compiler.is_compiling() or not torch.equal(mask, self.keep):
            kept, dropped = mask.cumsum(1) - 1, (~mask).cumsum(1) - 1
            self._destination = torch.where(mask, kept, self.lengths[:, None] + dropped)

    def aligned(self) -> "Padding":
        """The same padding for tensors that have been through ``align``."""
        other = copy.copy(self)
        other._destination = None
        return other

    def after(self, first: int) -> "Padding":
        """The padding of (aligned) documents without their first tokens."""
        other = self.aligned()
        other.keep = self.keep[:, first:]
        other.lengths = (self.lengths - first).clamp(min=0)
        return other

    def of(self, index: slice | Tensor, seq: int) -> "Padding":
        """The padding of some of the (aligned) documents, cut to ``seq`` tokens."""
        other = self.aligned()
        other.keep, other.lengths = self.keep[index, :seq], self.lengths[index]
        return other

    def widened(self, tokens: int) -> "Padding":
        """With so many more padded tokens at the end of each (aligned) document."""
        other = self.aligned()
        other.keep = F.pad(self.keep, (0, tokens))
        return other

    @property
    def empty(self) -> Bool[Tensor, " batch"]:
        """True for documents without a single kept token."""
        return self.document_lengths == 0

    @property
    def document_lengths(self) -> Int[Tensor, " batch"]:
        """Kept tokens per document; more than ``lengths`` where only a stretch of it is at hand."""
        return self.lengths

    @property
    def document_seq(self) -> int:
        """Tokens per document, padding included."""
        return self.keep.shape[1]

    @property
    def first(self) -> Int[Tensor, " batch"] | None:
        """Index in its document of the first kept token at hand; None = 0."""
        return None

    def document(self) -> "Padding":
        """The padding of the whole (aligned) documents."""
        return self.aligned()

    def reduce(self, x: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """Complete a sum over the tokens at hand to one over the documents."""
        return x

    def largest(self, x: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """Complete a maximum over the tokens at hand to one over the documents; no gradient."""
        return x.detach()

    def heads_of_documents(self, x: Shaped[Tensor, "batch seq *rest"], tokens: int) -> Shaped[Tensor, "batch _ *rest"]:
        """The first tokens of the (aligned) documents, and zeros where a document is shorter."""
        return first_rows(x, tokens)

    def with_neighbours(
        self, x: Shaped[Tensor, "batch seq *rest"], tokens: int
    ) -> tuple[Shaped[Tensor, "batch _ *rest"], int]:
        """The tokens at hand with so many more on each side that are not, and how many stand before them."""
        return x, 0

    @property
    def positions(self) -> Int[Tensor, "batch seq"]:
        """Position of each token in its document, in the caller's order: its rank among the kept tokens."""
        ranks = torch.arange(self.keep.shape[1], device=self.keep.device).expand_as(self.keep)
        ranks = ranks if self.first is None else ranks + self.first[:, None]
        last = (self.document_lengths - 1).clamp(min=0)
        return self.restore(torch.minimum(ranks, last[:, None]))  # padding has no position; any valid one will do

    def align(self, x: Shaped[Tensor, "batch seq *rest"]) -> Shaped[Tensor, "batch seq *rest"]:
        """Move each sequence's kept tokens to the front; padding follows."""
        if self._destination is None:
            return x
        source = torch.empty_like(self._destination)
        positions = torch.arange(x.shape[1], device=x.device).expand_as(source)
        return take_rows(x, source.scatter(1, self._destination, positions))

    def restore(self, x: Shaped[Tensor, "batch seq *rest"]) -> Shaped[Tensor, "batch seq *rest"]:
        """Undo ``align``."""
        return x if self._destination is None else take_rows(x, self._destination)

    def restore_view(self, x: Shaped[Tensor, "batch seq *rest"]) -> Shaped[Tensor, "batch seq *rest"]:
        """The same for a tensor of any strides; slower on the way back."""
        return (
            x if self._destination is None else x[torch.arange(x.shape[0], device=x.device)[:, None], self._destination]
        )

    def zero(self, x: Shaped[Tensor, "batch seq *rest"]) -> Shaped[Tensor, "batch seq *rest"]:
        """Set padded rows of an aligned tensor to zero, whatever they hold (NaN included)."""
        return x.masked_fill(~self.keep.view(*self.keep.shape, *(1,) * (x.ndim - 2)), 0)


def first_rows(x: Shaped[Tensor, "batch seq *rest"], count: int) -> Shaped[Tensor, "batch _ *rest"]:
    """The first rows of each sample, filled up with zeros."""
    if torch.compiler.is_compiling() or x.shape[1] < count:  # a traced graph must serve short sequences too
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, count))
    return x[:, :count]


def lengths_of(x: Shaped[Tensor, "batch seq *rest"], padding: Padding | None) -> Int[Tensor, " _"]:
    """Kept tokens per document; one entry stands for all where nothing is padded."""
    return torch.full((1,), x.shape[1], device=x.device) if padding is None else padding.document_lengths


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """``out[b, i] = x[b, index[b, i]]``; one row copy per token, much faster than ``gather`` on this shape."""
    batch, seq = x.shape[:2]
    offset = torch.arange(batch, device=x.device)[:, None] * seq
    return x.flatten(0, 1).index_select(0, (index + offset).flatten()).unflatten(0, index.shape)


def read_mask(mask: Tensor, batch: int, seq: int) -> Padding | None:
    """Check an ``attention_mask`` and turn it into a ``Padding``; None if nothing is padded.

    Raises:
        TypeError: ``mask`` is neither boolean nor integer.
        ValueError: ``mask`` is not (batch, seq).
    """
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"attention_mask must be a bool or integer tensor (True or 1 = keep), got {kind}: "
            "for an additive float mask pass `mask == 0`."
        )
    if tuple(mask.shape) != (batch, seq):
        raise ValueError(
            f"attention_mask must have shape (batch, seq) = ({batch}, {seq}), got {tuple(mask.shape)}: "
            "give one entry per token of the sequence that supplies keys and values."
        )
    mask = mask.bool()
    if not torch.compiler.is_compiling() and bool(mask.all()):
        return None
    return Padding(mask)
