"""The encoders of images and audio that can be converted; see ``convert_families``."""

from linformers.convert.families import FAMILIES, Family, Names

_LAYER = {
    "attention_norm": "layernorm_before",
    "attention.q_proj": "attention.q_proj",
    "attention.k_proj": "attention.k_proj",
    "attention.v_proj": "attention.v_proj",
    "attention.o_proj": "attention.o_proj",
    "output_norm": "layernorm_after",
    "intermediate": "mlp.fc1",
    "output": "mlp.fc2",
}
_MODULES = {
    "embeddings.projection": "embeddings.patch_embeddings.projection",
    "encoder.final_norm": "layernorm",
}
_CONSTANTS = {"norm_position": "pre", "classifier_dropout": 0.0}
_IMAGE_HEADS: dict[str, Names] = {"Model": {}, "ForImageClassification": {"classifier": "classifier"}}

PATCH_FAMILIES: dict[str, Family] = {
    "vit": Family(
        modality="image",
        embeddings=_MODULES,
        layers="layers.{}",
        layer=_LAYER,
        heads=_IMAGE_HEADS,
        constants=_CONSTANTS,
        prefix_tokens=("cls_token",),
    ),
    "deit": Family(
        modality="image",
        embeddings=_MODULES,
        layers="layers.{}",
        layer=_LAYER,
        heads={
            **_IMAGE_HEADS,
            "ForImageClassificationWithTeacher": {"classifier": ("cls_classifier", "distillation_classifier")},
        },
        constants=_CONSTANTS,
        prefix_tokens=("cls_token", "distillation_token"),
    ),
    "audio-spectrogram-transformer": Family(
        modality="audio",
        embeddings=_MODULES,
        layers="layers.{}",
        layer=_LAYER,
        heads={
            "Model": {},
            "ForAudioClassification": {"norm": "classifier.layernorm", "classifier": "classifier.dense"},
        },
        fields={"audio_length": "max_length", "patch_stride": ("frequency_stride", "time_stride")},
        constants=_CONSTANTS,
        prefix_tokens=("cls_token", "distillation_token"),
    ),
}
"""By transformers' ``model_type``."""

ALL_FAMILIES = FAMILIES | PATCH_FAMILIES
