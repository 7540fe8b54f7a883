"""The encoders that can be converted: where each keeps the weights and settings that ours has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# A module of ours -> the module of theirs that holds its weights. Several: of a classifier, theirs that read one prefix
# token each and are averaged, which is one that reads all of them.
Names = Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture.

    Args:
        modality: what it reads.
        fields: our configuration's fields -> theirs (or several, as a tuple), where the names differ.
        constants: fields of ours that are fixed in their code.
        embeddings: modules of the base model before the layers.
        layers: their prefix of a layer, with ``{}`` for its index.
        layer: modules of one layer.
        heads: modules on top of the base model, by what follows the family's name in theirs.
        classifier_activation: Activation of their sequence classifier; a name in angle brackets is a field of the
            configuration.
        head_activation: Activation of their masked-LM head; None = that of the feed-forward layers.
        prefix_tokens: their learned tokens before the patches.
    """

    modality: Literal["text", "image", "audio"] = "text"
    embeddings: Mapping[str, str]
    layers: str
    layer: Mapping[str, str]
    heads: Mapping[str, Names]
    fields: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    classifier_activation: Mapping[str, str] = field(default_factory=dict)
    head_activation: str | None = None
    prefix_tokens: tuple[str, ...] = ()

    def source(self, name: str) -> str | None:
        """Name in their base model of a weight of our base model, None where they have none."""
        module, _, weight = name.rpartition(".")
        if module in self.embeddings:
            return f"{self.embeddings[module]}.{weight}"
        prefix, _, rest = module.partition("encoder.layers.")
        index, _, part = rest.partition(".")
        if prefix or part not in self.layer:
            return None
        return f"{self.layers.format(index)}.{self.layer[part]}.{weight}"


_LAYER = {
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.o_proj": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
_EMBEDDINGS = {
    "embeddings.word_embeddings": "embeddings.word_embeddings",
    "embeddings.position_embeddings": "embeddings.position_embeddings",
    "embeddings.token_type_embeddings": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
}
_LAYERS = "encoder.layer.{}"
_CLASSIFIER = {"classifier": "classifier"}
_SPANS = {"qa_outputs": "qa_outputs"}


def _pooled(dense: str) -> Names:
    return {"classifier.dense": dense, "classifier.out_proj": "classifier"}


_OWN_CLASSIFIER = {"classifier.dense": "classifier.dense", "classifier.out_proj": "classifier.out_proj"}

_BERT_LM = {
    "lm_head.dense": "cls.predictions.transform.dense",
    "lm_head.norm": "cls.predictions.transform.LayerNorm",
    "lm_head.decoder": "cls.predictions.decoder",
}
_BERT = Family(
    embeddings=_EMBEDDINGS,
    layers=_LAYERS,
    layer=_LAYER,
    heads={
        "Model": {},
        "ForMaskedLM": _BERT_LM,
        "ForPreTraining": _BERT_LM,  # without its prediction of the next sentence
        "ForSequenceClassification": _pooled("bert.pooler.dense"),
        "ForTokenClassification": _CLASSIFIER,
        "ForQuestionAnswering": _SPANS,
        "ForMultipleChoice": _pooled("bert.pooler.dense"),
    },
)
_ROBERTA = Family(
    embeddings=_EMBEDDINGS,
    layers=_LAYERS,
    layer=_LAYER,
    heads={
        "Model": {},
        "ForMaskedLM": {
            "lm_head.dense": "lm_head.dense",
            "lm_head.norm": "lm_head.layer_norm",
            "lm_head.decoder": "lm_head.decoder",
        },
        "ForSequenceClassification": _OWN_CLASSIFIER,
        "ForTokenClassification": _CLASSIFIER,
        "ForQuestionAnswering": _SPANS,
        "ForMultipleChoice": _pooled("roberta.pooler.dense"),
    },
    head_activation="gelu",
)
_DISTILBERT = Family(
    embeddings={ours: theirs for ours, theirs in _EMBEDDINGS.items() if "token_type" not in ours},
    layers="transformer.layer.{}",
    layer={
        "attention.q_proj": "attention.q_lin",
        "attention.k_proj": "attention.k_lin",
        "attention.v_proj": "attention.v_lin",
        "attention.o_proj": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "intermediate": "ffn.lin1",
        "output": "ffn.lin2",
        "output_norm": "output_layer_norm",
    },
    heads={
        "Model": {},
        "ForMaskedLM": {
            "lm_head.dense": "vocab_transform",
            "lm_head.norm": "vocab_layer_norm",
            "lm_head.decoder": "vocab_projector",
        },
        "ForSequenceClassification": _pooled("pre_classifier"),
        "ForTokenClassification": _CLASSIFIER,
        "ForQuestionAnswering": _SPANS,
        "ForMultipleChoice": _pooled("pre_classifier"),
    },
    fields={
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "classifier_dropout": "seq_classif_dropout",
    },
    constants={"layer_norm_eps": 1e-12, "type_vocab_size": 1},
    classifier_activation={"ForSequenceClassification": "relu", "ForMultipleChoice": "relu"},
)
_ELECTRA = Family(
    embeddings=_EMBEDDINGS,
    layers=_LAYERS,
    layer=_LAYER,
    heads={
        "Model": {},
        "ForMaskedLM": {
            "lm_head.dense": "generator_predictions.dense",
            "lm_head.norm": "generator_predictions.LayerNorm",
            "lm_head.decoder": "generator_lm_head",
        },
        "ForSequenceClassification": _OWN_CLASSIFIER,
        "ForTokenClassification": _CLASSIFIER,
        "ForQuestionAnswering": _SPANS,
        "ForMultipleChoice": _pooled("sequence_summary.summary"),
    },
    classifier_activation={"ForSequenceClassification": "gelu", "ForMultipleChoice": "<summary_activation>"},
    head_activation="gelu",
)

FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": _DISTILBERT,
    "electra": _ELECTRA,
}
"""By transformers' ``model_type``."""
