"""Attention maps of every kind of encoder against what they do, and what is made of their spectra."""

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
)

from linformers import LinformerConfig, LinformerModel, configure
from linformers.analysis.spectrum import SpectrumSums, cut_windows, layer_trend, measure_windows, spectrum
from linformers.analysis.spectrum_maps import attention_maps, visit_maps
from linformers.analysis.spectrum_projection import learned_projections
from linformers.analysis.spectrum_values import Values
from linformers.attention import Documents

SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 80,
}
THEIRS: dict[str, dict[str, Any]] = {
    "bert": SHAPE,
    "roberta": SHAPE,
    "xlm-roberta": SHAPE,
    "electra": {**SHAPE, "embedding_size": 32},
    "distilbert": {
        "vocab_size": 50,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 80,
    },
    "modernbert": {
        **SHAPE,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
    },
    "mpnet": SHAPE,  # attention code of its own
}


def build(model_type: str, fields: dict[str, Any]) -> Any:
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


def maps_of(model: Any, ids: Tensor) -> dict[tuple[int, int], Tensor]:
    found = {}
    visit_maps(model, ids, lambda layer, head, matrix: found.__setitem__((layer, head), matrix))
    return found


@pytest.mark.parametrize("model_type", THEIRS)
def test_maps_are_the_attention_weights(model_type: str) -> None:
    model = build(model_type, THEIRS[model_type])
    ids = torch.randint(5, 50, (1, 40))
    with torch.no_grad():
        before, kernel = model(ids).last_hidden_state, model.config._attn_implementation
        found = maps_of(model, ids)
        assert model.config._attn_implementation == kernel and torch.equal(before, model(ids).last_hidden_state)
        model.set_attn_implementation("eager")
        expected = model(ids, output_attentions=True).attentions
    assert sorted(found) == [(layer, head) for layer in range(2) for head in range(4)]
    for (layer, head), matrix in found.items():
        torch.testing.assert_close(matrix, expected[layer][0, head])
    if model_type == "modernbert":  # the second layer sees 8 neighbours on each side
        assert found[1, 0][20, 29:].abs().max() == 0 < found[0, 0][20, 29:].min()


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_maps_of_a_model_that_is_linear_in_its_own_class(model_type: str) -> None:
    model = build(model_type, THEIRS[model_type])
    ids = torch.randint(5, 50, (1, 40))
    exact = maps_of(model, ids)
    configure(model, projected_dim=64, exact_length=0)
    for key, matrix in maps_of(model, ids).items():  # a slot for each token
        torch.testing.assert_close(matrix, exact[key], atol=1e-5, rtol=1e-4)
    configure(model, projected_dim=6)
    with torch.no_grad():
        before = model(ids).last_hidden_state
        found = maps_of(model, ids)
        assert torch.equal(model(ids).last_hidden_state, before) and model.config._attn_implementation == "linformers"
    for matrix in found.values():
        torch.testing.assert_close(matrix.sum(-1), torch.ones(40))
    # Six slots, a global token, and the slope of eight features; the first token sees all.
    singular = torch.linalg.svdvals(found[0, 0][1:])
    assert singular[15:].sum() < 1e-4 * singular.sum() < torch.linalg.svdvals(exact[0, 0][1:])[15:].sum()


OURS = {
    "softmax": {"attention_type": "softmax"},
    "kfree": {"attention_type": "kfree"},
    "linear, shared": {"projection_sharing": "layerwise"},
    "linear, E and F apart": {"projection_sharing": "headwise"},
    "linear for each head": {"projection_sharing": "none"},
    "pooled, window and global": {"projection_kind": "mean_pool", "local_window": 3, "global_tokens": 2},
    "conv, window for each head": {"projection_kind": "conv", "projection_sharing": "none", "local_window": 5},
    "linear, window beyond the text": {"local_window": 60, "global_tokens": 1},
    "attention_pool, global": {"projection_kind": "attention_pool", "global_tokens": 1},
    "cluster": {"projection_kind": "cluster"},
    "cluster, window and global": {"projection_kind": "cluster", "local_window": 3, "global_tokens": 2},
}


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("n", [13, 40])
def test_maps_of_ours_times_the_values_are_what_attention_reads(kind: str, n: int) -> None:
    config = LinformerConfig(**{**SHAPE, "projected_dim": 8, **OURS[kind]})
    model: Any = LinformerModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        attention = model.encoder.layers[0].attention
        x = torch.randn(1, n, 32)
        read, _ = attention.read(x, attention.build_memory(x, Documents(None, n, x.device)))
        values = attention.split_heads(attention.v_proj(x))[0]
        # A bias reaches a learned slot times the sum of its row; through the map, like any value.
        found = torch.stack([m @ v for m, v in zip(attention_maps(attention, x), values, strict=True)])
    torch.testing.assert_close(attention.merge_heads(found[None]), read, atol=2e-5, rtol=2e-5)


