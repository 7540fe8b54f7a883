"""``attn_implementation="linformers"``, family by family: what is computed, and what is refused."""

import copy

import pytest
import torch
from interface_helpers import (
    FAMILIES,
    PADDED,
    SOFTMAX,
    WORDS,
    build,
    inputs,
    sharpen,
    states,
)
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    BartModel,
    BertConfig,
    BertModel,
    DebertaConfig,
    DebertaModel,
)

import linformers
from linformers.convert.interface import attention


@pytest.mark.parametrize("family", FAMILIES)
def test_short_inputs_are_read_as_by_softmax(family):
    batch = inputs(family)
    with torch.no_grad():
        expected = states(build(family, SOFTMAX), batch)
        torch.testing.assert_close(states(build(family), batch), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_slot_for_each_token_gives_the_gradients_of_softmax(family):
    batch = inputs(family)
    models = build(family, SOFTMAX), build(family, exact_length=0, projected_dim=128)
    for model in models:
        found = states(model, batch)
        (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    pairs = [
        (name, a.grad, b.grad)
        for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True)
        if a.grad is not None
    ]
    largest = max(a.abs().max() for _, a, _ in pairs)
    for name, a, b in pairs:
        torch.testing.assert_close(b / largest, a / largest, atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("family", FAMILIES)
def test_slots_are_near_softmax_and_no_softmax(family):
    batch = inputs(family)
    with torch.no_grad():
        exact = states(build(family, SOFTMAX), batch)
        slots = states(build(family, exact_length=0, projected_dim=8), batch)
        cosine = torch.cosine_similarity(slots, exact, dim=-1).mean()
    assert 0.5 < cosine < 0.99999, cosine


@pytest.mark.parametrize("family", PADDED)
@pytest.mark.parametrize(
    "settings",
    [{}, {"local_window": 3, "global_tokens": 2}, {"projection_kind": "attention_pool"}, {"segment_length": 16}],
)
def test_padding_and_batch_mates_change_nothing(family, settings):
    batch = inputs(family)
    model = build(family, exact_length=0, projected_dim=8, **settings)
    with torch.no_grad():
        together = model(**batch).last_hidden_state[1, :25]
        batch["input_ids"][1, 25:] = 7  # what padding holds
        other = model(**batch).last_hidden_state[1, :25]
        alone = model(input_ids=batch["input_ids"][1:, :25]).last_hidden_state[0]
    torch.testing.assert_close(other, together)
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["modernbert", "mpnet"])
@pytest.mark.parametrize("settings", [{}, {"exact_length": 0, "projected_dim": 8}, {"segment_length": 16}])
def test_padding_on_the_left(family, settings):
    model, batch = build(family, **settings), inputs(family)
    batch["position_ids"] = torch.arange(40).expand(2, -1)
    with torch.no_grad():
        right = model(**batch).last_hidden_state[1, :25]
        left = model(**{name: x.roll(15, 1) for name, x in batch.items()}).last_hidden_state[1, 15:]
    torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


def test_sliding_layers_stay_what_they_are():
    config = AutoConfig.for_model("modernbert", **FAMILIES["modernbert"] | {"global_attn_every_n_layers": 3})
    config.layer_types = ["sliding_attention", "sliding_attention"]
    ids, mask = torch.randint(4, 100, (2, 300)), torch.ones(2, 300, dtype=torch.long)
    mask[1, 170:] = 0
    models = []
    for implementation in ("sdpa", "linformers"):
        torch.manual_seed(0)
        models.append(AutoModel.from_config(copy.deepcopy(config), attn_implementation=implementation).eval())
        sharpen(models[-1])
    linformers.configure(models[1], exact_length=0, projected_dim=8)
    with torch.no_grad():
        a, b = (model(ids, attention_mask=mask).last_hidden_state[mask.bool()] for model in models)
        config.layer_types = ["full_attention", "full_attention"]
        full = AutoModel.from_config(config, attn_implementation="sdpa").eval()
        sharpen(full)
        full = full(ids, attention_mask=mask).last_hidden_state[mask.bool()]
    torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-4)
    assert (full - a).abs().max() > 0.1, "the window decides something"


