"""Inference on a CPU: ragged batches in groups, layers in chunks that stay in cache, nothing as long as the input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import linformers
from linformers.attention import base
from linformers.attention import linformer as linformer_attention
from linformers.models import encoder, text
from linformers.models.encoder import GROUP_PADDING, GROUP_TOKENS, group_by_length

VARIANTS = {
    "linear": {},
    "pre_norm": {"norm_position": "pre", "projection_sharing": "none"},
    "mean_pool": {"projection_kind": "mean_pool"},
    "mean_pool_window": {"projection_kind": "mean_pool", "local_window": 3, "global_tokens": 2},
    "max_pool": {"projection_kind": "max_pool", "global_tokens": 1},
    "exact": {"projection_kind": "mean_pool", "projected_dim": 200, "local_window": 3, "global_tokens": 1},
    "conv": {"projection_kind": "conv"},
    "kfree": {"attention_type": "kfree"},
    "softmax": {"attention_type": "softmax"},
}


def model_of(config) -> linformers.LinformerModel:
    torch.manual_seed(0)
    return linformers.LinformerModel(config).double().eval()


@pytest.fixture
def ragged():
    """Nine documents of 0 to 200 tokens, with padding at every place."""
    generator = torch.Generator().manual_seed(0)
    lengths = [200, 3, 195, 90, 64, 1, 0, 150, 70]
    mask = torch.stack([torch.randperm(200, generator=generator) < length for length in lengths])
    mask[0], mask[2], mask[7] = True, torch.arange(200) < 195, torch.arange(200) >= 50
    return {"input_ids": torch.randint(5, 120, mask.shape, generator=generator), "attention_mask": mask.long()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_ragged_batches_equal_one_document_at_a_time(variant, tiny_config, ragged, monkeypatch):
    monkeypatch.setattr(base, "READ_CHUNK_TOKENS", 64)
    monkeypatch.setattr(encoder, "GROUP_TOKENS", 420)
    monkeypatch.setattr(encoder, "STREAM_NUMBERS", 1)  # chunks of 64 tokens
    model = model_of(tiny_config(max_position_embeddings=200, **VARIANTS[variant]))
    whole = model(**ragged).last_hidden_state.detach()  # with gradients: neither groups nor chunks
    with torch.no_grad():
        grouped = model(**ragged).last_hidden_state
        for i, kept in enumerate(ragged["attention_mask"].bool()):
            torch.testing.assert_close(grouped[i, kept], whole[i, kept], rtol=0, atol=1e-10)
            if kept.any():
                alone = model(ragged["input_ids"][i : i + 1, kept]).last_hidden_state[0]
                torch.testing.assert_close(grouped[i, kept], alone, rtol=0, atol=1e-10)


@given(st.lists(st.integers(0, 3 * GROUP_TOKENS), max_size=40))
def test_groups(lengths):
    groups = group_by_length(lengths)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        longest, shortest = lengths[group[0]], lengths[group[-1]]
        assert len(group) == 1 or len(group) * longest <= GROUP_TOKENS
        assert longest <= 64 or shortest >= (1 - GROUP_PADDING) * longest


def test_layers_stream_by_themselves_only_in_inference(tiny_config, monkeypatch):
    monkeypatch.setattr(encoder, "STREAM_NUMBERS", 1)
    streamed = []
    plain = encoder.LinformerLayer._stream
    monkeypatch.setattr(encoder.LinformerLayer, "_stream", lambda *a: streamed.append(a) or plain(*a))
    model = model_of(tiny_config(max_position_embeddings=200))
    tokens = torch.arange(5, 105)[None]
    model(tokens)
    assert not streamed
    with torch.no_grad():
        model(tokens)
        assert len(streamed) == 3
        model(tokens, output_attentions=True)
        assert len(streamed) == 3  # weights are of the whole layer


@torch.no_grad()
def test_a_layer_leaves_its_input_alone_unless_told_otherwise(tiny_config, monkeypatch):
    monkeypatch.setattr(encoder, "STREAM_NUMBERS", 1)
    layer = model_of(tiny_config(max_position_embeddings=200)).encoder.layers[0]
    states = torch.randn(1, 150, 32, dtype=torch.float64)
    before = states.clone()
    expected, _ = layer(states)
    assert torch.equal(states, before)
    found, _ = layer(states, overwrite=True)
    assert found is states and torch.equal(found, expected)


class Sizes(TorchDispatchMode):
    """Numbers in every tensor that an operation makes; views and in-place results are no new ones."""

    def __init__(self):
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {
            x.untyped_storage().data_ptr()
            for x in torch.utils._pytree.tree_leaves((args, kwargs))
            if torch.is_tensor(x)
        }
        made = function(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(made):
            if torch.is_tensor(x) and x.is_floating_point() and x.untyped_storage().data_ptr() not in given:
                self.sizes.append(x.numel())
        return made


@pytest.mark.parametrize("options", [{}, {"projection_kind": "mean_pool"}, {"projection_sharing": "layerwise"}])
def test_nothing_but_the_hidden_states_is_as_long_as_the_input(options, tiny_config, monkeypatch):
    monkeypatch.setattr(encoder, "STREAM_NUMBERS", 1)
    monkeypatch.setattr(text, "EMBED_TOKENS", 64)
    monkeypatch.setattr(base, "READ_CHUNK_TOKENS", 64)
    model = model_of(tiny_config(max_position_embeddings=1000, **options))
    with torch.no_grad(), Sizes() as made:
        model(torch.arange(997)[None] % 100)
    long = [size for size in made.sizes if size >= 997]
    assert long.count(997 * 32) == 1  # the hidden states
    assert max(size for size in long if size != 997 * 32) <= 64 * 48  # a chunk in the middle of the feed-forward


def test_with_a_slot_for_each_token_no_window_is_cut(tiny_config, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a window was cut")

    monkeypatch.setattr(linformer_attention, "attend_with_window", refuse)
    model = model_of(tiny_config(**{**VARIANTS["exact"], "projected_dim": 8}))
    with torch.no_grad():
        model(torch.arange(5, 14)[None])  # eight slots and one global token
        with pytest.raises(AssertionError, match="window"):
            model(torch.arange(5, 15)[None])


def test_embeddings_by_parts(tiny_config, ragged, monkeypatch):
    model = model_of(tiny_config(max_position_embeddings=200, type_vocab_size=2))
    types = (ragged["input_ids"] % 2).long()
    with torch.no_grad():
        expected = model(**ragged, token_type_ids=types).last_hidden_state
        monkeypatch.setattr(text, "EMBED_TOKENS", 7)
        assert torch.equal(model(**ragged, token_type_ids=types).last_hidden_state, expected)
