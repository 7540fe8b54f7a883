"""``attn_implementation="linformers"``, family by family: a new one is one line of FAMILIES."""

import copy
import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BartModel,
    BertConfig,
    BertModel,
    DebertaConfig,
    DebertaModel,
    Trainer,
    TrainingArguments,
)

import linformers
from linformers.convert.interface import Settings, attention

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


SCRIPT = """
import sys, torch
if sys.argv[1] == "linformers": import linformers
from transformers import AutoModel
for folder, implementation in zip(sys.argv[2::2], sys.argv[3::2]):
    chosen = {} if implementation == "saved" else {"attn_implementation": implementation}
    model = AutoModel.from_pretrained(folder, **chosen).eval()
    torch.manual_seed(0)
    found = model(torch.randint(4, 100, (1, 90))).last_hidden_state
    print(type(model).__name__, model.config._attn_implementation, found.double().abs().sum().item())
"""


def test_a_saved_model_is_linear_by_itself_and_plain_elsewhere(tmp_path):
    torch.manual_seed(0)
    ids = torch.randint(4, 100, (1, 90))
    expected: dict[str, list[tuple[str, str, str, str, float]]] = {"linformers": [], "nothing": []}
    for family, softmax in (("bert", "sdpa"), ("mpnet", "eager")):
        for settings in ({}, {"exact_length": 0, "projected_dim": 8}):
            model = linformers.extend_positions(build(family, **settings), 600)
            folder = tmp_path / f"{family}{len(settings)}"
            model.save_pretrained(folder)
            assert json.loads((folder / "config.json").read_text())["linformers"] == settings
            with torch.no_grad():
                linear = model(ids).last_hidden_state.double().abs().sum().item()
                model.set_attn_implementation(softmax)
                exact = model(ids).last_hidden_state.double().abs().sum().item()
            name = type(model).__name__
            expected["linformers"].append((str(folder), "saved", name, "linformers", linear))
            expected["linformers"].append((str(folder), softmax, name, softmax, exact))
            expected["nothing"].append((str(folder), "saved", name, softmax, exact))
    for imported, rows in expected.items():
        command = [sys.executable, "-c", SCRIPT, imported, *(word for row in rows for word in row[:2])]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        for line, (_, _, name, implementation, value) in zip(said, rows, strict=True):
            assert line.split()[:2] == [name, implementation]
            assert float(line.split()[2]) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "albert", "mpnet"]
)
def test_longer_positions_begin_as_the_first_ones(family):
    model = build(family)
    table = next(x for name, x in model.named_modules() if name.endswith("position_embeddings")).weight.detach().clone()
    kept = {"roberta": 1, "xlm-roberta": 1, "camembert": 1, "mpnet": 2}.get(family, 0)
    length = len(table) - kept
    short = inputs(family)
    with torch.no_grad():
        before = states(model, short)
        linformers.extend_positions(model, 2 * length + 7)
        torch.testing.assert_close(states(model, short), before)
        ids = torch.randint(4, 100, (1, 2 * length + 7))
        assert model(ids).last_hidden_state.isfinite().all()
    longer = next(x for name, x in model.named_modules() if name.endswith("position_embeddings")).weight
    torch.testing.assert_close(longer[kept + length : kept + 2 * length], table[kept:])
    assert model.config.max_position_embeddings == kept + 2 * length + 7
    with pytest.raises(ValueError, match=f"less than the {2 * length + 7} positions"):
        linformers.extend_positions(model, length)


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet"])
def test_segments_start_at_the_first_position(family):
    """Without weight for the rest of the text, and tokens that all see, each segment is a text of its own."""
    length = 32
    model = linformers.linearise(
        build(family, SOFTMAX), max_length=600, segment_length=length, context_weight=0.0, global_tokens=0
    )
    ids = torch.randint(4, 100, (1, 3 * length + 5))
    with torch.no_grad():
        whole = model(ids).last_hidden_state
        parts = [build(family, SOFTMAX)(part).last_hidden_state for part in ids.split(length, dim=1)]
    torch.testing.assert_close(whole, torch.cat(parts, dim=1), atol=1e-4, rtol=1e-4)
    as_long = linformers.linearise(build(family, SOFTMAX), segment_length=length)
    table = next(x for name, x in as_long.named_modules() if name.endswith("position_embeddings")).weight
    kept = {"roberta": 1, "mpnet": 2}.get(family, 0)
    torch.testing.assert_close(table[kept + length : kept + 2 * length], table[kept : kept + length])
    with pytest.raises(ValueError, match="segments of 1000 tokens are longer than"):
        linformers.extend_positions(build(family), 2000, tile_length=1000)


@pytest.mark.usefixtures("bad_input")
def test_a_name_is_no_model():
    for function, value in ((linformers.configure, {}), (linformers.extend_positions, {"max_length": 1024})):
        with pytest.raises(TypeError, match="load it first"):
            function("path/to/encoder", **value)


def test_models_without_a_table_say_so():
    with pytest.raises(ValueError, match="no table of learned positions"):
        linformers.extend_positions(build("modernbert"), 10_000)
    linformers.extend_positions(build("modernbert"), 4096)  # which it reads already


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


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"projected_dims": 8}, ValueError, "projected_dim"),
        ({"projected_dim": 0}, ValueError, "projected_dim"),
        ({"projected_dim": None}, TypeError, "projected_dim"),
        ({"projected_dim": "8"}, TypeError, "projected_dim"),
        ({"projection_kind": "linear"}, ValueError, "cluster"),
        ({"exact_length": -1}, ValueError, "exact_length"),
        ({"segment_length": 16.0}, TypeError, "segment_length"),
        ({"segment_length": 16, "local_window": 3}, ValueError, "leave local_window at 0"),
        ({"context_weight": -0.1}, ValueError, "context_weight"),
    ],
)
@pytest.mark.usefixtures("bad_input")
def test_wrong_settings(settings, error, message):
    model = build("bert")
    with pytest.raises(error, match=message):
        linformers.configure(model, **settings)
    assert model.config.linformers == {}, "nothing is half set"


