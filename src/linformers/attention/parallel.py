"""Sequence parallelism: one sequence cut over the processes of a group.

``E X`` is a sum over tokens, so it is a sum over the processes' stretches: one all-reduce of the compressed
projected_dim x hidden block per layer and projection, whatever n is. All else in a Linformer layer is per token and
stays where it is. (Ring attention moves all keys and values.) A local window adds the tokens at the edges of the
stretches, 2 w for each process; global tokens add their inputs and what they read.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

from linformers.attention.documents import Documents, read_mask, take_rows

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


def current_documents(mask: Tensor | None, x: Shaped[Tensor, "batch seq *rest"]) -> Documents:
    """The documents of a batch, or of this process's stretch of it inside ``sequence_parallel``.

    Raises:
        TypeError: A mask that is neither bool nor integer.
        ValueError: A mask of another shape than (batch, seq).
    """
    read = read_mask(mask, x)
    if _group is None:
        return Documents(read, x.shape[1], x.device)
    kept = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if read is None else read
    return SequenceShard(kept, _group)


class SequenceShard(Documents):
    """One process's stretch of a batch of documents.

    Attributes:
        group: The processes that hold the documents together.
        counts: Real tokens that each of them holds of each document.
    """

    whole = False

    def __init__(self, mask: Bool[Tensor, "batch seq"], group: dist.ProcessGroup) -> None:
        """Read this stretch's mask, and learn from the others (a few integers) where it lies."""
        super().__init__(mask, mask.shape[1], mask.device)
        self.group = group
        self.rank: int = dist.get_rank(group)
        mine = torch.cat([self.lengths, self.lengths.new_tensor([mask.shape[1]])])
        everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
        dist.all_gather(everyone, mine, group=group)
        counts = torch.stack(everyone)
        self.counts: Int[Tensor, "processes batch"] = counts[:, :-1]
        self.first: Tensor = self.counts[: self.rank].sum(0)
        self.totals: Tensor = self.counts.sum(0)
        self.longest: int = int(counts[:, -1].sum())

    def of(self, rows: slice | Tensor, seq: int, longest: int) -> Documents:
        """Some of the documents."""
        other = super().of(rows, seq, longest)
        assert isinstance(other, SequenceShard)
        other.counts = self.counts[:, rows]
        return other

    def reduce(self, x: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """Sum over the processes; so are the gradients on the way back."""
        return all_reduce(x.contiguous(), group=self.group)

    def maximum(self, x: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """Maximum over the processes."""
        x = x.detach().contiguous().clone()
        dist.all_reduce(x, dist.ReduceOp.MAX, group=self.group)
        return x

    def complete(self) -> Documents:
        """The whole documents, as if they were here."""
        keep = torch.arange(self.longest, device=self.keep.device) < self.totals[:, None]
        return Documents(keep, self.longest, self.keep.device)

    def gathered(self, x: Shaped[Tensor, "batch seq *rest"]) -> tuple[Shaped[Tensor, "batch all *rest"], Documents]:
        """The whole documents, from all processes; for short ones."""
        return self.rows(x, torch.arange(self.longest, device=x.device)[None]), self.complete()

    def with_neighbours(
        self, x: Shaped[Tensor, "batch seq *rest"], tokens: int
    ) -> tuple[Shaped[Tensor, "batch _ *rest"], int]:
        """The stretch between the tokens before and after it; zeros beyond the documents.

        Whatever is within ``tokens`` of a stretch's end is among the first or last ``tokens`` of the process that holds
        it, so these edges are all that is sent.
        """
        seq, world = x.shape[1], len(self.counts)
        offsets = torch.arange(tokens, device=x.device)
        # Row numbers of the edges in their stretch, and in their document: (processes, batch, 2 * tokens).
        counts = self.counts[..., None]
        rows = torch.cat([offsets.expand(*counts.shape[:-1], -1), counts - tokens + offsets], dim=-1)
        there = (rows >= 0) & (rows < counts)
        edges = _rows_or_zero(x, rows[self.rank], there[self.rank])
        buffer = x.new_zeros(world, *edges.shape)
        buffer = self.reduce(torch.cat([buffer[: self.rank], edges[None], buffer[self.rank + 1 :]]))
        index = rows + (self.counts.cumsum(0) - self.counts)[..., None]

        # Where each token of the wider stretch is to be found: at hand, or in the buffer, or nowhere.
        place = index - self.first[:, None] + tokens
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
