"""A tiny configuration, its variants and a ragged batch."""

import torch
from torch import Tensor

TINY = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "projected_dim": 8,  # below the lengths used here, so that the low-rank branch is reached
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
VARIANTS = {
    "linear": {},
    "pre_norm": {"norm_position": "pre", "projection_sharing": "layerwise"},
    "per_head": {"projection_sharing": "none"},
    "per_layer": {"projected_dim": [4, None, 8]},
    "mean_pool_window": {"projection_kind": "mean_pool", "local_window": 3, "global_tokens": 2},
    "conv": {"projection_kind": "conv"},
    "kfree": {"attention_type": "kfree"},
    "softmax": {"attention_type": "softmax"},
    "none": {"attention_type": "none"},
}


def make_batch() -> dict[str, Tensor]:
    """Three sequences of 37, 20 and 1 tokens, padded on the right."""
    input_ids = torch.randint(5, 120, (3, 37), generator=torch.Generator().manual_seed(0))
    attention_mask = (torch.arange(37) < torch.tensor([[37], [20], [1]])).long()
    return {"input_ids": input_ids.where(attention_mask.bool(), 1), "attention_mask": attention_mask}
