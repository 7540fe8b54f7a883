"""The advisor: its split against trying all, its errors against converted models, and its targets."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, BertConfig, BertForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from linformers import advise_projected_dims, linearise, to_linformer
from linformers.analysis.advise import slot_grid, split_slots

LENGTH = 64


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer that gives a token a character."""
    vocab = {chr(code): 5 + code % 40 for code in range(65, 105)}
    backend = Tokenizer(models.WordLevel({"?": 0} | vocab, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")


@pytest.fixture(scope="module")
def teacher() -> BertForMaskedLM:
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=LENGTH,
        )
    ).eval()
    with torch.no_grad():
        for layer, scale in zip(model.bert.encoder.layer, (0.05, 1.0, 0.4), strict=True):
            for parameter in layer.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=scale)
    return model


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = np.random.default_rng(0)
    return ["".join(map(chr, rng.integers(65, 105, LENGTH + 3))) for _ in range(3)]


def advise(teacher: PreTrainedModel, texts: list[str], **options: Any):
    plain = {"length": LENGTH, "tokenizer": letters()}
    return advise_projected_dims(teacher, texts, **{**plain, **options})


def hidden_error(teacher: BertForMaskedLM, texts: list[str], dims: Any, **options: Any) -> float:
    """Of a model that ``to_linformer`` makes."""
    student = to_linformer(teacher, projected_dim=dims, exact_length=0, **options)
    ids = torch.tensor([letters()(text, truncation=True, max_length=LENGTH)["input_ids"] for text in texts])
    with torch.no_grad():
        ours, theirs = (m.base_model(ids).last_hidden_state for m in (student, teacher))
    return float((ours - theirs).norm() / theirs.norm())


def test_split_is_the_best_of_all() -> None:
    grid = (1, 2, 3, 4, 5, 6)
    costs = np.random.default_rng(0).uniform(size=(4, 6)).cumsum(1)[:, ::-1]
    for mean in (1, 2, 3, 6):
        found = split_slots(costs, grid, mean)
        all_of_them = [dims for dims in product(grid, repeat=4) if sum(dims) <= 4 * mean]
        best = min(all_of_them, key=lambda dims: sum(costs[i, k - 1] for i, k in enumerate(dims)))
        assert found == best
    convex = np.array([[1.0, 0.5, 0.25], [1.0, 0.99, 0.98]])
    found = split_slots(convex, (8, 64, 128), 40)  # between points of the grid, and within the budget
    assert sum(found) <= 80 and found == (72, 8)


@pytest.mark.parametrize("options", [{}, {"local_window": 2, "global_tokens": 0}], ids=["defaults", "window"])
def test_mean_dim(teacher: BertForMaskedLM, texts: list[str], options: dict[str, Any]) -> None:
    done: list[tuple[int, int]] = []
    advice = advise(teacher, texts, mean_dim=8, on_progress=lambda *counts: done.append(counts), **options)
    assert len(advice.projected_dim) == 3 and sum(k or 0 for k in advice.projected_dim) <= 24
    assert advice.grid == slot_grid(LENGTH) == (1, 2, 4, 8, 12, 16, 24, 32)
    assert advice.uniform_error is not None and advice.hidden_error < advice.uniform_error
    expected = hidden_error(teacher, texts, list(advice.projected_dim), **options)
    assert advice.hidden_error == pytest.approx(expected, rel=1e-4)
    mean = round(sum(k or 0 for k in advice.projected_dim) / 3)
    assert advice.uniform_error == pytest.approx(hidden_error(teacher, texts, mean, **options), rel=1e-4)
    for layer, column in ((0, 0), (2, 5)):  # what one layer does alone
        dims: list[int | None] = [None] * 3
        dims[layer] = advice.grid[column]
        expected = hidden_error(teacher, texts, dims, **options)
        assert advice.errors[layer, column] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    # The first layer hardly attends by content, so it needs no more than the others.
    assert advice.projected_dim[0] == min(k or 0 for k in advice.projected_dim)
    assert done[-1] == (18, 18)
    converted = to_linformer(teacher, **advice.options).config
    assert [k for _, k in converted.layer_attention] == list(advice.projected_dim)


def test_target_error(teacher: BertForMaskedLM, texts: list[str]) -> None:
    advice = advise(teacher, texts, target_error=0.1)
    assert advice.errors.shape == (3, len(advice.grid))
    for k, row in zip(advice.projected_dim, advice.errors, strict=True):
        if k is None:
            assert row.min() > 0.1
        elif k in advice.grid:
            assert row[advice.grid.index(k)] <= 0.1
    assert advice.projected_dim[0] == 1 and advice.projected_dim[1] is None
    assert 8 < (advice.projected_dim[2] or 0) <= 12  # between two points of the grid
    assert advice.hidden_error == pytest.approx(hidden_error(teacher, texts, list(advice.projected_dim)), rel=1e-4)
    strict = advise(teacher, texts, target_error=1e-7)
    assert strict.uniform_error is None
    assert strict.projected_dim == (None, None, None) and strict.hidden_error == 0


