"""Causal attention: slots of completed segments, and the exact tokens since.

A slot over the whole text holds later tokens, and no mask takes them out again. A slot over a segment that has ended
does not, as in Transformer-LS (Zhu et al., arXiv 2107.02192). A query sees its own segment up to itself and the segment
before exactly, and every earlier segment as a few slots, so that each earlier token counts once.
"""

from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from linformers.attention.base import Attention
from linformers.attention.documents import Documents
from linformers.attention.keys import Keys, Through, attend, bias_of
from linformers.checks import check_int


@dataclass(frozen=True)
class Past:
    """Keys and values of all tokens, and those of the slots of every segment that is full, in order."""

    keys: Float[Tensor, "batch heads seq head_dim"]
    values: Float[Tensor, "batch heads seq head_dim"]
    slot_keys: Float[Tensor, "batch heads slots head_dim"]
    slot_values: Float[Tensor, "batch heads slots head_dim"]


class CausalLinformerAttention(Attention):
    """Self-attention in which no token sees a later one, over slots of the segments that have ended.

    With segments of s tokens and m slots each, token i of segment t computes ``softmax(q K^T / sqrt(head_dim) + b) V``
    over the tokens from the start of segment t - 1 to i, with b = 0, and over the slots of all segments before that:
    means of s / m neighbours, with b = log(s / m), their mass. Texts of up to 2 s tokens are read by causal softmax
    attention itself, and with m = s all are.

    Time is O(n (s + m n / s)): s / m times less than softmax attention on long texts, not linear in n unless s grows
    with its square root. Memory is O(n) without gradients; with them each segment keeps the slots that it saw,
    O(n + m n^2 / s^2).

    >>> attention = CausalLinformerAttention(hidden_size=32, num_attention_heads=4, segment_length=16, segment_slots=2)
    >>> attention(torch.randn(2, 300, 32)).shape
    torch.Size([2, 300, 32])

    Inputs are those of ``Attention``; a context is refused. A padded token, wherever it stands, is no token of the
    text. ``return_weights`` gives a column for each slot of a full segment, then ``2 s``: token number ``j`` of the
    segment before in column ``j``, of its own segment in column ``s + j``.

    Args:
        hidden_size: Width of inputs and outputs.
        num_attention_heads: Heads; must divide ``hidden_size``.
        segment_length: Tokens of a segment, s.
        segment_slots: Slots of a segment that has ended, m; must divide ``segment_length``.
        dropout: Probability of dropping an attention weight in training.
        bias: Whether the four feature projections have biases.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or slots that do not divide the segment.
    """

    segment_length: int
    segment_slots: int

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        *,
        segment_length: int = 256,
        segment_slots: int = 16,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__(hidden_size, num_attention_heads, dropout=dropout, bias=bias)
        check_int("segment_length", segment_length)
        check_int("segment_slots", segment_slots)
        if segment_length % segment_slots:
            raise ValueError(
                f"segment_slots={segment_slots} does not divide segment_length={segment_length}: every slot of a "
                "segment is the mean of as many tokens."
            )
        self.segment_length, self.segment_slots = segment_length, segment_slots

    def _check_source(self, documents: Documents, is_self: bool) -> None:
        super()._check_source(documents, is_self)
        if not is_self:
            raise ValueError(
                "a context was given, and causal attention is over one sequence: use LinformerAttention for "
                "cross-attention."
            )

    def build_memory(
        self,
        source: Float[Tensor, "batch source hidden"],
        documents: Documents,
        readers: Float[Tensor, "batch readers hidden"] | None = None,
        return_weights: bool = False,
    ) -> Past:
        """Project every token, and pool the segments that are full.

        Real tokens stand before padding, so that a segment with padding in it is seen by none of them.
        """
        keys, values = (self.split_heads(linear(source)) for linear in (self.k_proj, self.v_proj))
        full = source.shape[1] // self.segment_length
        size = self.segment_length // self.segment_slots

        def pooled(x: Tensor) -> Float[Tensor, "batch heads slots head_dim"]:
            return x[:, :, : full * self.segment_length].unflatten(2, (full * self.segment_slots, size)).mean(3)

        return Past(keys, values, pooled(keys), pooled(values))

    def read(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        memory: Past,
        start: int = 0,
        return_weights: bool | Through = False,
    ) -> tuple[Float[Tensor, "batch seq hidden"], Tensor | None]:
        """Attend from tokens ``start, start + 1, ...`` to what each may see, segment by segment."""
        query = self.split_heads(self.q_proj(hidden_states))
        s, stop = self.segment_length, start + query.shape[2]
        reads, weights = [], []
        for segment in range(start // s, (stop - 1) // s + 1):
            first, last = max(segment * s, start), min((segment + 1) * s, stop)
            past, begin = max(segment - 1, 0) * self.segment_slots, max(segment - 1, 0) * s
            places = torch.arange(begin, last, device=query.device)
            seen = bias_of(places <= places[first - begin :, None], query.dtype)
            mass = query.new_full((last - first, past), log(s / self.segment_slots))
            keys, values = (
                torch.cat([slots[:, :, :past], tokens[:, :, begin:last]], dim=2)
                for slots, tokens in (
                    (memory.slot_keys, memory.keys),
                    (memory.slot_values, memory.values),
                )
            )
            union = Keys(keys, values, torch.cat([mass, seen], dim=1)[None, None])
            wanted = return_weights is not False
            read, row = attend(query[:, :, first - start : last - start], union, self.active_dropout, wanted)
            reads.append(read)
            if row is not None:
                slots, near = row.split([past, last - begin], dim=-1)
                before = 0 if segment else s  # no segment stands before the first
                near = F.pad(near, (before, 2 * s - before - near.shape[-1]))
                weights.append(torch.cat([F.pad(slots, (0, memory.slot_keys.shape[2] - past)), near], dim=-1))
        return self.merge_heads(torch.cat(reads, dim=2)), torch.cat(weights, dim=2) if weights else None

    def extra_repr(self) -> str:
        """Shown when the module is printed."""
        return f"{super().extra_repr()}, segment_length={self.segment_length}, segment_slots={self.segment_slots}"
