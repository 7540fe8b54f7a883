"""Task heads over the text encoder, with the interfaces of transformers."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import can_return_tuple

from linformers.attention.documents import masked_mean
from linformers.models.config import LinformerConfig
from linformers.models.text import LinformerModel, LinformerPreTrainedModel


class LinformerClassificationHead(nn.Module):
    """Pool the sequence (``config.classifier_pooling``), then dense, activation and the classifier, as RoBERTa's."""

    def __init__(self, config: LinformerConfig, num_outputs: int) -> None:
        super().__init__()
        self.pooling = config.classifier_pooling
        self.dense: nn.Linear = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation: nn.Module = ACT2FN[config.classifier_activation]
        self.dropout: nn.Dropout = _classifier_dropout(config)
        self.out_proj: nn.Linear = nn.Linear(config.hidden_size, num_outputs)

    def forward(
        self, hidden_states: Float[Tensor, "batch seq hidden"], attention_mask: Shaped[Tensor, "batch seq"] | None
    ) -> Float[Tensor, "batch outputs"]:
        """One row of logits per sequence."""
        x = self.dropout(self.pool(hidden_states, attention_mask))
        return self.out_proj(self.dropout(self.activation(self.dense(x))))

    def pool(
        self, hidden_states: Float[Tensor, "batch seq hidden"], attention_mask: Shaped[Tensor, "batch seq"] | None
    ) -> Float[Tensor, "batch hidden"]:
        """The first kept token, or the mean of the kept ones."""
        keep = None if attention_mask is None else attention_mask.bool()
        if self.pooling != "cls":
            return masked_mean(hidden_states, keep)
        if keep is None:
            return hidden_states[:, 0]
        first = keep.int().argmax(1)
        return hidden_states[torch.arange(first.shape[0], device=first.device), first]


class LinformerForSequenceClassification(LinformerPreTrainedModel):
    """Encoder with a classifier or regressor over whole sequences."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        self.linformer: LinformerModel = LinformerModel(config)
        self.classifier: LinformerClassificationHead = LinformerClassificationHead(config, config.num_labels or 1)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"] | None = None,
        attention_mask: Shaped[Tensor, "batch seq"] | None = None,
        token_type_ids: Int[Tensor, "batch seq"] | None = None,
        position_ids: Int[Tensor, "#batch seq"] | None = None,
        inputs_embeds: Float[Tensor, "batch seq hidden"] | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Classify sequences.

        Args:
            input_ids: See ``LinformerModel``, as for the other inputs.
            attention_mask: True or 1 = keep.
            token_type_ids: Segments.
            position_ids: Positions.
            inputs_embeds: Embedded tokens.
            labels: (batch,) class indices, (batch, num_labels) floats for several labels, or (batch,) floats for
                regression; ``config.problem_type`` decides, or is inferred from them.
            num_items_in_batch: Sequences of the whole batch over accumulation steps and ranks.
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
        logits = self.classifier(outputs.last_hidden_state, attention_mask)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                labels=labels, pooled_logits=logits, config=self.config, num_items_in_batch=num_items_in_batch
            )
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class LinformerForTokenClassification(LinformerPreTrainedModel):
    """Encoder with a classifier over tokens."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        self.linformer: LinformerModel = LinformerModel(config)
        self.dropout: nn.Dropout = _classifier_dropout(config)
        self.classifier: nn.Linear = nn.Linear(config.hidden_size, config.num_labels or 1)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"] | None = None,
        attention_mask: Shaped[Tensor, "batch seq"] | None = None,
        token_type_ids: Int[Tensor, "batch seq"] | None = None,
        position_ids: Int[Tensor, "#batch seq"] | None = None,
        inputs_embeds: Float[Tensor, "batch seq hidden"] | None = None,
        labels: Int[Tensor, "batch seq"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> TokenClassifierOutput:
        """Classify tokens; ``labels`` are class indices, -100 where there is none. See ``LinformerModel``."""
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
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels.flatten(), self.config, num_items_in_batch=num_items_in_batch)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class LinformerForQuestionAnswering(LinformerPreTrainedModel):
    """Encoder with start and end scores for extractive question answering."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        self.linformer: LinformerModel = LinformerModel(config)
        self.qa_outputs: nn.Linear = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"] | None = None,
        attention_mask: Shaped[Tensor, "batch seq"] | None = None,
        token_type_ids: Int[Tensor, "batch seq"] | None = None,
        position_ids: Int[Tensor, "#batch seq"] | None = None,
        inputs_embeds: Float[Tensor, "batch seq hidden"] | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> QuestionAnsweringModelOutput:
        """Score each token as start and as end of the answer.

        ``start_positions`` and ``end_positions`` are (batch,) token indices; one outside the sequence is ignored.
        See ``LinformerModel`` for the inputs.
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
        start_logits, end_logits = self.qa_outputs(outputs.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(
                start_logits, end_logits, start_positions, end_positions, num_items_in_batch=num_items_in_batch
            )
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class LinformerForMultipleChoice(LinformerPreTrainedModel):
    """Encoder that scores each of several choices."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        self.linformer: LinformerModel = LinformerModel(config)
        self.classifier: LinformerClassificationHead = LinformerClassificationHead(config, 1)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch choices seq"] | None = None,
        attention_mask: Shaped[Tensor, "batch choices seq"] | None = None,
        token_type_ids: Int[Tensor, "batch choices seq"] | None = None,
        position_ids: Int[Tensor, "batch choices seq"] | None = None,
        inputs_embeds: Float[Tensor, "batch choices seq hidden"] | None = None,
        labels: Int[Tensor, " batch"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> MultipleChoiceModelOutput:
        """Score choices; ``labels`` are the indices of the right ones. See ``LinformerModel``."""
        for name, x, axes in (("input_ids", input_ids, 3), ("inputs_embeds", inputs_embeds, 4)):
            if x is not None and x.ndim != axes:
                raise ValueError(f"{name} must have shape (batch, choices, seq, ...), got {tuple(x.shape)}.")

        def flat(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.flatten(0, 1)

        mask = flat(attention_mask)
        outputs = self.linformer(
            flat(input_ids),
            mask,
            flat(token_type_ids),
            flat(position_ids),
            flat(inputs_embeds),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        given = input_ids if input_ids is not None else inputs_embeds
        assert given is not None  # else the encoder has said so
        logits = self.classifier(outputs.last_hidden_state, mask).unflatten(0, given.shape[:2]).squeeze(-1)
        loss = None
        if labels is not None:
            reduction = "mean" if num_items_in_batch is None else "sum"
            loss = F.cross_entropy(logits, labels, reduction=reduction)
            loss = loss if num_items_in_batch is None else loss / num_items_in_batch
        return MultipleChoiceModelOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


def _classifier_dropout(config: LinformerConfig) -> nn.Dropout:
    dropout = config.classifier_dropout
    return nn.Dropout(config.hidden_dropout_prob if dropout is None else dropout)
