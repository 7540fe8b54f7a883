"""Hugging Face models built on the attention mechanisms; `import linformers` registers them with the Auto classes."""

from linformers.models.config import ATTENTION_TYPES, LinformerConfig
from linformers.models.heads import (
    LinformerForMultipleChoice,
    LinformerForQuestionAnswering,
    LinformerForSequenceClassification,
    LinformerForTokenClassification,
)
from linformers.models.text import LinformerForMaskedLM, LinformerModel, LinformerPreTrainedModel

__all__ = [
    "ATTENTION_TYPES",
    "LinformerConfig",
    "LinformerForMaskedLM",
    "LinformerForMultipleChoice",
    "LinformerForQuestionAnswering",
    "LinformerForSequenceClassification",
    "LinformerForTokenClassification",
    "LinformerModel",
    "LinformerPreTrainedModel",
]
