"""Attention linear in n that needs no projected dimension k."""

import torch
from jaxtyping import Float
from torch import Tensor

from linformers.attention.base import Attention, read_chunk
from linformers.attention.documents import Documents, wide
from linformers.attention.keys import Through, join_parts, weighted_part


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
        self,
        source: Float[Tensor, "batch source hidden"],
        documents: Documents,
        readers: Float[Tensor, "batch readers hidden"] | None = None,
        return_weights: bool = False,
    ) -> Float[Tensor, "batch heads head_dim head_dim"]:
        """Summarise all tokens as ``softmax_n(K)^T V``; without gradients, and across processes, part by part."""
        at_once = torch.is_grad_enabled() or torch.compiler.is_compiling()
        size = source.shape[1] if at_once else read_chunk(source)
        parts = []
        for start in [0] if at_once else range(0, source.shape[1], size):
            x = source if at_once else source[:, start : start + size]
            keys, values = (self.split_heads(linear(x)) for linear in (self.k_proj, self.v_proj))
            scores = keys.to(wide(keys)).transpose(-1, -2)
            if documents.padded:  # not -inf: a part may be all padding
                kept = documents.keep[:, start : start + x.shape[1]] if not at_once else documents.keep
                scores = scores.masked_fill(~kept[:, None, None], torch.finfo(scores.dtype).min)
            parts.append(weighted_part(scores, values, 0.0))
        return join_parts(parts, documents)

    def read(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        memory: Float[Tensor, "batch heads head_dim head_dim"],
        start: int = 0,
        return_weights: bool | Through = False,
    ) -> tuple[Float[Tensor, "batch seq hidden"], Tensor | None]:
        """Mix the head_dim summaries by ``softmax_d(Q)``."""
        weights = _softmax(self.split_heads(self.q_proj(hidden_states)), dim=-1)
        weights = torch.dropout(weights, self.dropout, self.training)
        if callable(return_weights):
            weights = return_weights(weights)
        return self.merge_heads(weights @ memory.to(weights.dtype)), weights if return_weights else None

    def _check_source(self, documents: Documents, is_self: bool) -> None:
        """Any length will do, and a stretch of a sequence as well."""


def _softmax(x: Tensor, dim: int) -> Tensor:
    return x.softmax(dim, dtype=wide(x)).to(x.dtype)
