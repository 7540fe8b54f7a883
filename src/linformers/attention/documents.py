"""The documents of a batch: which tokens are real, and where each stands. Worked out once, shared by every layer."""

import copy
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

# Without gradients a batch is read in groups of about as many tokens, in which padding is at most this share.
GROUP_TOKENS, GROUP_PADDING = 2048, 0.1


class Documents:
    """Where the tokens at hand stand in their documents.

    Everything positional in this package (rows of E, pooling windows, convolution strides, blocks of the window) counts
    the *kept* tokens of a document only. To make that cheap, sequences are first *aligned*: kept tokens are moved to
    the front, in order. A batch that is padded on the right already is. Where nothing is padded, one row stands for
    the whole batch.

    Attributes:
        keep: Aligned tokens that are real.
        first: Index in its document of the first token at hand; below 0 where the first tokens are left out.
        lengths: Real tokens at hand.
        totals: Real tokens of each document; more than ``lengths`` where other processes hold a part of it.
        longest: Upper bound of ``totals``, a number.
        padded: Whether any token may be padding.
        skipped: Tokens at the start of each document that are left out.
        exact: Whether attention over these documents is softmax itself, as they are short.
        groups: What is read together: rows of the batch (None = all), and the documents in them.
    """

    whole: ClassVar[bool] = True

    def __init__(self, mask: Bool[Tensor, "batch seq"] | None, seq: int, device: torch.device) -> None:
        """Read a mask in the caller's order, True = keep; None = nothing is padded."""
        self._destination: Int[Tensor, "batch seq"] | None = None
        self.padded: bool = mask is not None
        positions = torch.arange(seq, device=device)
        if mask is None:
            self.lengths: Int[Tensor, " #batch"] = torch.full((1,), seq, device=device)
            self.keep: Bool[Tensor, "#batch seq"] = torch.ones(1, seq, dtype=torch.bool, device=device)
        else:
            self.lengths = mask.sum(1)
            self.keep = positions < self.lengths[:, None]
            # The comparison waits for the device, once per forward; a traced graph must not branch on data.
            if torch.compiler.is_compiling() or not torch.equal(mask, self.keep):
                kept, dropped = mask.cumsum(1) - 1, (~mask).cumsum(1) - 1
                self._destination = torch.where(mask, kept, self.lengths[:, None] + dropped)
        self.first: Int[Tensor, " #batch"] = torch.zeros_like(self.lengths)
        self.totals: Int[Tensor, " #batch"] = self.lengths
        self.longest = seq
        self.skipped = 0
        self.exact = False
        self.groups: list[tuple[slice | Tensor | None, Documents]] = [(None, self)]

    def _with(self, **attributes: object) -> "Documents":
        other = copy.copy(self)
        other._destination = None
        for name, value in attributes.items():
            setattr(other, name, value)
        other.groups = [(None, other)]
        return other

    def aligned(self) -> "Documents":
        """The same documents for tensors that have been through ``align``."""
        return self._with()

    def after(self, tokens: int) -> "Documents":
        """The (aligned) documents without their first tokens, which stay at hand but are not kept."""
        if not tokens:
            return self
        first, totals = self.first - tokens, (self.totals - tokens).clamp(min=0)
        keep = self.keep & (self.index >= tokens)
        longest = max(self.longest - tokens, 0) if not torch.compiler.is_compiling() else self.longest
        return self._with(first=first, totals=totals, keep=keep, skipped=self.skipped + tokens, longest=longest)

    def part(self, start: int, stop: int) -> "Documents":
        """A stretch of the (aligned) tokens at hand."""
        lengths = (self.lengths - start).clamp(0, stop - start)
        return self._with(first=self.first + start, keep=self.keep[:, start:stop], lengths=lengths)

    def of(self, rows: slice | Tensor, seq: int, longest: int) -> "Documents":
        """Some of the (aligned) documents, cut to ``seq`` tokens."""
        if self.keep.shape[0] == 1:  # one row stands for all
            return self._with(keep=self.keep[:, :seq], longest=longest)
        return self._with(
            keep=self.keep[rows, :seq],
            first=self.first[rows],
            lengths=self.lengths[rows],
            totals=self.totals[rows],
            longest=longest,
        )

    def grouped(self, exact_length: int, by_length: bool = False) -> "Documents":
        """The (aligned) documents in groups: up to ``exact_length`` tokens attention is softmax, beyond it is not.

        Each document is judged by its own length, so that its outputs do not depend on the others. Only a traced
        graph, which cannot look, judges by the padded length; an exported one, for every length, is never exact.

        Args:
            exact_length: In tokens; 0 = never.
            by_length: Also group documents of like length, so that little is spent on padding.
        """
        documents = self.aligned()
        exact_length = exact_length or -1  # not even empty ones
        if torch.compiler.is_compiling():
            exact = not torch.compiler.is_exporting() and self.longest <= exact_length
            return self._with(exact=exact)
        if not self.padded and self.whole:
            return self._with(exact=self.longest <= exact_length)
        lengths = self.totals.tolist()
        groups = group_by_length(lengths, exact_length, by_length and self.whole)
        if len(groups) == 1 and not (by_length and self.whole):
            return self._with(exact=max(lengths) <= exact_length, longest=max(*lengths, 1))
        documents.groups = []
        for rows in groups:
            longest = max(*(lengths[i] for i in rows), 1)
            index = slice(rows[0], rows[0] + 1) if len(rows) == 1 else torch.tensor(rows, device=self.keep.device)
            group = self.of(index, longest if self.whole else self.keep.shape[1], longest)
            group.exact = longest <= exact_length
            group.padded = not self.whole or min(lengths[i] for i in rows) < longest
            documents.groups.append((index, group))
        return documents

    def map(self, function: Callable[..., Tensor], *tokens: Shaped[Tensor, "batch seq *rest"]) -> Tensor:
        """Apply ``function(*tokens, documents)`` to each group, and put its results where the tokens were."""
        if self.groups[0][0] is None:
            return function(*tokens, self)
        output = None
        for rows, documents in self.groups:
            seq = documents.keep.shape[1]
            part = function(*(x[rows, :seq] for x in tokens), documents)
            if output is None:  # now the dtype is known, under autocast too
                output = part.new_zeros(*tokens[0].shape[:2], *part.shape[2:])
            output[rows, :seq] = part
        assert output is not None
        return output

    @property
    def index(self) -> Int[Tensor, "#batch seq"]:
        """Index in its document of each (aligned) token at hand."""
        return self.first[:, None] + torch.arange(self.keep.shape[1], device=self.keep.device)

    @property
    def empty(self) -> Bool[Tensor, " #batch"]:
        """True for documents without a single kept token."""
        return self.totals == 0

    @property
    def positions(self) -> Int[Tensor, "#batch seq"]:
        """Position of each token in its document, in the caller's order: its rank among the kept tokens."""
        last = (self.totals - 1).clamp(min=0)
        return self.restore(torch.minimum(self.index, last[:, None]))  # padding has none; any valid one will do

    def rows(self, x: Shaped[Tensor, "batch seq *rest"], index: Int[Tensor, "#batch out"]) -> Tensor:
        """Tokens by their index in the document, whoever holds them; zeros where a document has none."""
        local = index - self.first[:, None]
        there = (index >= 0) & (local >= 0) & (local < self.lengths[:, None])
        taken = take_rows(x, local.clamp(0, x.shape[1] - 1).expand(x.shape[0], -1))
        return self.reduce(taken.masked_fill(~there.view(*there.shape, *(1,) * (x.ndim - 2)), 0))

    def complete(self) -> "Documents":
        """The whole (aligned) documents, of which only a stretch may be at hand."""
        return self

    def gathered(self, x: Shaped[Tensor, "batch seq *rest"]) -> tuple[Shaped[Tensor, "batch all *rest"], "Documents"]:
        """The whole documents, from all processes."""
        return x, self

    def with_neighbours(self, x: Shaped[Tensor, "batch seq *rest"], tokens: int) -> tuple[Tensor, int]:
        """The tokens at hand with so many more on each side that are not, and how many stand before them."""
        return x, 0

    def reduce(self, x: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """Complete a sum over the tokens at hand to one over the documents."""
        return x

    def maximum(self, x: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """Complete a maximum over the tokens at hand to one over the documents; no gradient."""
        return x.detach()

    def align(self, x: Shaped[Tensor, "batch seq *rest"]) -> Shaped[Tensor, "batch seq *rest"]:
        """Move each sequence's kept tokens to the front; padding follows."""
        return x if self._destination is None else take_rows(x, self._source(self._destination))

    def align_view(self, x: Shaped[Tensor, "batch seq *rest"]) -> Shaped[Tensor, "batch seq *rest"]:
        """The same for a tensor of any strides; slower on the way back."""
        if self._destination is None:
            return x
        return x[torch.arange(x.shape[0], device=x.device)[:, None], self._source(self._destination)]

    def _source(self, destination: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
        """Where each aligned token comes from."""
        positions = torch.arange(destination.shape[1], device=destination.device).expand_as(destination)
        return torch.empty_like(destination).scatter(1, destination, positions)

    def restore(self, x: Shaped[Tensor, "batch seq *rest"]) -> Shaped[Tensor, "batch seq *rest"]:
        """Undo ``align``."""
        return x if self._destination is None else take_rows(x, self._destination)

    @property
    def reordered(self) -> bool:
        """Whether the aligned order is another than the caller's."""
        return self._destination is not None

    def restore_view(self, x: Shaped[Tensor, "batch seq *rest"]) -> Shaped[Tensor, "batch seq *rest"]:
        """The same for a tensor of any strides; slower on the way back."""
        return (
            x if self._destination is None else x[torch.arange(x.shape[0], device=x.device)[:, None], self._destination]
        )

    def zero(self, x: Shaped[Tensor, "batch seq *rest"]) -> Shaped[Tensor, "batch seq *rest"]:
        """Set padded rows of an aligned tensor to zero, whatever they hold (NaN included)."""
        return x.masked_fill(~self.keep.view(*self.keep.shape, *(1,) * (x.ndim - 2)), 0) if self.padded else x


def group_by_length(lengths: list[int], exact_length: int, by_length: bool) -> list[list[int]]:
    """Indices of documents in groups, none of them on both sides of ``exact_length``.

    ``by_length``: the longest first, and of like length; see ``GROUP_TOKENS``. Up to 64 tokens one group more would
    cost more than the padding that it saves.
    """
    if not by_length:
        sides = [[i for i, n in enumerate(lengths) if (n <= exact_length) == short] for short in (True, False)]
        return [side for side in sides if side]
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[groups[-1][0]] if groups else 0
        if (
            groups
            and (len(groups[-1]) + 1) * longest <= GROUP_TOKENS
            and (longest <= 64 or lengths[i] >= (1 - GROUP_PADDING) * longest)
            and (longest <= exact_length) == (lengths[i] <= exact_length)
        ):
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """``out[b, i] = x[b, index[b, i]]``; one row copy per token, much faster than ``gather`` on this shape."""
    batch, seq = x.shape[:2]
    offset = torch.arange(batch, device=x.device)[:, None] * seq
    return x.flatten(0, 1).index_select(0, (index + offset).flatten()).unflatten(0, (batch, index.shape[1]))


def wide(x: Tensor) -> torch.dtype:
    """At least float32: what sums and softmaxes of a tensor are computed in."""
    return torch.promote_types(x.dtype, torch.float32)


def masked_mean(
    x: Float[Tensor, "batch seq hidden"], keep: Bool[Tensor, "batch seq"] | None
) -> Float[Tensor, "batch hidden"]:
    """Mean over the kept tokens of each sequence (``keep=None``: all); zero where none is kept."""
    if keep is None:
        return x.mean(1)
    total = x.masked_fill(~keep[..., None], 0).sum(1)
    return total / keep.sum(1, keepdim=True).clamp(min=1).to(total.dtype)


def read_mask(mask: Tensor | None, x: Shaped[Tensor, "batch seq *rest"]) -> Bool[Tensor, "batch seq"] | None:
    """Check the ``attention_mask`` of some tokens; None if nothing is padded.

    Raises:
        TypeError: ``mask`` is no tensor of bools, integers, or zeros and ones.
        ValueError: ``mask`` is not (batch, seq).
    """
    if mask is None:
        return None
    batch, seq = x.shape[:2]
    bad = not isinstance(mask, Tensor) or mask.is_complex()
    if not bad and mask.is_floating_point():  # which a traced graph cannot look at; zeros alone, added, keep all
        bad = torch.compiler.is_compiling() or not bool(((mask == 0) | (mask == 1)).all() & (mask == 1).any())
    if bad:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"attention_mask must be a tensor of bools, integers, or zeros and ones (True or 1 = keep), got {kind}: "
            "for an additive float mask pass `mask == 0`."
        )
    if tuple(mask.shape) != (batch, seq):
        raise ValueError(
            f"attention_mask must have shape (batch, seq) = ({batch}, {seq}), got {tuple(mask.shape)}: "
            "give one entry per token of the sequence that supplies keys and values."
        )
    mask = mask.bool()
    return None if not torch.compiler.is_compiling() and bool(mask.all()) else mask
