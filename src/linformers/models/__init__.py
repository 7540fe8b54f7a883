"""Hugging Face models built on the attention mechanisms; `import linformers` registers them with the Auto classes."""

from linformers.models.audio import LinformerAudioModel, LinformerForAudioClassification
from linformers.models.config import ATTENTION_TYPES, LinformerConfig
from linformers.models.heads import (
    LinformerForMultipleChoice,
    LinformerForQuestionAnswering,
    LinformerForSequenceClassification,
    LinformerForTokenClassification,
)
from linformers.models.text import LinformerForMaskedLM, LinformerModel, LinformerPreTrainedModel
from linformers.models.vision import LinformerForImageClassification, LinformerImageModel

__all__ = [
    "ATTENTION_TYPES",
    "LinformerAudioModel",
    "LinformerConfig",
    "LinformerForAudioClassification",
    "LinformerForImageClassification",
    "LinformerForMaskedLM",
    "LinformerForMultipleChoice",
    "LinformerForQuestionAnswering",
    "LinformerForSequenceClassification",
    "LinformerForTokenClassification",
    "LinformerImageModel",
    "LinformerModel",
    "LinformerPreTrainedModel",
]