def test_a_misspelt_setting_in_a_saved_file(tmp_path):
    build("bert", projected_dim=8).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"projected_dim"', '"project_dim"'))
    with pytest.raises(ValueError, match="Did you mean 'projected_dim'"):
        AutoModel.from_pretrained(tmp_path)(torch.ones(1, 4, dtype=torch.long))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "albert"])
def test_settings_by_layer(family, tmp_path):
    batch = inputs(family)
    with torch.no_grad():
        kept, all_slots, all_softmax = (
            states(build(family, exact_length=0, projected_dim=k), batch) for k in ([8, None], 8, [None, None])
        )
        exact = states(build(family, SOFTMAX), batch)
        assert not torch.allclose(kept, exact, atol=1e-3)
        assert torch.allclose(kept, all_slots, atol=1e-3) == (family == "modernbert")  # whose second layer slides
        torch.testing.assert_close(all_softmax, exact, atol=1e-4, rtol=1e-4)
        build(family, exact_length=0, projected_dim=[8, None]).save_pretrained(tmp_path)
        torch.testing.assert_close(states(AutoModel.from_pretrained(tmp_path).eval(), batch), kept)


def test_settings_by_layer_want_layers_that_know_their_number():
    model = build("albert", projected_dim=[8, 8])  # whose layers are one
    with pytest.raises(ValueError, match="does not know its number"):
        model(**inputs("albert"))
    with pytest.raises(ValueError, match="no entry for layer 1"):
        build("bert", projected_dim=[8])(**inputs("bert"))


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


def test_settings_are_printed():
    assert '"projected_dim": 12' in str(build("bert", projected_dim=12).config)
    assert Settings.of({"projected_dim": [8, None]}).projected_dim == (8, None)


@pytest.mark.compile
@pytest.mark.parametrize("family", ["bert", "modernbert", "mpnet"])
@pytest.mark.parametrize("settings", [{"exact_length": 0, "local_window": 4}, {"segment_length": 32}])
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


def test_heads_train():
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model("bert", **WORDS), attn_implementation="linformers"
    )
    linformers.configure(model, exact_length=0, projected_dim=8)
    batch, optimizer = inputs("bert"), torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = model(**batch, labels=torch.tensor([0, 1])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's, of transformers
def test_adapters_work_on_what_slots_read():
    """Merged and unmerged are one model, on texts longer than k, and other than without the adapter."""
    model = build("bert", exact_length=0, projected_dim=8)
    torch.manual_seed(4)
    adapted = get_peft_model(model, LoraConfig(target_modules=["query", "key", "value"], init_lora_weights=False))
    adapted.eval()
    batch = inputs("bert")
    with torch.no_grad():
        found = states(adapted, batch)
        with adapted.disable_adapter():
            plain = states(adapted, batch)
        merged = states(adapted.merge_and_unload(), batch)
    torch.testing.assert_close(merged, found, atol=1e-3, rtol=1e-3)
    assert (found - plain).abs().max() > 0.05


def test_what_holds_a_model_is_configured_too():
    class Embedder(nn.Module):
        max_seq_length = 512

        def __init__(self) -> None:
            super().__init__()
            self.model = build("bert", SOFTMAX)

    embedder = linformers.extend_positions(linformers.configure(Embedder(), projected_dim=16), 1024)
    assert embedder.model.config.linformers == {"projected_dim": 16} and embedder.max_seq_length == 1024
    assert embedder.model.config._attn_implementation == "linformers"
    with pytest.raises(ValueError, match="holds no model of transformers"):
        linformers.configure(nn.Linear(1, 1))


def test_our_own_class_has_its_attention_already(tmp_path):
    model = linformers.LinformerModel(linformers.LinformerConfig(**WORDS, max_position_embeddings=64, projected_dim=8))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="LinformerModel"):
        AutoModel.from_pretrained(tmp_path, attn_implementation="linformers")
    with pytest.raises(ValueError, match="LinformerModel"):
        linformers.configure(model, projected_dim=16)


def test_only_the_encoder_with_the_table_grows():
    """A model of text and images has two configurations."""
    text = {**WORDS, "max_position_embeddings": 40}
    model = AutoModel.from_config(AutoConfig.for_model("chinese_clip", text_config=text, vision_config=IMAGES))
    linformers.extend_positions(model, 100)
    assert model.config.text_config.max_position_embeddings == 100
    assert model.text_model.embeddings.position_embeddings.num_embeddings == 100
    assert getattr(model.config.vision_config, "max_position_embeddings", None) != 100
    assert model.vision_model.embeddings.position_embedding.num_embeddings == 37


def test_trainer_trains_it(tmp_path):
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model("bert", **WORDS), attn_implementation="linformers"
    )
    linformers.configure(model, exact_length=0, projected_dim=8)
    batch = inputs("bert")
    rows = [{name: x[i] for name, x in batch.items()} | {"labels": i} for i in range(2)]
    options = {"max_steps": 10, "learning_rate": 5e-3, "report_to": "none", "use_cpu": True, "logging_steps": 1}
    trainer = Trainer(model, TrainingArguments(str(tmp_path), save_strategy="no", **options), train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
