"""Models with ``attn_implementation="linformers"`` in use: saved, longer, configured, trained."""

import json
import subprocess
import sys

import pytest
import torch
from interface_helpers import FAMILIES, IMAGES, SOFTMAX, WORDS, build, inputs, states
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BartConfig,
    Trainer,
    TrainingArguments,
)
from transformers.models.bart.modeling_bart import BartEncoder

import linformers
from linformers.convert.interface import Settings

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


def test_a_pickled_model_is_linear_in_a_fresh_process(tmp_path):
    """As sentence-transformers' pools of processes have it: nobody asks for an implementation there."""
    model = linformers.linearise(build("bert", SOFTMAX), max_length=600, segment_length=16)
    torch.save(model, tmp_path / "model.pt")
    code = "import sys, linformers, torch; model = torch.load(sys.argv[1], weights_only=False)\n"
    code += "print(model(torch.arange(4, 84)[None]).last_hidden_state.double().abs().sum().item())"
    command = [sys.executable, "-c", code, str(tmp_path / "model.pt")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    with torch.no_grad():
        expected = model(torch.arange(4, 84)[None]).last_hidden_state.double().abs().sum().item()
    assert float(said) == pytest.approx(expected, rel=1e-5)


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
def test_positions_that_would_not_repeat_with_the_segments():
    with pytest.raises(ValueError, match="positions='interpolate': those of segments repeat every 16 tokens"):
        linformers.linearise(build("bert"), segment_length=16, max_length=600, positions="interpolate")
    short = linformers.linearise(build("bert", SOFTMAX), segment_length=16)
    for length in (32, 0):
        with pytest.raises(ValueError, match=f"segment_length={length}: the model's positions repeat every 16 tokens"):
            linformers.linearise(short, segment_length=length)
    bart = BartConfig(d_model=32, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32, vocab_size=100)
    with pytest.raises(ValueError, match=r"learned positions that cannot be tiled here \(embed_positions\)"):
        linformers.linearise(BartEncoder(bart), segment_length=16)


@pytest.mark.usefixtures("bad_input")
def test_a_name_is_no_model():
    for function, value in ((linformers.configure, {}), (linformers.extend_positions, {"max_length": 1024})):
        with pytest.raises(TypeError, match="load it first"):
            function("path/to/encoder", **value)


def test_models_without_a_table_say_so():
    with pytest.raises(ValueError, match="no table of learned positions"):
        linformers.extend_positions(build("modernbert"), 10_000)
    linformers.extend_positions(build("modernbert"), 4096)  # which it reads already


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
        ({"trained_length": 1}, ValueError, "logarithm of 0"),
        ({"trained_length": 8, "segment_length": 16}, ValueError, "leave trained_length at 0"),
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


def test_settings_are_printed():
    assert '"projected_dim": 12' in str(build("bert", projected_dim=12).config)
    assert Settings.of({"projected_dim": [8, None]}).projected_dim == (8, None)


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
