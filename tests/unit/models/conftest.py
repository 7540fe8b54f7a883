import pytest
import torch

from linformers.models import LinformerConfig

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


@pytest.fixture
def tiny_config():
    return lambda **changes: LinformerConfig(**{**TINY, **changes})


@pytest.fixture
def batch():
    """Three sequences of 37, 20 and 1 tokens, padded on the right."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(5, 120, (3, 37), generator=generator)
    attention_mask = (torch.arange(37) < torch.tensor([[37], [20], [1]])).long()
    return {"input_ids": input_ids.where(attention_mask.bool(), 1), "attention_mask": attention_mask}