@pytest.mark.parametrize("family", ["bert", "mpnet"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(family, dtype):
    batch = inputs(family)
    with torch.no_grad():
        exact = states(build(family, exact_length=0, projected_dim=8).double(), batch)
        found = states(build(family, exact_length=0, projected_dim=8).to(dtype), batch)
    assert found.dtype == dtype
    assert torch.cosine_similarity(found.double(), exact, dim=-1).min() > (0.9 if dtype == torch.bfloat16 else 1 - 1e-9)


def test_masks_in_other_forms():
    """Floats of 0 and 1, and four axes of bools or of what is added to scores; None is a mask of ones."""
    model, batch = build("bert", exact_length=0, projected_dim=8), inputs("bert")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    added = torch.zeros(2, 1, 1, 40).masked_fill(mask[:, None, None] == 0, torch.finfo(torch.float32).min)
    with torch.no_grad():
        expected = states(model, batch)
        for other in (
            mask.float(),
            mask[:, None, None].bool(),
            mask[:, None, None].bool().expand(-1, 1, 40, -1),
            added,
        ):
            found = model(ids, attention_mask=other).last_hidden_state[mask.bool()]
            torch.testing.assert_close(found, expected, msg=lambda m, shape=other.shape: f"{shape}: {m}")
        ones = model(ids, attention_mask=torch.ones(2, 40)).last_hidden_state
        torch.testing.assert_close(model(ids).last_hidden_state, ones)
        assert (ones[mask.bool()] - expected).abs().max() > 1e-3, "the mask decides something"


def test_a_layer_of_softmax_and_settings_by_layer():
    model, batch = build("bert", exact_length=0, projected_dim=[None, 8]), inputs("bert")
    both = build("bert", exact_length=0, projected_dim=8)
    with torch.no_grad():
        first = [
            m(**batch, output_hidden_states=True).hidden_states[1][0] for m in (model, both, build("bert", SOFTMAX))
        ]
    torch.testing.assert_close(first[0], first[2], atol=1e-5, rtol=1e-5)
    assert (first[1] - first[2]).abs().max() > 1e-4


def test_dropout_in_training_only():
    torch.manual_seed(0)
    model = BertModel(BertConfig(**WORDS, attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0)).train()
    linformers.configure(model, exact_length=0, projected_dim=8)
    ids = inputs("bert")["input_ids"]
    assert not torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)
    model.eval()
    torch.testing.assert_close(model(ids).last_hidden_state, model(ids).last_hidden_state)


@pytest.mark.parametrize("family", ["deberta", "deberta-v2"])
def test_models_that_take_no_implementation_are_refused(family):
    with pytest.raises(ValueError, match="computes its attention itself"):
        AutoModel.from_config(AutoConfig.for_model(family, **WORDS), attn_implementation="linformers")


def test_a_bias_of_pairs_is_refused():
    """Before transformers 5.24 as the model is made, which then takes no implementation; since then as it reads."""
    places = {"coordinate_size": 6, "shape_size": 4, "visual_embed": False}  # 4 * 6 + 2 * 4 features
    config = AutoConfig.for_model("layoutlmv3", **WORDS, **places, has_relative_attention_bias=True)
    with pytest.raises(ValueError, match="computes its attention itself|uses position_bias"):
        AutoModel.from_config(config, attn_implementation="linformers")(torch.arange(8)[None])


@pytest.mark.parametrize("family", ["sam", "sam_vision_model"])
def test_models_with_a_list_of_their_own_are_refused(family):
    with pytest.raises(ValueError, match="ATTENTION_CLASSES, in which there is no linear one"):
        AutoModel.from_config(AutoConfig.for_model(family), attn_implementation="linformers")


def test_a_model_that_takes_no_implementation_cannot_be_configured():
    with pytest.raises(ValueError, match="DebertaModel computes its attention itself"):
        linformers.configure(DebertaModel(DebertaConfig(**WORDS)))


def test_what_is_not_taken_is_named():
    model, batch = build("bert"), inputs("bert")
    for some in (model, build("mpnet")):
        with pytest.raises(ValueError, match="output_attentions"):
            some(**batch, output_attentions=True)
    triangle = torch.ones(40, 40).tril().bool()[None, None].expand(2, 1, -1, -1)
    with pytest.raises(ValueError, match="more than padding"):
        model(batch["input_ids"], attention_mask=triangle)
    query = torch.randn(1, 2, 5, 4)
    with pytest.raises(ValueError, match="more than padding"):
        attention(nn.Linear(1, 1), query, query, query, torch.tensor([0.0, -0.5, 0.0, -1.0, 0.0]).view(1, 1, 1, 5))
    with pytest.raises(ValueError, match="softcap"):
        attention(nn.Linear(1, 1), query, query, query, None, softcap=30.0)
    with pytest.raises(ValueError, match="causal"):
        attention(nn.Linear(1, 1), query, query, query, None, is_causal=True)


def test_the_encoder_of_a_model_with_a_decoder():
    config = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4}
    config |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 100}
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model("bart", **config)).eval()
    assert isinstance(model, BartModel)
    ids, mask = inputs("bert").values()
    with torch.no_grad():
        expected = model.get_encoder()(ids, attention_mask=mask).last_hidden_state[mask.bool()]
        linear = AutoModel.from_config(AutoConfig.for_model("bart", **config), attn_implementation="linformers").eval()
        linear.load_state_dict(model.state_dict())
        found = linear.get_encoder()(ids, attention_mask=mask).last_hidden_state[mask.bool()]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        with pytest.raises(ValueError, match="is causal"):
            linear(ids)


