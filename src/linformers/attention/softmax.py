"""Plain softmax attention, O(n^2): the baseline, and the exact layers of hybrid stacks."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from linformers.attention.base import Attention
from linformers.attention.functional import attend
from linformers.attention.padding import Padding


@dataclass(frozen=True)
class TokenMemory:
    """Keys and values of all tokens; ``bias`` is -inf at padding."""

    keys: Float[Tensor, "batch heads source head_dim"]
    values: Float[Tensor, "batch heads source head_dim"]
    bias: Float[Tensor, "batch 1 1 source"] | None


class SoftmaxAttention(Attention):
    """``softmax(Q K^T / sqrt(head_dim)) V`` (Vaswani et al. 2017), with the interface of ``LinformerAttention``.

    Arguments, inputs and errors are those of ``Attention``. Time O(n^2); memory O(n) with the fused kernel.
    """

    def build_memory(
        self, source: Float[Tensor, "batch source hidden"], padding: Padding | None, return_weights: bool = False
    ) -> TokenMemory:
        """Project every token."""
        bias = None
        if padding is not None:
            usable = padding.keep | padding.empty[:, None]
            bias = torch.zeros_like(usable, dtype=source.dtype).masked_fill(~usable, -torch.inf)[:, None, None]
        keys, values = self.split_heads(self.k_proj(source)), self.split_heads(self.v_proj(source))
        return TokenMemory(keys, values, None if bias is None else bias.to(keys.dtype))

    def read(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        memory: TokenMemory,
        start: int = 0,
        return_weights: bool = False,
    ) -> tuple[Float[Tensor, "batch seq hidden"], Tensor | None]:
        """Attend to every token."""
        query = self.split_heads(self.q_proj(hidden_states))
        read, weights = attend(
            query, memory.keys, memory.values, memory.bias, self.active_dropout, return_weights=return_weights
        )
        return self.merge_heads(read), weights

    def restore_weights(
        self, weights: Float[Tensor, "batch heads seq source"], padding: Padding, queries: bool = True
    ) -> Float[Tensor, "batch heads seq source"]:
        """Here the keys are tokens too."""
        weights = super().restore_weights(weights, padding, queries)
        return padding.restore_view(weights.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
