"""Attention linear in n that needs no projected dimension k."""

import torch
from jaxtyping import Float
from torch import Tensor

from linformers.attention.base import Attention
from linformers.attention.padding import Padding


class KFreeAttention(Attention):
    """``softmax_d(Q) (softmax_n(K)^T V)``: a Linformer whose F is computed from the data, with k = head_dim.

    Verma (arXiv 2101.10277) revisits Linformer and asks for attention that is linear in time and space and
    independent of k. Its abstract fixes these properties, *not the formula*. This is the normalised factorisation
    of Efficient Attention (Shen et al., arXiv 1812.01243), which has them: the rows of ``softmax_n(K)^T`` are
    head_dim weightings of the tokens, each summing to one, as the rows of F are; ``softmax_d(Q)`` mixes them.

    Any length goes, as no parameter is tied to n; a padded token is removed before the softmax over n. Both softmaxes
    are computed in at least float32. ``return_weights`` gives ``softmax_d(Q)``, (batch, heads, seq, head_dim), the
    counterpart of the n x k map. Time O(n head_dim) per head and feature. Arguments, inputs and errors are those of
    ``Attention``.
    """

    def build_memory(
        self, source: Float[Tensor, "batch source hidden"], padding: Padding | None, return_weights: bool = False
    ) -> Float[Tensor, "batch heads head_dim head_dim"]:
        """Summarise all tokens as ``softmax_n(K)^T V``."""
        keys, values = self.split_heads(self.k_proj(source)), self.split_heads(self.v_proj(source))
        if padding is not None:
            usable = padding.keep | padding.empty[:, None]
            keys = keys.masked_fill(~usable[:, None, :, None], -torch.inf)
        return _softmax(keys, dim=-2).transpose(-1, -2) @ values

    def read(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        memory: Float[Tensor, "batch heads head_dim head_dim"],
        start: int = 0,
        return_weights: bool = False,
    ) -> tuple[Float[Tensor, "batch seq hidden"], Tensor | None]:
        """Mix the head_dim summaries by ``softmax_d(Q)``."""
        weights = _softmax(self.split_heads(self.q_proj(hidden_states)), dim=-1)
        weights = torch.dropout(weights, self.dropout, self.training)
        return self.merge_heads(weights @ memory), weights if return_weights else None


def _softmax(x: Tensor, dim: int) -> Tensor:
    return x.softmax(dim, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)