@pytest.mark.parametrize("settings", [{"local_window": 0}, {"local_window": 10, "global_tokens": 3}])
def test_the_position_bias_of_mpnet_reaches_every_slot(settings):
    """In texts longer than all distances that its buckets tell apart."""
    models = [
        linformers.extend_positions(build("mpnet", *rest, **some), 600)
        for rest, some in ((("eager",), {}), ((), {"exact_length": 0, "projected_dim": 600, **settings}))
    ]
    batch = {"input_ids": torch.randint(4, 100, (2, 600)), "attention_mask": torch.ones(2, 600, dtype=torch.long)}
    batch["attention_mask"][1, 333:] = 0
    with torch.no_grad():
        expected, found = (states(model, batch) for model in models)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        models[1].encoder.relative_attention_bias.weight[15] += 3  # of the tokens far behind
        assert (states(models[1], batch) - expected).abs().max() > 0.1


@pytest.mark.compile
@pytest.mark.parametrize("family", ["bert", "modernbert", "mpnet"])
@pytest.mark.parametrize(
    "settings", [{"exact_length": 0, "local_window": 4, "trained_length": 20}, {"segment_length": 32}]
)
def test_compiles_and_exports_for_every_length(family, settings):
    model = build(family, projected_dim=8, **settings)
    batch = {"input_ids": torch.randint(4, 100, (2, 70)), "attention_mask": torch.ones(2, 70, dtype=torch.long)}
    batch["attention_mask"][1, 50:] = 0
    length = torch.export.Dim("length", min=2, max=120)
    with torch.no_grad():
        if family != "bert":  # whose exported graph tests/unit/export compares, as ONNX, at more lengths
            axes = {name: {1: length} for name in batch}
            exported = torch.export.export(model, (), batch, dynamic_shapes=axes).module()
            for n in (70, 33):
                some = {name: x[:, :n] for name, x in batch.items()}
                torch.testing.assert_close(states(exported, some), states(model, some), atol=1e-4, rtol=1e-4)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(states(compiled, batch), states(model, batch), atol=1e-4, rtol=1e-4)
