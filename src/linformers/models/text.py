"""Text models: the encoder with embeddings, and heads for the usual tasks (the interfaces of transformers)."""

import math
from functools import partial

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple

from linformers.attention import Projection
from linformers.attention.parallel import current_documents
from linformers.models.config import LinformerConfig
from linformers.models.encoder import LinformerStack
from linformers.models.resize import resize_max_length

# Tokens embedded at a time without gradients, so that long inputs need no second and third array of their size.
EMBED_TOKENS = 4096


class PositionEmbedding(nn.Embedding):
    """Learned positions that start as sinusoids (Vaswani et al. 2017).

    Small random positions leave attention without a sense of order for the first thousand steps (see docs/log.md).
    """

    def start_as_sinusoids(self, std: float) -> None:
        """Fill with sinusoids of root mean square ``std``."""
        init.copy_(self.weight, sinusoids(*self.weight.shape) * (std * math.sqrt(2)))


def sinusoids(count: int, width: int) -> Float[Tensor, "count width"]:
    """Positions 0, 1, ... as waves of ``width`` / 2 frequencies (Vaswani et al. 2017)."""
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / max(width, 1)))
    angles = torch.arange(count)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


class LinformerEmbeddings(nn.Module):
    """Words, positions and token types, added and normalised."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__()
        self.word_embeddings: nn.Embedding = nn.Embedding(
            config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id
        )
        self.position_embeddings: PositionEmbedding = PositionEmbedding(
            config.max_position_embeddings, config.hidden_size
        )
        self.token_type_embeddings: nn.Embedding = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm: nn.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout: nn.Dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"] | None,
        position_ids: Int[Tensor, "#batch seq"],
        token_type_ids: Int[Tensor, "batch seq"] | None,
        inputs_embeds: Float[Tensor, "batch seq hidden"] | None,
    ) -> Float[Tensor, "batch seq hidden"]:
        """Embed tokens; ``inputs_embeds`` takes the place of word embeddings."""
        seq = position_ids.shape[1]
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or seq <= EMBED_TOKENS:
            return self._embed(input_ids, position_ids, token_type_ids, inputs_embeds)
        whole = None
        for part in (slice(start, start + EMBED_TOKENS) for start in range(0, seq, EMBED_TOKENS)):
            ids, types, embeds = (x if x is None else x[:, part] for x in (input_ids, token_type_ids, inputs_embeds))
            x = self._embed(ids, position_ids[:, part], types, embeds)
            if whole is None:  # now the dtype is known, under autocast too
                whole = x.new_empty(x.shape[0], seq, x.shape[-1])
            whole[:, part] = x
        assert whole is not None
        return whole

    def _embed(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor,
        token_type_ids: Tensor | None,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        x = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        x = x + self.position_embeddings(position_ids)
        if token_type_ids is None:
            token_type_ids = position_ids.new_zeros(1, 1)  # one row for all; called, as its weight may not be here
        x = x + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.norm(x))


class LinformerPreTrainedModel(PreTrainedModel):
    """Weights, loading and saving shared by all Linformer models."""

    config_class: type[LinformerConfig] = LinformerConfig
    config: LinformerConfig
    base_model_prefix = "linformer"
    supports_gradient_checkpointing = True
    # Explicit `num_items_in_batch` instead of **kwargs: a misspelt argument of forward must raise.
    accepts_loss_kwargs = True
    _no_split_modules = ["LinformerLayer", "LinformerEmbeddings"]
    _supports_sdpa = True

    def resize_max_length(self, max_length: int, positions: str = "tile") -> None:
        """Change the longest sequence that the model takes, in place; do it before an optimiser is made.

        Linear and convolutional projections are stretched along the sequence so that their sums stay: text that fills
        the new length is compressed as text that filled the old one. Pooling needs no change.

        Args:
            max_length: the new ``max_position_embeddings``, in tokens.
            positions: how the position table grows. ``tile`` repeats it, so that shorter texts keep their positions
                (and their outputs, with pooling); ``interpolate`` stretches it.

        Raises:
            TypeError: a length that is no int.
            ValueError: a length below 1, or an unknown way.
        """
        resize_max_length(self, max_length, positions)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, PositionEmbedding):
            module.start_as_sinusoids(std)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
            # A slice has no mark of its own that the weight was loaded.
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Projection):
            module.reset_parameters()


class LinformerModel(LinformerPreTrainedModel):
    """The bare encoder: token ids to hidden states."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        if config.patch_grid is not None:
            raise ValueError(
                "this configuration is of a model of images or audio, which has no words: use "
                "AutoModelForImageClassification, AutoModelForAudioClassification or their encoders."
            )
        self.embeddings: LinformerEmbeddings = LinformerEmbeddings(config)
        self.encoder: LinformerStack = LinformerStack(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.embeddings.word_embeddings = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"] | None = None,
        attention_mask: Shaped[Tensor, "batch seq"] | None = None,
        token_type_ids: Int[Tensor, "batch seq"] | None = None,
        position_ids: Int[Tensor, "#batch seq"] | None = None,
        inputs_embeds: Float[Tensor, "batch seq hidden"] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutput:
        """Encode a batch.

        Args:
            input_ids: Token ids.
            attention_mask: Bool or integer, True or 1 = keep. Hidden states of kept tokens do not depend on where
                padding lies, what it holds, or what else is in the batch; those of padding mean nothing.
            token_type_ids: Segment of each token; None = all of the first.
            position_ids: Position of each token; None = its rank among the kept tokens of its sequence.
            inputs_embeds: Embedded tokens, instead of ``input_ids``.
            output_attentions: Also return the attention weights per layer with attention, (batch, heads, seq, keys);
                keys are the slots, the global tokens and, with a window, the tokens near in Linformer layers.
            output_hidden_states: Also return the hidden states of the embeddings and of every layer.

        Raises:
            TypeError: A mask that is neither bool nor integer.
            ValueError: Not exactly one of ``input_ids`` and ``inputs_embeds``, a mask of another shape, or more than
                ``max_position_embeddings`` tokens.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds.")
        x = input_ids if inputs_embeds is None else inputs_embeds
        assert x is not None
        if input_ids is not None and input_ids.ndim != 2:
            raise ValueError(
                f"input_ids must have shape (batch, seq), got {tuple(input_ids.shape)}: "
                "unsqueeze(0) makes a batch of one."
            )
        documents = current_documents(attention_mask, x)
        longest, length = self.config.max_position_embeddings, documents.longest
        if length > longest:
            raise ValueError(
                f"a sequence of {length} tokens exceeds max_position_embeddings={longest}: truncate it "
                f"(tokenizer(..., truncation=True, max_length={longest})), or use a model built for longer input."
            )
        if position_ids is None:
            position_ids = documents.positions
        if output_attentions is None:
            output_attentions = bool(self.config.output_attentions)
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)

        embed = self.embeddings
        if self.config.stream_chunk_size is not None and torch.is_grad_enabled():
            embed = partial(checkpoint, self.embeddings, use_reentrant=False)
        embedded = embed(input_ids, position_ids, token_type_ids, inputs_embeds)
        # Eager attention computes explicit weights, whether or not they are returned.
        eager = self.config._attn_implementation == "eager"
        last, hidden_states, weights = self.encoder(
            embedded, documents, output_attentions or eager, output_hidden_states
        )
        return BaseModelOutput(
            last_hidden_state=last,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(weights) if output_attentions else None,
        )


class LinformerMaskedLMHead(nn.Module):
    """Dense, activation, norm, and the decoder to the vocabulary (tied to the word embeddings)."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__()
        self.dense: nn.Linear = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation: nn.Module = ACT2FN[config.hidden_act]
        self.norm: nn.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder: nn.Linear = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden_states: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocab"]:
        """Vocabulary logits."""
        return self.decoder(self.norm(self.activation(self.dense(hidden_states))))


class LinformerForMaskedLM(LinformerPreTrainedModel):
    """Encoder with a masked-language-model head."""

    _tied_weights_keys = {"lm_head.decoder.weight": "linformer.embeddings.word_embeddings.weight"}

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        self.linformer: LinformerModel = LinformerModel(config)
        self.lm_head: LinformerMaskedLMHead = LinformerMaskedLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder to the vocabulary."""
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder to the vocabulary."""
        self.lm_head.decoder = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"] | None = None,
        attention_mask: Shaped[Tensor, "batch seq"] | None = None,
        token_type_ids: Int[Tensor, "batch seq"] | None = None,
        position_ids: Int[Tensor, "#batch seq"] | None = None,
        inputs_embeds: Float[Tensor, "batch seq hidden"] | None = None,
        labels: Int[Tensor, "batch seq"] | None = None,
        return_logits: bool = True,
        num_items_in_batch: Tensor | int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> MaskedLMOutput:
        """Predict masked tokens.

        Args:
            input_ids: See ``LinformerModel``, as for the other inputs.
            attention_mask: True or 1 = keep.
            token_type_ids: Segments.
            position_ids: Positions.
            inputs_embeds: Embedded tokens.
            labels: Token ids to predict, -100 where there is nothing to predict.
            return_logits: Compute vocabulary logits at all positions. The loss needs those of labelled positions only:
                without the others the head takes a sixth of the time and memory at 15 %.
            num_items_in_batch: Labelled tokens of the whole batch, over accumulation steps and ranks; the loss is the
                sum over tokens divided by it. None = the mean.
            output_attentions: Also return attention weights.
            output_hidden_states: Also return all hidden states.
        """
        outputs = self.linformer(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        x = outputs.last_hidden_state
        logits = self.lm_head(x) if return_logits or labels is None else None
        loss = None
        if labels is not None:
            labelled = labels != -100
            if num_items_in_batch is None:  # the mean; 0, not NaN, where nothing is labelled
                num_items_in_batch = labelled.sum().clamp(min=1)
            if logits is None:
                loss = self._loss_of_selected(x[labelled], labels[labelled], num_items_in_batch)
            else:
                loss = self._loss(logits.flatten(0, 1), labels.flatten(), num_items_in_batch)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _loss(self, logits: Tensor, targets: Tensor, num_items: Tensor | int) -> Tensor:
        """Cross entropy, summed and divided by ``num_items``."""
        return self.loss_function(logits, targets, vocab_size=self.config.vocab_size, num_items_in_batch=num_items)

    def _loss_of_selected(self, x: Tensor, targets: Tensor, num_items: Tensor | int) -> Tensor:
        """The loss of some tokens; when streaming, the logits of a chunk at a time, computed again on the way back."""
        chunk = self.config.stream_chunk_size

        def loss(rows: Tensor, labels: Tensor) -> Tensor:
            return self._loss(self.lm_head(rows), labels, num_items)

        if chunk is None or len(x) <= chunk or not torch.is_grad_enabled():
            return loss(x, targets)
        parts = zip(x.split(chunk), targets.split(chunk), strict=True)
        return torch.stack([checkpoint(loss, *part, use_reentrant=False) for part in parts]).sum()
