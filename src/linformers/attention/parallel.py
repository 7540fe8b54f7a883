"""Sequence parallelism: one sequence cut over the processes of a group.

``E X`` is a sum over tokens, so it is a sum over the processes' stretches: one all-reduce of the compressed
projected_dim x hidden block per layer and projection, whatever n is. All else in a Linformer layer is per token and
stays where it is. (Ring attention moves all keys and values.)
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

from linformers.attention.padding import Padding, read_mask

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
        mine = torch.cat([self.lengths, self.lengths.new_tensor([mask.shape[1]])])
        everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
        dist.all_gather(everyone, mine, group=group)
        counts = torch.stack(everyone)
        self._first = counts[: dist.get_rank(group), :-1].sum(0)
        self._document_lengths = counts[:, :-1].sum(0)
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