def test_maps_of_a_streamed_model_and_of_layers_without_attention() -> None:
    fields = {**SHAPE, "num_hidden_layers": 3, "attention_type": ["linformer", "none", "softmax"], "projected_dim": 8}
    whole: Any = LinformerModel(LinformerConfig(**fields)).eval()
    streamed: Any = LinformerModel(LinformerConfig(**fields, stream_chunk_size=8)).eval()
    streamed.load_state_dict(whole.state_dict())
    ids = torch.randint(5, 50, (1, 40))
    found, again = maps_of(whole, ids), maps_of(streamed, ids)
    assert sorted({layer for layer, _ in found}) == [0, 2] and found.keys() == again.keys()
    assert all(torch.equal(found[key], again[key]) for key in found)


def test_short_texts_are_read_by_softmax_attention_itself() -> None:
    fields = {**SHAPE, "projected_dim": 8}
    softmax: Any = LinformerModel(LinformerConfig(**fields, attention_type="softmax")).eval()
    ours: Any = LinformerModel(LinformerConfig(**fields, projection_kind="cluster", exact_length=40)).eval()
    ours.load_state_dict(softmax.state_dict())
    for n in (40, 41):
        ids = torch.randint(5, 50, (1, n))
        found, expected = maps_of(ours, ids), maps_of(softmax, ids)
        same = [torch.allclose(found[key], expected[key], atol=1e-6) for key in expected]
        assert all(same) if n == 40 else not any(same)


def test_max_pooling_has_no_map() -> None:
    model = LinformerModel(LinformerConfig(**SHAPE, projected_dim=8, projection_kind="max_pool")).eval()
    with pytest.raises(ValueError, match="projection_kind='max_pool' has no n x n map"):
        maps_of(model, torch.randint(5, 50, (1, 20)))


def values_of(rows: list[list[float]]) -> list[Values]:
    return [Values(torch.tensor(row, dtype=torch.float64), 0.0) for row in rows]


def test_means_by_hand() -> None:
    sums = SpectrumSums(index=1)
    sums.add({0: values_of([[3.0, 1.0, 0.0, 0.0]]), 2: values_of([[1.0, 1.0, 1.0, 1.0]])})
    sums.add({0: values_of([[1.0, 0.0, 0.0, 0.0]]), 2: values_of([[2.0, 2.0, 0.0, 0.0]])})
    found = SpectrumSums.from_arrays(1, sums.to_arrays()).spectrum()
    assert found.layers == (0, 2) and found.length == 4 and found.texts == 2
    np.testing.assert_allclose(found.curves[:, 0], [[0.875, 1, 1, 1], [0.375, 0.75, 0.875, 1]])
    np.testing.assert_allclose(found.shares[:, :, 0], [[0.75, 0.25], [1, 0.5]])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(found.effective_ranks[:, :, 0], [[np.exp(entropy), 4], [1, 2]])
    assert found.smallest_dims(0.875) == [1, 3] and found.smallest_dims(0.9) == [2, 4]
    assert found.to_dict()["share"] == [[0.875], [0.375]]


def test_trend() -> None:
    rng = np.random.default_rng(0)
    falling = 50.0 - 5 * np.arange(6)[:, None] + rng.normal(size=(20, 6, 4))
    trend = layer_trend(falling)
    assert -1 <= trend.low <= trend.correlation <= trend.high < -0.9 and trend.p_value < 0.001
    # Spearman's by its definition, on the means
    from scipy.stats import spearmanr

    expected: Any = spearmanr(np.repeat(np.arange(6), 4), falling.mean(0).ravel())
    assert trend.correlation == pytest.approx(expected.statistic)
    by_chance = layer_trend(np.broadcast_to(rng.normal(size=(1, 6, 4)), (20, 6, 4)) + 0.0)
    assert by_chance.p_value > 0.05 and by_chance.low == by_chance.high  # all texts alike: no doubt about the means
    assert layer_trend(np.ones((3, 2, 2))).correlation == 0
    assert layer_trend(np.ones((3, 1, 2))).p_value == 1


