"""Sequence parallelism: one sequence cut over the processes of a group.

``E X`` is a sum over tokens, so it is a sum over the processes' stretches: one all-reduce of the compressed
projected_dim x hidden block per layer and projection, whatever n is. All else in a Linformer layer is per token and
stays where it is. (Ring attention moves all keys and values.) A local window adds the tokens at the edges of the
stretches, 2 w for each process; global tokens add their inputs and what they read.
"""

import contextlib
import copy
from collections.abc import Iterator

import torch
import torch.distributed as dist
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

from linformers.attention.padding import Padding, read_mask, take_rows

_group: dist.ProcessGroup | None = None  # a plain global: torch.compile cannot trace context variables


@contextlib.contextmanager
def sequence_parallel(group: dist.ProcessGroup) -> Iterator[None]:
    """Within it, the models take what they are given for this process's stretch of longer sequences.

    The processes of the group hold consecutive stretches of the same documents, in order of rank; stretches may
    differ in length. Hidden states come out for the tokens at hand. A loss over tokens (masked LM, token
    classification), normalised by the ``num_items_in_batch`` of all processes, adds up over them to that of the whole,
    and so do the parameters' gradients.
    """
    global _group
    before, _group = _group, group
    try:
        yield
    finally:
        _group = before


def current_padding(mask: Tensor | None, batch: int, seq: int, device: torch.device) -> Padding | None:
    """The padding of a batch, or of this process's stretch of it inside ``sequence_parallel``.

    Raises:
        TypeError: A mask that is neither bool nor integer.
        ValueError: A mask of another shape than (batch, seq).
    """
    padding = None if mask is None else read_mask(mask, batch, seq)
    if _group is None:
        return padding
    kept = torch.ones(batch, seq, dtype=torch.bool, device=device) if mask is None else mask.bool()
    return SequenceShard(kept, _group)


class SequenceShard(Padding):
    """The padding of one process's stretch of a batch of documents.

    Attributes:
        group: The processes that hold the documents together.
    """

    def __init__(self, mask: Bool[Tensor, "batch seq"], group: dist.ProcessGroup) -> None:
        """Read this stretch's mask, and learn from the others (a few integers) where it lies."""
        super().__init__(mask)
        self.group = group
        self._rank = dist.get_rank(group)
        mine = torch.cat([self.lengths, self.lengths.new_tensor([mask.shape[1]])])
        everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
        dist.all_gather(everyone, mine, group=group)
        counts = torch.stack(everyone)
        self._counts = counts[:, :-1]
        self._first = self._counts[: self._rank].sum(0)
        self._document_lengths = self._counts.sum(0)
        self._document_seq = int(counts[:, -1].sum())
        positions = torch.arange(self._document_seq, device=mask.device)
        self._document = Padding(positions < self._document_lengths[:, None])

    @property
    def document_lengths(self) -> Int[Tensor, " batch"]:
        """Kept tokens per document, over all processes."""
        return self._document_lengths

    @property
    def document_seq(self) -> int:
        """Tokens per document over all processes, padding included."""
        return self._document_seq

    @property
    def first(self) -> Int[Tensor, " batch"]:
        """Kept tokens that the processes before this one hold."""
        return self._first

    def document(self) -> Padding:
        """The padding of the whole documents, as if they were here."""
        return self._document

    def reduce(self, x: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """Sum over the processes; so are the gradients on the way back."""
        return all_reduce(x.contiguous(), group=self.group)

    def largest(self, x: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """Maximum over the processes."""
        x = x.detach().contiguous().clone()
        dist.all_reduce(x, dist.ReduceOp.MAX, group=self.group)
        return x

    def after(self, first: int) -> "SequenceShard":
        """Without the first tokens of the documents: those at hand have negative indices, and must be zero."""
        other = copy.copy(self)
        other._destination = None
        other._first = self._first - first
        other._document_lengths = (self._document_lengths - first).clamp(min=0)
        positions = torch.arange(self._document_seq, device=self.keep.device)
        other._document = Padding(positions < other._document_lengths[:, None])
        return other

    def heads_of_documents(self, x: Shaped[Tensor, "batch seq *rest"], tokens: int) -> Shaped[Tensor, "batch _ *rest"]:
        """The first tokens of the documents, whoever holds them; zeros where a document is shorter."""
        rows = torch.arange(tokens, device=x.device) - self._first[:, None]
        return self.reduce(_rows_or_zero(x, rows, (rows >= 0) & (rows < self.lengths[:, None])))

    def with_neighbours(
        self, x: Shaped[Tensor, "batch seq *rest"], tokens: int
    ) -> tuple[Shaped[Tensor, "batch _ *rest"], int]:
        """The stretch between the tokens before and after it; zeros beyond the documents.

        Whatever is within ``tokens`` of a stretch's end is among the first or last ``tokens`` of the process that holds
        it, so these edges are all that is sent.
        """
        seq, world = x.shape[1], len(self._counts)
        offsets = torch.arange(tokens, device=x.device)
        # Row numbers of the edges in their stretch, and in their document: (processes, batch, 2 * tokens).
        counts = self._counts[..., None]
        rows = torch.cat([offsets.expand(*counts.shape[:-1], -1), counts - tokens + offsets], dim=-1)
        there = (rows >= 0) & (rows < counts)
        edges = _rows_or_zero(x, rows[self._rank], there[self._rank])
        buffer = x.new_zeros(world, *edges.shape)
        buffer = self.reduce(torch.cat([buffer[: self._rank], edges[None], buffer[self._rank + 1 :]]))
        index = rows + (self._counts.cumsum(0) - self._counts)[..., None]

        # Where each token of the wider stretch is to be found: at hand, or in the buffer, or nowhere.
        place = index - self._first[:, None] + tokens
        usable = there & (place >= 0) & (place < seq + 2 * tokens)
        place = torch.where(usable, place, seq + 2 * tokens).transpose(0, 1).flatten(1)
        found = torch.full((x.shape[0], seq + 2 * tokens + 1), -1, device=x.device)
        numbers = seq + torch.arange(place.shape[1], device=x.device)
        found = found.scatter(1, place, numbers.expand_as(place))
        own = torch.arange(seq, device=x.device)
        found[:, tokens : tokens + seq] = torch.where(self.keep, own, found[:, tokens : tokens + seq])
        everything = torch.cat([x, buffer.transpose(0, 1).flatten(1, 2)], dim=1)
        return _rows_or_zero(everything, found[:, :-1], found[:, :-1] >= 0), tokens


def _rows_or_zero(
    x: Shaped[Tensor, "batch seq *rest"], rows: Int[Tensor, "batch out"], there: Bool[Tensor, "batch out"]
) -> Shaped[Tensor, "batch out *rest"]:
    """Some rows of each sample, zeros where they are not there."""
    taken = take_rows(x, rows.clamp(0, x.shape[1] - 1))
    return taken.masked_fill(~there.view(*there.shape, *(1,) * (x.ndim - 2)), 0)
