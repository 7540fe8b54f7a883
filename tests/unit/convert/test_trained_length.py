"""``trained_length``: queries that are sharper in longer texts, each text by its own length."""

import math

import pytest
import torch
from transformers import BertConfig, BertModel

import linformers

TRAINED = 8


def teacher() -> BertModel:
    """A small encoder with random weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = BertModel(BertConfig(vocab_size=50, **sizes)).eval()
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.attention.self.query.weight.mul_(40)  # attention that is far from uniform
    return model


@torch.no_grad()
def sharper(length: int) -> BertModel:
    """Softmax attention whose queries are multiplied as those of a text of so many tokens should be."""
    model, factor = teacher(), max(1.0, math.log(length) / math.log(TRAINED))
    for layer in model.encoder.layer:
        layer.attention.self.query.weight.mul_(factor)
        layer.attention.self.query.bias.mul_(factor)
    return model


@pytest.mark.parametrize("exact_length", [0, 64])
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_each_text_is_read_by_its_own_length(exact_length: int, padded: bool) -> None:
    settings = {"projected_dim": 64, "exact_length": exact_length, "global_tokens": 2}
    model = linformers.linearise(teacher(), trained_length=TRAINED, **settings)
    lengths = [40, 20, 8, 5] if padded else [40, 40]
    ids = torch.randint(1, 50, (len(lengths), 40), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(40) < torch.tensor(lengths)[:, None]).long()
    found = model(ids, attention_mask=mask).last_hidden_state
    for row, n in enumerate(lengths):
        expected = sharper(n)(ids[row : row + 1, :n]).last_hidden_state[0]
        torch.testing.assert_close(found[row, :n], expected, atol=1e-4, rtol=1e-4)
        plain = teacher()(ids[row : row + 1, :n]).last_hidden_state[0]
        assert torch.allclose(found[row, :n], plain, atol=1e-4) == (n <= TRAINED)


def long_models() -> tuple[BertModel, BertModel]:
    """Slots for each token with sharper queries, and softmax attention whose weights are sharper, for 40 tokens."""
    return linformers.linearise(teacher(), trained_length=TRAINED, exact_length=0, projected_dim=64), sharper(40)


def test_gradients_are_those_of_sharper_queries() -> None:
    ids, grads = torch.randint(1, 50, (2, 40), generator=torch.Generator().manual_seed(2)), []
    for model in long_models():
        model.double()(ids).last_hidden_state.square().sum().backward()
        grads.append(model.embeddings.word_embeddings.weight.grad)
    torch.testing.assert_close(*grads, atol=1e-12, rtol=1e-10)


@torch.no_grad()
def test_bfloat16_is_as_near_as_softmax_is() -> None:
    ids = torch.randint(1, 50, (2, 40), generator=torch.Generator().manual_seed(2))
    expected = sharper(40).double()(ids).last_hidden_state
    ours, theirs = ((model.bfloat16()(ids).last_hidden_state - expected).abs().mean() for model in long_models())
    assert ours <= 2 * theirs


@torch.no_grad()
def test_saved_and_loaded(tmp_path) -> None:
    model = linformers.linearise(teacher(), trained_length=TRAINED)
    ids = torch.randint(1, 50, (1, 60))
    model.save_pretrained(tmp_path)
    again = BertModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(ids).last_hidden_state, model(ids).last_hidden_state)
    assert again.config.linformers["trained_length"] == TRAINED
