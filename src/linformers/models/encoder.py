"""The Transformer encoder: layers of attention and feed-forward, over any of the attention mechanisms."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from linformers.attention import (
    Attention,
    KFreeAttention,
    LinformerAttention,
    Padding,
    ProjectionBank,
    SoftmaxAttention,
)
from linformers.models.config import LinformerConfig

# Without gradients on a CPU a layer works on so many tokens at a time that what it makes of them stays in cache: at
# most so many numbers in the middle of the feed-forward. Both measured best at hidden 384 and 768 (see docs/log.md).
STREAM_NUMBERS, STREAM_TOKENS = 768 * 3072, 1024
# There, too, a batch is encoded in groups of about as many tokens, in which padding is at most this share.
GROUP_TOKENS, GROUP_PADDING = 2048, 0.1


def in_cpu_inference(x: Tensor) -> bool:
    """Whether nothing will ask for gradients or for a graph, and memory is what the processor waits for."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


class LinformerLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each with a residual and a layer norm.

    ``post`` (RoBERTa): ``x = norm(x + f(x))``.  ``pre``: ``x = x + f(norm(x))``.
    """

    def __init__(self, config: LinformerConfig, attention: Attention | None) -> None:
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.stream_chunk_size = config.stream_chunk_size
        self.attention = attention
        if attention is not None:
            self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        padding: Padding | None = None,
        return_weights: bool = False,
        overwrite: bool = False,
    ) -> tuple[Float[Tensor, "batch seq hidden"], Tensor | None]:
        """Run the layer on aligned tokens; also give the attention weights if asked for (and there are any).

        With ``overwrite`` a layer that streams without gradients puts its output where ``hidden_states`` were.
        """
        chunk = self.stream_chunk_size
        if chunk is None and in_cpu_inference(hidden_states):
            tokens = min(STREAM_NUMBERS // self.intermediate.out_features, STREAM_TOKENS)
            chunk = max(tokens // hidden_states.shape[0], 64)
        # The processes that share a sequence must decide alike, as they talk again when memory is computed again.
        length = hidden_states.shape[1] if padding is None else padding.document_seq
        if chunk is not None and length > chunk and not return_weights:
            return self._stream(hidden_states, padding, chunk, overwrite), None
        if self.attention is None:
            return self._feed_forward(hidden_states), None
        x = self.attention(self._before_attention(hidden_states), padding, return_weights=return_weights)
        x, weights = x if return_weights else (x, None)
        return self._feed_forward(self._after_attention(hidden_states, x)), weights

    def _stream(self, hidden_states: Tensor, padding: Padding | None, chunk: int, overwrite: bool) -> Tensor:
        """The same, chunk by chunk: once the memory is built, everything in the layer is per token."""
        recompute = torch.is_grad_enabled()
        call = partial(checkpoint, use_reentrant=False) if recompute else lambda function, *args: function(*args)
        memory = call(self._build_memory, hidden_states, padding)
        # split, not slices: their gradients are put together once, where each slice's would fill a tensor of its own.
        parts = hidden_states.split(chunk, dim=1)
        if recompute:
            return torch.cat(
                [call(self._per_token, part, memory, padding, i * chunk) for i, part in enumerate(parts)], 1
            )
        output = hidden_states if overwrite else torch.empty_like(hidden_states)
        for i, (part, target) in enumerate(zip(parts, output.split(chunk, dim=1), strict=True)):
            target.copy_(call(self._per_token, part, memory, padding, i * chunk))
        return output

    def _build_memory(self, hidden_states: Tensor, padding: Padding | None) -> Any:
        if self.attention is None:
            return None
        x = self._before_attention(hidden_states)
        return self.attention.build_memory(x if padding is None else padding.zero(x), padding)

    def _per_token(self, hidden_states: Tensor, memory: Any, padding: Padding | None, start: int) -> Tensor:
        """All of the layer but the memory, for tokens ``start, start + 1, ...``."""
        if self.attention is not None:
            x, _ = self.attention.read(self._before_attention(hidden_states), memory, start)
            x = self.attention.o_proj(x)
            if padding is not None:
                x = x.masked_fill(~padding.keep[:, start : start + x.shape[1], None], 0)
            hidden_states = self._after_attention(hidden_states, x)
        return self._feed_forward(hidden_states)

    def _before_attention(self, hidden_states: Tensor) -> Tensor:
        return self.attention_norm(hidden_states) if self.pre_norm else hidden_states

    def _after_attention(self, hidden_states: Tensor, attended: Tensor) -> Tensor:
        x = hidden_states + self.dropout(attended)
        return x if self.pre_norm else self.attention_norm(x)

    def _feed_forward(self, hidden_states: Tensor) -> Tensor:
        x = self.output_norm(hidden_states) if self.pre_norm else hidden_states
        x = hidden_states + self.dropout(self.output(self.activation(self.intermediate(x))))
        return x if self.pre_norm else self.output_norm(x)


class LinformerEncoder(nn.Module):
    """A stack of layers with their projections in one bank."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__()
        self.projections = ProjectionBank(
            config.num_hidden_layers,
            config.num_attention_heads,
            config.max_position_embeddings,
            [k for _, k in config.layer_attention],
            sharing=config.projection_sharing,
            kind=config.projection_kind,
        )
        self.layers = nn.ModuleList(
            LinformerLayer(config, _build_attention(config, layer, self.projections))
            for layer in range(config.num_hidden_layers)
        )
        has_final_norm = config.norm_position == "pre"
        self.final_norm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if has_final_norm else nn.Identity()
        )

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        padding: Padding | None = None,
        return_weights: bool = False,
        return_hidden_states: bool = False,
    ) -> tuple[Float[Tensor, "batch seq hidden"], list[Tensor], list[Tensor]]:
        """Encode embedded tokens, which without gradients may be overwritten.

        Returns:
            The last hidden states; those of the embeddings and of every layer (the last after the final norm); the
            attention weights of every layer that has attention. The lists are empty unless asked for.
        """
        inside = None
        if padding is not None:  # align once for all layers
            hidden_states, inside = padding.align(hidden_states), padding.aligned()
        all_hidden_states, all_weights = [], []
        alone = inside is None or inside.first is None  # no other process works on the same documents
        if alone and in_cpu_inference(hidden_states) and not (return_weights or return_hidden_states):
            hidden_states = self._encode_groups(hidden_states, inside)
        else:
            for layer in self.layers:
                if return_hidden_states:
                    all_hidden_states.append(hidden_states)
                hidden_states, weights = layer(hidden_states, inside, return_weights, not return_hidden_states)
                if weights is not None:
                    all_weights.append(weights)
        hidden_states = self.final_norm(hidden_states)
        if return_hidden_states:
            all_hidden_states.append(hidden_states)
        if padding is not None:
            hidden_states = padding.restore(hidden_states)
            all_hidden_states = [padding.restore(x) for x in all_hidden_states]
            attentions = [module for module in self.modules() if isinstance(module, Attention)]
            all_weights = [a.restore_weights(w, padding) for a, w in zip(attentions, all_weights, strict=False)]
        return hidden_states, all_hidden_states, all_weights

    def _encode_groups(
        self, hidden_states: Float[Tensor, "batch seq hidden"], padding: Padding | None
    ) -> Float[Tensor, "batch seq hidden"]:
        """All layers on documents of about the same length at a time: no work on padding, and less to keep in cache."""
        batch, seq = hidden_states.shape[:2]
        lengths = [seq] * batch if padding is None else padding.lengths.tolist()
        for rows in group_by_length(lengths):
            longest = max(lengths[rows[0]], 1)
            # One document is a view, which its layers may overwrite; several are copied out and back.
            index = slice(rows[0], rows[0] + 1) if len(rows) == 1 else torch.tensor(rows)
            part, inside = hidden_states[index, :longest], None
            if padding is not None and lengths[rows[-1]] < longest:
                inside = padding.of(index, longest)
            for layer in self.layers:
                part, _ = layer(part, inside, overwrite=True)
            hidden_states[index, :longest] = part
        return hidden_states


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of documents in groups, the longest first; see ``GROUP_TOKENS``.

    Among very short documents padding costs less than a group more.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[groups[-1][0]] if groups else 0
        if (
            groups
            and (len(groups[-1]) + 1) * longest <= GROUP_TOKENS
            and (longest <= 64 or lengths[i] >= (1 - GROUP_PADDING) * longest)
        ):
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _build_attention(config: LinformerConfig, layer: int, bank: ProjectionBank) -> Attention | None:
    """The attention of one layer, borrowing its projections from the bank."""
    attention_type, projected_dim = config.layer_attention[layer]
    size = (config.hidden_size, config.num_attention_heads)
    dropout = config.attention_probs_dropout_prob
    if attention_type == "none":
        return None
    if attention_type == "softmax":
        return SoftmaxAttention(*size, dropout=dropout)
    if attention_type == "kfree":
        return KFreeAttention(*size, dropout=dropout)
    assert projected_dim is not None
    return LinformerAttention(
        *size,
        max_length=config.max_position_embeddings,
        projected_dim=projected_dim,
        local_window=config.local_window,
        global_tokens=config.global_tokens,
        dropout=dropout,
        projections=bank[layer],
    )
