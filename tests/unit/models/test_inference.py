"""Inference on a CPU: ragged batches in groups, layers in chunks that stay in cache, nothing as long as the input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import linformers
from linformers.attention import base, documents, projection, slots
from linformers.attention import linformer as linformer_attention
from linformers.attention.documents import GROUP_PADDING, GROUP_TOKENS, group_by_length
from linformers.models import encoder, text

VARIANTS = {
    "linear": {},
    "pre_norm": {"norm_position": "pre", "projection_sharing": "none"},
    "mean_pool": {"projection_kind": "mean_pool"},
    "mean_pool_window": {"projection_kind": "mean_pool", "local_window": 3, "global_tokens": 2},
    "max_pool": {"projection_kind": "max_pool", "global_tokens": 1},
    "exact": {"projection_kind": "mean_pool", "projected_dim": 200, "local_window": 3, "global_tokens": 1},
    "attention_pool": {"projection_kind": "attention_pool", "local_window": 20, "exact_length": 80},
    "cluster": {"projection_kind": "cluster", "global_tokens": 1},
    "cluster_exact": {"projection_kind": "cluster", "global_tokens": 1, "exact_length": 70},
    "cluster_window": {"projection_kind": "cluster", "local_window": 3, "global_tokens": 1, "exact_length": 90},
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
    monkeypatch.setattr(documents, "GROUP_TOKENS", 420)
    monkeypatch.setattr(linformer_attention, "POOL_TOKENS", 64)
    monkeypatch.setattr(encoder, "STREAM_NUMBERS", 1)  # chunks of 64 tokens
    model = model_of(tiny_config(max_position_embeddings=200, **VARIANTS[variant]))
    whole = model(**ragged).last_hidden_state.detach()  # with gradients: no chunks, and groups by exact length only
    with torch.no_grad():
        grouped = model(**ragged).last_hidden_state
        for i, kept in enumerate(ragged["attention_mask"].bool()):
            torch.testing.assert_close(grouped[i, kept], whole[i, kept], rtol=0, atol=1e-10)
            if kept.any():
                alone = model(ragged["input_ids"][i : i + 1, kept]).last_hidden_state[0]
                torch.testing.assert_close(grouped[i, kept], alone, rtol=0, atol=1e-10)


@given(st.lists(st.integers(0, 3 * GROUP_TOKENS), max_size=40), st.integers(0, 2 * GROUP_TOKENS))
def test_groups(lengths, exact_length):
    for by_length in (False, True):
        groups = group_by_length(lengths, exact_length, by_length)
        assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
        assert all(len({lengths[i] <= exact_length for i in group}) == 1 for group in groups)
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
@pytest.mark.parametrize("variant", ["cluster_exact", "mean_pool_window", "kfree"])
def test_what_hooks_see_is_what_the_model_returns(variant, tiny_config, ragged, monkeypatch):
    """Layers see the whole batch, however it is grouped inside; nothing that a hook has kept is written to later."""
    monkeypatch.setattr(encoder, "STREAM_NUMBERS", 1)
    monkeypatch.setattr(documents, "GROUP_TOKENS", 420)
    model = model_of(tiny_config(max_position_embeddings=200, **VARIANTS[variant]))
    seen = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    last = model(**ragged).last_hidden_state
    hooked, seen = seen, []
    states = model(**ragged, output_hidden_states=True)
    assert torch.equal(states.last_hidden_state, last)
    keep = ragged["attention_mask"].bool()
    aligned = torch.arange(200) < keep.sum(1, keepdim=True)  # the order inside
    for kept, returned in zip(hooked, states.hidden_states[1:], strict=True):
        assert torch.equal(kept[aligned], returned[keep])


def test_reentrant_activation_checkpointing_changes_no_gradient(tiny_config, ragged):
    model = model_of(tiny_config(max_position_embeddings=200, **VARIANTS["cluster_exact"])).train()
    gradients = []
    for reentrant in (None, False, True):
        if reentrant is not None:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        model(**ragged).last_hidden_state.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for others in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(others[name], gradient, rtol=0, atol=1e-10, msg=name)


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


@pytest.mark.parametrize(
    "options",
    [{}, {"projection_kind": "mean_pool"}, {"projection_sharing": "layerwise"}, VARIANTS["cluster"]],
)
def test_nothing_but_the_hidden_states_is_as_long_as_the_input(options, tiny_config, monkeypatch):
    monkeypatch.setattr(encoder, "STREAM_NUMBERS", 1)
    monkeypatch.setattr(text, "EMBED_TOKENS", 64)
    monkeypatch.setattr(base, "READ_CHUNK_TOKENS", 64)
    monkeypatch.setattr(linformer_attention, "POOL_TOKENS", 64)
    monkeypatch.setattr(linformer_attention, "AT_ONCE_TOKENS", 64)
    monkeypatch.setattr(slots, "SAMPLE_TOKENS", 64)
    monkeypatch.setattr(projection, "FEW", 64)
    model = model_of(tiny_config(max_position_embeddings=1000, **options))
    with torch.no_grad(), Sizes() as made:
        model(torch.arange(997)[None] % 100)
    long = [size for size in made.sizes if size >= 997]
    assert long.count(997 * 32) == 1 + 3  # the embeddings, and what each layer gives
    assert max(size for size in long if size != 997 * 32) <= 64 * 48  # a chunk in the middle of the feed-forward


@pytest.mark.parametrize("kind", ["mean_pool", "max_pool", "attention_pool", "cluster"])
def test_short_documents_are_read_by_softmax_itself(kind, tiny_config, ragged):
    """Each by its own length, whatever else is in the batch; the others are not."""
    options = {"projected_dim": 8, "global_tokens": 1, "projection_kind": kind}
    model = model_of(tiny_config(max_position_embeddings=200, exact_length=90, **options))
    softmax = model_of(tiny_config(max_position_embeddings=200, attention_type="softmax"))
    softmax.load_state_dict(model.state_dict())
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            found, expected = (m(**ragged).last_hidden_state.detach() for m in (model, softmax))
        for i, kept in enumerate(ragged["attention_mask"].bool()):
            same = torch.allclose(found[i, kept], expected[i, kept], rtol=0, atol=1e-10)
            assert same == (kept.sum() <= 90), (i, kept.sum())


def test_embeddings_by_parts(tiny_config, ragged, monkeypatch):
    model = model_of(tiny_config(max_position_embeddings=200, type_vocab_size=2))
    types = (ragged["input_ids"] % 2).long()
    with torch.no_grad():
        expected = model(**ragged, token_type_ids=types).last_hidden_state
        monkeypatch.setattr(text, "EMBED_TOKENS", 7)
        assert torch.equal(model(**ragged, token_type_ids=types).last_hidden_state, expected)