def test_target_mass(teacher: BertForMaskedLM, texts: list[str]) -> None:
    from linformers import spectrum

    advice = advise(teacher, texts, target_mass=0.8)
    found = spectrum(teacher, texts, tokenizer=letters(), length=LENGTH, index=1)
    expected = tuple(k if k <= LENGTH // 2 else None for k in found.smallest_dims(0.8))
    assert advice.projected_dim == expected
    np.testing.assert_allclose(advice.errors, 1 - found.curves.mean(1)[:, np.array(advice.grid) - 1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "no target: give exactly one of target_mass, target_error, mean_dim"),
        ({"mean_dim": 8, "target_mass": 0.5}, "target_mass and mean_dim: give exactly one"),
        ({"mean_dim": 33}, "mean_dim=33 must be between 1 and 32 at length=64"),
        ({"target_mass": 1.5}, "target_mass=1.5 must be between 0 and 1"),
        ({"target_error": 0.0}, "target_error=0.0"),
        ({"mean_dim": 8, "length": 65}, "length=65 exceeds the 64 tokens"),
        ({"mean_dim": 8, "texts": ["short"]}, "none of 1 has 64 tokens"),
        ({"mean_dim": 8, "tokenizer": None}, "tokenizer is missing"),
    ],
)
def test_errors(teacher: BertForMaskedLM, texts: list[str], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        advise(teacher, **{"texts": texts, **options})


TINY = {"vocab_size": 50, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "pad_token_id": 0}
TINY |= {"max_position_embeddings": LENGTH + 2, "bos_token_id": 1, "cls_token_id": 1}
OTHERS: dict[str, dict[str, Any]] = {
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8, "sep_token_id": 2, "eos_token_id": 2},
    "mpnet": {},
    "eurobert": {"num_key_value_heads": 2, "eos_token_id": 2, "mask_token_id": 3},
}


@pytest.mark.parametrize(
    ("family", "target", "value"),
    [
        ("modernbert", "mean_dim", 8),
        ("modernbert", "target_error", 0.3),
        ("mpnet", "target_error", 0.3),
        ("mpnet", "target_mass", 0.7),
        ("eurobert", "target_mass", 0.7),
    ],
)
def test_families_that_we_have_no_class_of(family: str, target: str, value: float, texts: list[str]) -> None:
    """Errors are those of the model that the advice makes, and layers with a window of their own have none."""
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(family, **TINY, **OTHERS[family], num_hidden_layers=3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    layers = (0, 2) if family == "modernbert" else (0, 1, 2)
    advice = advise(model, texts[:1], **{target: value})
    assert advice.layers == layers and advice.errors.shape == (len(layers), len(advice.grid))
    assert (advice.errors > 0).all() and (advice.errors[:, 0] > advice.errors[:, -1]).all()
    dims = advice.projected_dim
    assert {layer for layer, k in enumerate(dims) if k is not None} <= set(layers) and any(dims)
    student = linearise(model, exact_length=0, **advice.options)
    ids = torch.tensor([letters()(texts[0], truncation=True, max_length=LENGTH)["input_ids"]])
    with torch.no_grad():
        ours, theirs = (m(ids).last_hidden_state for m in (student, model))
    assert advice.hidden_error == pytest.approx(float((ours - theirs).norm() / theirs.norm()), rel=1e-3)
    if target == "mean_dim":
        assert advice.uniform_error is not None and advice.hidden_error <= advice.uniform_error
        assert sum(k or 0 for k in dims) <= 8 * len(layers)
    assert getattr(model.config, "linformers", None) is None


@pytest.mark.parametrize(
    ("family", "fields", "said"),
    [
        ("albert", {"embedding_size": 16}, "AlbertModel has no list of 4 layers, .* give one projected_dim for all"),
        ("deberta", {}, "DebertaModel computes its attention itself and takes no attn_implementation"),
        ("vit", {"image_size": 16, "patch_size": 8}, "ViTModel reads pixel_values; .* text only"),
        ("bart", {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}, "BartModel has a decoder"),
        ("gpt2", {"n_embd": 32, "n_head": 4}, "is causal, and linear attention is for encoders"),
    ],
)
def test_families_that_cannot_be_advised(family: str, fields: dict[str, Any], said: str, texts: list[str]) -> None:
    config = AutoConfig.for_model(family, **({} if family in ("bart", "gpt2") else TINY), **fields)
    config.num_hidden_layers = 4 if family not in ("bart", "gpt2") else config.num_hidden_layers
    with pytest.raises(ValueError, match=said):
        advise(AutoModel.from_config(config), texts, target_mass=0.9)


def test_the_model_is_left_as_it_was(teacher: BertForMaskedLM, texts: list[str]) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    advise(teacher, texts, target_error=0.5)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert type(teacher.bert.encoder.layer[0].attention).__name__ == "BertAttention"