def words() -> PreTrainedTokenizerFast:
    """A tokenizer that gives a token a word, by its length, between two special ones."""
    vocab = {word: 5 + len(word) for word in ("a", "bb", "ccc", "dddd", "x" * 300)}
    backend = Tokenizer(models.WordLevel({"?": 0, "<": 1, ">": 2} | vocab, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing("< $A >", special_tokens=[("<", 1), (">", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")


def test_windows() -> None:
    texts = ["a bb ccc dddd", "a", "bb " * 11, "never read"]
    found = cut_windows(texts, words(), 5, 4, per_text=2)
    assert found.ids.tolist() == [[1, 6, 7, 8, 2], [1, 7, 7, 7, 2], [1, 7, 7, 7, 2]]
    assert (found.read, found.short) == (4, 2)
    assert cut_windows(texts, words(), 5, 2).ids.tolist() == found.ids[:2].tolist()
    with pytest.raises(ValueError, match="none of 4 has 30 tokens; lower length"):
        cut_windows(texts, words(), 30, 2)


def test_long_words_do_not_make_a_text_short() -> None:
    text = " ".join(["x" * 300] * 40)  # the start of a text, by characters, holds too few tokens
    assert cut_windows([text], words(), 10, 4, per_text=4).ids.tolist() == [[1, *[305] * 8, 2]] * 4


def test_spectrum_of_a_model() -> None:
    model = BertForMaskedLM(BertConfig(**SHAPE)).eval()
    done = []
    texts = ["a bb ccc " * 20] * 2
    found = spectrum(
        model, texts, tokenizer=words(), length=40, index=8, on_progress=lambda *counts: done.append(counts)
    )
    ids = torch.tensor(cut_windows(texts, words(), 40, 2).ids)[:1]
    with torch.no_grad():
        model.set_attn_implementation("eager")
        expected = torch.stack([a[0] for a in model.bert(ids, output_attentions=True).attentions])
    values = torch.linalg.svdvals(expected.double())
    shares = values[..., :8].sum(-1) / values.sum(-1)
    np.testing.assert_allclose(found.shares, torch.stack([shares, shares]).numpy(), atol=1e-4)
    assert done == [(1, 2), (2, 2)] and found.largest_error < 0.02
    half = SpectrumSums(8)
    windows = cut_windows(texts, words(), 40, 2).ids
    measure_windows(model, windows[:1], half)
    measure_windows(model, windows, half)
    assert np.array_equal(half.spectrum().curves, found.curves)  # in two parts, the same to the last bit


def test_errors(bad_input: None) -> None:
    model = BertForMaskedLM(BertConfig(**SHAPE)).eval()
    for arguments, said in (
        ({"texts": ["a"], "length": 81}, "length=81 exceeds the 80 tokens"),
        ({"texts": ["a"], "length": 20, "index": 21}, "index=21 exceeds length=20"),
        ({"texts": ["a"], "length": 20, "index": 5}, "none of 1 has 20 tokens"),
        ({"texts": [], "length": 20, "index": 5}, "none of 0"),
        ({"texts": ["a"], "length": 20, "index": 5, "tokenizer": None}, "tokenizer is missing"),
    ):
        with pytest.raises(ValueError, match=said):
            spectrum(model, **{"tokenizer": words(), **arguments})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got one str"):
        spectrum(model, "a text", tokenizer=words())


def test_learned_projections() -> None:
    config = LinformerConfig(**{**SHAPE, "projected_dim": 8, "max_position_embeddings": 40})
    model: Any = LinformerModel(config)
    bank = model.encoder.projections
    random = learned_projections(bank)
    assert [one.name for one in random] == ["layer_0", "layer_1"] and random[0].matrix.shape == (8, 40)
    assert random[0].pooling_share == pytest.approx(8 / 40, abs=0.1) and abs(random[0].cosine) < 0.5
    with torch.no_grad():
        windows = torch.arange(40) // 5
        bank.projections["layer_0"].weight.copy_(torch.nn.functional.one_hot(windows, 8) * 0.3)
        bank.projections["layer_1"].weight.copy_(torch.nn.functional.one_hot(windows, 8).flip(1) * 0.3)
    same, turned = learned_projections(bank)
    assert (same.cosine, same.nearest_cosine, same.pooling_share) == pytest.approx((1, 1, 1))
    assert (turned.cosine, turned.nearest_cosine, turned.pooling_share) == pytest.approx((0, 1, 1))
    assert same.effective_rank == pytest.approx(8)
    pooled = LinformerModel(LinformerConfig(**SHAPE, projected_dim=8, projection_kind="mean_pool"))
    assert learned_projections(pooled.encoder.projections) == []
