"""Attention linear in n that needs no projected dimension k."""

import torch
from jaxtyping import Float
from torch import Tensor

from linformers.attention.base import Attention, read_chunk
from linformers.attention.padding import Padding


class KFreeAttention(Attention):
    """``softmax_d(Q) (softmax_n(K)^T V)``: a Linformer whose F is computed from the data, with k = head_dim.

    Verma (arXiv 2101.10277) revisits Linformer and asks for attention that is linear in time and space and
    independent of k. Its abstract fixes these properties, *not the formula*. This is the normalised factorisation
    of Efficient Attention (Shen et al., arXiv 1812.01243), which has them: the rows of ``softmax_n(K)^T`` are
    head_dim weightings of the tokens, each summing to one, as the rows of F are; ``softmax_d(Q)`` mixes them.
    Of three other formulas with those properties none was clearly better (``results/kfree-alternatives.json``).

    Any length goes, as no parameter is tied to n; a padded token is removed before the softmax over n. Both softmaxes
    are computed in at least float32. ``return_weights`` gives ``softmax_d(Q)``, (batch, heads, seq, head_dim), the
    counterpart of the n x k map. Time O(n head_dim) per head and feature. Arguments, inputs and errors are those of
    ``Attention``.
    """

    def build_memory(
        self, source: Float[Tensor, "batch source hidden"], padding: Padding | None, return_weights: bool = False
    ) -> Float[Tensor, "batch heads head_dim head_dim"]:
        """Summarise all tokens as ``softmax_n(K)^T V``; without gradients, and across processes, part by part.

        Parts are joined by what their softmaxes were divided by, the sums of ``exp(K)``.
        """
        usable = None if padding is None else (padding.keep | padding.empty[:, None])[..., None]
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            memory, log_sum = self._summarise(source, usable)
        else:
            size = read_chunk(source)
            masks = [None] * -(-source.shape[1] // size) if usable is None else usable.split(size, dim=1)
            parts = zip(source.split(size, dim=1), masks, strict=True)
            memory, log_sum = self._summarise(*next(parts))
            for part, mask in parts:
                found, sums = self._summarise(part, mask)
                both = torch.logaddexp(log_sum, sums)
                memory = memory * (log_sum - both).exp() + found * (sums - both).exp()
                log_sum = both
        if padding is not None and padding.first is not None:
            sums = (log_sum - padding.largest(log_sum)).exp()
            memory = padding.reduce(memory * (sums / padding.reduce(sums)))
        return memory

    def _summarise(self, source: Tensor, usable: Tensor | None) -> tuple[Tensor, Tensor]:
        """``softmax_n(K)^T V`` of some tokens, (batch, heads, head_dim, head_dim), and log sum exp(K) beside it."""
        keys, values = self.split_heads(self.k_proj(source)), self.split_heads(self.v_proj(source))
        wide = keys.to(torch.promote_types(keys.dtype, torch.float32))
        if usable is not None:  # not -inf: a part may be all padding
            wide = wide.masked_fill(~usable[:, None], torch.finfo(wide.dtype).min)
        # A softmax by hand: its sum is needed as well, and on a GPU the fused kernel is slow along this axis.
        largest = wide.detach().amax(-2, keepdim=True)
        weights = (wide - largest).exp()
        total = weights.sum(-2, keepdim=True)
        weights = (weights / total).to(keys.dtype).transpose(-1, -2)
        return (weights @ values).to(wide.dtype), (largest + total.log()).transpose(-1, -2)

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
        return self.merge_heads(weights @ memory.to(weights.dtype)), weights if return_weights else None

    def _check_source(self, source: Tensor, padding: Padding | None, is_self: bool) -> None:
        """Any length will do, and a stretch of a sequence as well."""


def _softmax(x: Tensor, dim: int) -> Tensor:
    return x.softmax(dim, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)
