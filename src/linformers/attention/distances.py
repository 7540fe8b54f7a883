"""A bias for the distance of two tokens, added to their score (Shaw et al., arXiv 1803.02155; MPNet's is T5's).

Softmax attention adds it pair by pair. A slot stands for tokens at many distances, so that each query raises a slot by
the mean of exp(bias) over its tokens, by their shares. That mean is a sum over the tokens near the query, where the
bias changes with every token, and over all before and after them, where it is constant: O(n k) in blocks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Distances:
    """What is added to the scores of two tokens.

    Attributes:
        table: Bias of distances ``-reach .. reach`` of a key from its query, in at least float32; those further away
            are as the last.
    """

    table: Float[Tensor, "heads distances"]

    @property
    def reach(self) -> int:
        """The distance from which on the bias is constant."""
        return self.table.shape[1] // 2

    def between(
        self, queries: Int[Tensor, " queries"], keys: Int[Tensor, " keys"]
    ) -> Float[Tensor, "heads queries keys"]:
        """The bias of tokens by their places."""
        return self.table[:, (keys - queries[:, None]).clamp(-self.reach, self.reach) + self.reach]

    def of_all(self, seq: int) -> Float[Tensor, "1 heads seq seq"]:
        """The bias of every pair of tokens."""
        distances = torch.arange(1 - seq, seq, device=self.table.device).clamp(-self.reach, self.reach)
        # Row i is a stretch of one line, from its distance to the first token on.
        return self.table[:, distances + self.reach].unfold(1, seq, 1).flip(1)[None]

    def of_slots(
        self,
        slots: Int[Tensor, "batch heads seq"],
        shares: Float[Tensor, "batch heads seq"],
        count: int,
        window: int = 0,
    ) -> Float[Tensor, "batch heads seq count"]:
        """By how much every query raises each slot.

        Args:
            slots: The slot of each token.
            shares: Its share of that; 0 = it is in none.
            count: Number of slots.
            window: Tokens so near to a query are seen by themselves, and do not count in their slot; 0 = all count.
        """
        # Blocks so long that from any token of one the tokens of the next but one are out of reach.
        block, seq = max(self.reach, window), slots.shape[2]
        blocks = (seq + 2 * block - 1) // block  # one more than needed, as a graph of one would be tied to one
        largest = self.table.detach().amax(1)[:, None, None]
        places = torch.arange(3 * block, device=slots.device) - block
        raised = (self.between(places[block : 2 * block], places) - largest).exp()
        if window:
            raised = raised.masked_fill((places - places[block : 2 * block, None]).abs() <= window, 0)
        own = torch.where(slots[..., None] == torch.arange(count, device=slots.device), shares[..., None], 0)
        own = F.pad(own, (0, 0, block, (blocks + 1) * block - seq)).unflatten(2, (blocks + 2, block))
        sums = own.sum(3)  # what each block holds of each slot
        before = F.pad(sums.cumsum(2)[:, :, : blocks - 1], (0, 0, 1, 0))
        after = F.pad(sums.flip(2).cumsum(2)[:, :, : blocks - 1].flip(2), (0, 0, 0, 1))
        first, last = (self.table[:, [0, -1]] - largest[..., 0]).exp()[:, None, None].unbind(-1)
        far = first * before + last * after
        parts = [(part, own[:, :, i : i + blocks]) for i, part in enumerate(raised.split(block, dim=2))]
        with torch.autocast(own.device.type, enabled=False):
            near = sum(torch.einsum("hij,bhcjk->bhcik", part, tokens) for part, tokens in parts)
        mass = (near + far[:, :, :, None]).flatten(2, 3)[:, :, :seq]
        tiny = torch.finfo(mass.dtype).tiny  # nothing is left of a slot, and its logarithm would have no gradient
        return mass.clamp(min=tiny).log().masked_fill(mass <= tiny, -torch.inf) + largest
