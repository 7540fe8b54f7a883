"""The Transformer encoder: layers of attention and feed-forward, over any of the attention mechanisms."""

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
    Documents,
    KFreeAttention,
    LinformerAttention,
    ProjectionBank,
    SoftmaxAttention,
)
from linformers.models.config import LinformerConfig

# Without gradients on a CPU a layer works on so many tokens at a time that what it makes of them stays in cache: at
# most so many numbers in the middle of the feed-forward. Both measured best at hidden 384 and 768 (see docs/log.md).
STREAM_NUMBERS, STREAM_TOKENS = 768 * 3072, 1024


def in_cpu_inference(x: Tensor) -> bool:
    """Whether this is inference on a CPU, without gradients and without a traced graph."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


class LinformerLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each with a residual and a layer norm.

    ``post`` (RoBERTa): ``x = norm(x + f(x))``.  ``pre``: ``x = x + f(norm(x))``.
    """

    def __init__(self, config: LinformerConfig, attention: Attention | None) -> None:
        super().__init__()
        self.pre_norm: bool = config.norm_position == "pre"
        self.stream_chunk_size: int | None = config.stream_chunk_size
        self.attention = attention
        if attention is not None:
            self.attention_norm: nn.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate: nn.Linear = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation: nn.Module = ACT2FN[config.hidden_act]
        self.output: nn.Linear = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm: nn.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout: nn.Dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        documents: Documents | None = None,
        return_weights: bool | Documents = False,
    ) -> tuple[Float[Tensor, "batch seq hidden"], Tensor | None]:
        """Run the layer on aligned tokens; also give the attention weights if asked for (and there are any).

        ``return_weights`` may be the documents in whose order to give them.
        """
        if documents is None:
            documents = Documents(None, hidden_states.shape[1], hidden_states.device)
        if return_weights is not False and self.attention is not None:
            x = self._before_attention(hidden_states)
            x, weights = self.attention(x, documents, return_weights=return_weights)
            return self._feed_forward(self._after_attention(hidden_states, x)), weights
        return documents.map(self._run, hidden_states), None

    def _run(self, hidden_states: Tensor, documents: Documents) -> Tensor:
        chunk = self.stream_chunk_size
        if chunk is None and in_cpu_inference(hidden_states):
            tokens = min(STREAM_NUMBERS // self.intermediate.out_features, STREAM_TOKENS)
            chunk = max(tokens // hidden_states.shape[0], 64)
        # The processes that share a sequence must decide alike, as they talk again when memory is computed again.
        if chunk is not None and documents.longest > chunk:
            return self._stream(hidden_states, documents, chunk)
        return self._per_token(hidden_states, self._build_memory(hidden_states, documents), documents, 0)

    def _stream(self, hidden_states: Tensor, documents: Documents, chunk: int) -> Tensor:
        """The same, chunk by chunk: once the memory is built, everything in the layer is per token."""
        recompute = torch.is_grad_enabled()
        call = partial(checkpoint, use_reentrant=False) if recompute else lambda function, *args: function(*args)
        memory = call(self._build_memory, hidden_states, documents)
        # split, not slices: their gradients are put together once, where each slice's would fill a tensor of its own.
        parts = hidden_states.split(chunk, dim=1)
        if recompute:
            read = [call(self._per_token, part, memory, documents, i * chunk) for i, part in enumerate(parts)]
            return torch.cat(read, 1)
        output = torch.empty_like(hidden_states)
        for i, (part, target) in enumerate(zip(parts, output.split(chunk, dim=1), strict=True)):
            target.copy_(self._per_token(part, memory, documents, i * chunk))
        return output

    def _build_memory(self, hidden_states: Tensor, documents: Documents) -> Any:
        if self.attention is None:
            return None
        return self.attention.build_memory(documents.zero(self._before_attention(hidden_states)), documents)

    def _per_token(self, hidden_states: Tensor, memory: Any, documents: Documents, start: int) -> Tensor:
        """All of the layer but the memory, for tokens ``start, start + 1, ...``."""
        if self.attention is not None:
            x, _ = self.attention.read(self._before_attention(hidden_states), memory, start)
            x = documents.part(start, start + x.shape[1]).zero(self.attention.o_proj(x))
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


class LinformerStack(nn.Module):
    """A stack of layers with their projections in one bank."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__()
        self.exact_length: int = config.exact_length
        self.projections: ProjectionBank = ProjectionBank(
            config.num_hidden_layers,
            config.num_attention_heads,
            config.max_position_embeddings,
            [k for _, k in config.layer_attention],
            sharing=config.projection_sharing,
            kind=config.projection_kind,
        )
        self.layers: nn.ModuleList = nn.ModuleList(
            LinformerLayer(config, _build_attention(config, layer, self.projections))
            for layer in range(config.num_hidden_layers)
        )
        has_final_norm = config.norm_position == "pre"
        self.final_norm: nn.LayerNorm | nn.Identity = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if has_final_norm else nn.Identity()
        )

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        documents: Documents | None = None,
        return_weights: bool = False,
        return_hidden_states: bool = False,
    ) -> tuple[Float[Tensor, "batch seq hidden"], list[Tensor], list[Tensor]]:
        """Encode embedded tokens.

        Returns:
            The last hidden states; those of the embeddings and of every layer (the last after the final norm); the
            attention weights of every layer that has attention. The lists are empty unless asked for.
        """
        if documents is None:
            documents = Documents(None, hidden_states.shape[1], hidden_states.device)
        # Align once for all layers, and group: a layer, and whoever looks at it, sees the whole batch.
        hidden_states = documents.align(hidden_states)
        inside = documents.aligned()
        if not return_weights:
            inside = documents.grouped(self.exact_length, by_length=in_cpu_inference(hidden_states))
        all_hidden_states, all_weights = [], []
        for layer in self.layers:
            if return_hidden_states:  # what is given is what the next layer reads, so that gradients reach it
                all_hidden_states.append(documents.restore(documents.zero(hidden_states)))
                hidden_states = documents.align(all_hidden_states[-1])
            hidden_states, weights = layer(hidden_states, inside, documents if return_weights else False)
            if weights is not None:
                all_weights.append(weights)
        # Zero at padding, however documents were grouped.
        hidden_states = documents.restore(documents.zero(self.final_norm(hidden_states)))
        if return_hidden_states:
            all_hidden_states.append(hidden_states)
        return hidden_states, all_hidden_states, all_weights


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
        max_length=None,
        projected_dim=projected_dim,
        local_window=config.local_window,
        global_tokens=config.global_tokens,
        exact_length=config.exact_length,
        dropout=dropout,
        projections=bank[layer],
    )
