"""Tiny models of every family, far from uniform attention, and inputs for them: a new family is one line."""

import copy
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
)

import linformers

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = TINY | {"vocab_size": 100, "pad_token_id": 0}
IMAGES = TINY | {"image_size": 48, "patch_size": 8}
IDS = {"bos_token_id": 1, "cls_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
WAVES = {"conv_dim": (32, 32), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2}
WAVES |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "mask_time_prob": 0.0}
FAMILIES: dict[str, dict[str, Any]] = {
    "albert": WORDS | {"embedding_size": 16},
    "bert": WORDS,
    "camembert": WORDS | {"max_position_embeddings": 130},
    "data2vec-text": WORDS | {"max_position_embeddings": 130},
    "distilbert": {"vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "pad_token_id": 0},
    "electra": WORDS | {"embedding_size": 32},
    "ernie": WORDS,
    "esm": WORDS | {"mask_token_id": 32, "position_embedding_type": "rotary"},
    "eurobert": WORDS | {"num_key_value_heads": 2, "mask_token_id": 3} | IDS,
    "modernbert": WORDS | {"global_attn_every_n_layers": 2, "local_attention": 8} | IDS,
    "mpnet": WORDS | {"max_position_embeddings": 130},
    "nomic_bert": WORDS,
    "roberta": WORDS | {"max_position_embeddings": 130},
    "xlm-roberta": WORDS | {"max_position_embeddings": 130},
    "xlm-roberta-xl": WORDS | {"max_position_embeddings": 130},
    "beit": IMAGES | {"use_relative_position_bias": False},
    "clip_vision_model": IMAGES,
    "deit": IMAGES,
    "dinov2": IMAGES,
    "siglip_vision_model": IMAGES,
    "vit": IMAGES,
    "audio-spectrogram-transformer": TINY | {"max_length": 64, "num_mel_bins": 32, "patch_size": 16},
    "hubert": TINY | WAVES,
    "wav2vec2": TINY | WAVES,
}
PATCHES = [name for name, config in FAMILIES.items() if "patch_size" in config and "image_size" in config]
SOFTMAX = None  # the implementation that transformers chooses: sdpa, or eager where a model has no other
PADDED = [name for name, config in FAMILIES.items() if "vocab_size" in config]


def build(family: str, implementation: str | None = "linformers", **settings: Any) -> Any:
    """A tiny model of the family whose attention is far from uniform."""
    torch.manual_seed(0)
    model = AutoModel.from_config(
        AutoConfig.for_model(family, **copy.deepcopy(FAMILIES[family])), attn_implementation=implementation
    ).eval()
    sharpen(model)
    return linformers.configure(model, **settings) if settings else model


def sharpen(model: nn.Module) -> None:
    """Weights that make attention far from uniform; always the same."""
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embed" not in name:
            nn.init.normal_(weight, std=0.35, generator=generator)


def inputs(family: str) -> dict[str, torch.Tensor]:
    """A batch of two, the second padded where the family knows padding."""
    generator = torch.Generator().manual_seed(2)
    if family in PATCHES:
        return {"pixel_values": torch.randn(2, 3, 48, 48, generator=generator)}
    if family == "audio-spectrogram-transformer":
        return {"input_values": torch.randn(2, 64, 32, generator=generator)}
    if family in ("wav2vec2", "hubert"):
        return {"input_values": torch.randn(2, 600, generator=generator)}
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, 25:] = 0
    ids = torch.randint(4, 100, (2, 40), generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask}


def states(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Last hidden states of what is no padding."""
    found = model(**batch).last_hidden_state
    return found[batch["attention_mask"].bool()] if "attention_mask" in batch else found
