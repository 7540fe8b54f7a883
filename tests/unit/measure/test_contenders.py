"""Every rival is what the table says it is, and runs at lengths that it was not made for."""

from typing import Any

import pytest
import torch
from transformers import ModernBertConfig

from linformers.commands.benchmark import BenchmarkSettings, Plan
from linformers.measure.cell import _takes_short_inputs, build_model, measure_cell
from linformers.measure.contenders import RIVALS, Contender, Shape, linformer, rival, saved

SHAPE = Shape(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=100)


def built(contender: Contender, length: int) -> Any:
    plan = Plan(contenders=[contender], lengths=[length], settings=BenchmarkSettings(repeats=1))
    return build_model(plan.task(contender, length))


@pytest.mark.parametrize("length", [100, 1000])
@pytest.mark.parametrize("name", RIVALS)
def test_rivals_have_the_shape_and_run(name: str, length: int) -> None:
    contender = rival(name, SHAPE)
    plan = Plan(contenders=[contender], lengths=[length], settings=BenchmarkSettings(repeats=1))
    cell = measure_cell(plan.task(contender, length))
    assert cell.seconds > 0 and length <= cell.length < length + 64
    config = built(contender, length).config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 2, 2)
    assert config.vocab_size == 100
    assert config.intermediate_size == (48 if name == "modernbert" else 128)
    assert config._attn_implementation == "eager" if name == "softmax-eager" else True
    dropouts = {key: value for key, value in config.to_dict().items() if "dropout" in key and value is not None}
    assert set(dropouts.values()) <= {0.0}


def test_bigbird_stays_sparse_after_a_short_input() -> None:
    """transformers switches it to full attention for good at the first input of 704 tokens or fewer."""
    model = built(rival("bigbird", SHAPE), 1024)
    assert type(model).__name__ == "BigBirdModel"
    with torch.inference_mode(), _takes_short_inputs(model):
        model(torch.randint(5, 100, (1, 128)))
        assert model.attention_type == "original_full"
    assert model.attention_type == "block_sparse"
    assert {layer.attention.attention_type for layer in model.encoder.layer} == {"block_sparse"}


def test_nystromformer_uses_its_landmarks_at_every_length() -> None:
    """With its default of 64 for the length it would attend in full."""
    model = built(rival("nystromformer", SHAPE), 1000)
    assert type(model).__name__ == "NystromformerModel"
    attention = [layer.attention.self for layer in model.encoder.layer]
    assert {(part.seq_len, part.num_landmarks) for part in attention} == {(1024, 64)}  # padded to 16 x 64
    with torch.inference_mode():
        with _takes_short_inputs(model):
            model(torch.randint(5, 100, (1, 128)))
        assert model(torch.randint(5, 100, (1, 1024))).last_hidden_state.shape == (1, 1024, 32)


def test_modernbert_has_its_own_proportions() -> None:
    base = Shape(num_hidden_layers=3)
    fields = rival("modernbert", base).fields
    assert fields["intermediate_size"] == ModernBertConfig().intermediate_size == 1152
    model = built(rival("modernbert", Shape(**{**vars(SHAPE), "num_hidden_layers": 4})), 64)
    assert type(model).__name__ == "ModernBertModel"
    assert model.config.layer_types == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]


def test_ours_takes_fields_and_refuses_what_is_none() -> None:
    ours = linformer(SHAPE, 16, {"projection_kind": "mean_pool"})
    assert built(ours, 64).config.projection_kind == "mean_pool"
    assert [ours.compresses(length) for length in (8, 16, 17)] == [False, False, True]
    assert rival("softmax-sdpa", SHAPE).compresses(1)
    for name, kind in (("softmax-sdpa", "softmax"), ("kfree", "kfree")):
        assert built(rival(name, SHAPE), 64).config.attention_type == kind
    with pytest.raises(ValueError, match="projection_kid=.* Did you mean 'projection_kind'"):
        linformer(SHAPE, 16, {"projection_kid": "mean_pool"})
    with pytest.raises(TypeError, match="projection_kind"):
        linformer(SHAPE, 16, {"projection_kind": 3})
    with pytest.raises(ValueError, match="hidden_size=... is not to be set here"):
        linformer(SHAPE, 16, {"hidden_size": 3})


@pytest.mark.parametrize("name", ["softmax-sdpa", "roberta"])
def test_a_saved_model_brings_its_shape(name: str, tmp_path: Any) -> None:
    built(rival(name, SHAPE), 64).config.save_pretrained(tmp_path)
    own, shape = saved(str(tmp_path))
    assert shape == SHAPE and own.name == "model"
    plan = Plan(contenders=[own], lengths=[300], settings=BenchmarkSettings(repeats=1))
    assert measure_cell(plan.task(own, 300)).seconds > 0  # longer than its own positions
    with pytest.raises(ValueError, match="--model=.* cannot be loaded"):
        saved(str(tmp_path / "nowhere"))
