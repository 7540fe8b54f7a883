"""Models at another length: positions, projections, and what stays the same."""

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel, RobertaConfig, RobertaModel

import linformers
from linformers import LinformerConfig, LinformerForMaskedLM, LinformerModel
from linformers.models.resize import resample, tie_positions

SIZES = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def model_of(**settings) -> LinformerModel:
    return LinformerModel(
        LinformerConfig(**{**SIZES, "max_position_embeddings": 24, "projected_dim": 6} | settings)
    ).eval()


@pytest.mark.parametrize("length", [97, 48, 24, 7])
@pytest.mark.parametrize("sharing", ["none", "headwise", "key_value", "layerwise"])
@pytest.mark.parametrize("kind", ["linear", "conv", "mean_pool", "max_pool"])
def test_every_kind_runs_and_is_saved(kind: str, sharing: str, length: int, tmp_path) -> None:
    model = model_of(projection_kind=kind, projection_sharing=sharing, local_window=2, global_tokens=1)
    model.resize_max_length(length)
    ids = torch.randint(3, 30, (2, length))
    output = model(ids).last_hidden_state
    with pytest.raises(ValueError, match=f"max_position_embeddings={length}"):
        model(torch.zeros(1, length + 1, dtype=torch.long))
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert again.config.max_position_embeddings == length
    assert torch.equal(again(ids).last_hidden_state, output)
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in again.named_parameters()
    }


@pytest.mark.parametrize("length", [48, 37, 24])
def test_pooling_keeps_its_outputs(length: int) -> None:
    model = model_of(projection_kind="mean_pool", local_window=2)
    ids = torch.randint(3, 30, (2, 20))
    before = model(ids).last_hidden_state
    model.resize_max_length(length)
    assert torch.equal(model(ids).last_hidden_state, before)


def test_positions() -> None:
    for ways, check in (("tile", tiled), ("interpolate", interpolated)):
        model = model_of()
        old = model.embeddings.position_embeddings.weight.detach().clone()
        model.resize_max_length(60, positions=ways)
        check(old, model.embeddings.position_embeddings.weight.detach())
    model.resize_max_length(24, positions="tile")
    assert model.embeddings.position_embeddings.num_embeddings == 24


def tiled(old: torch.Tensor, new: torch.Tensor) -> None:
    assert torch.equal(new, torch.cat([old, old, old[:12]]))


def interpolated(old: torch.Tensor, new: torch.Tensor) -> None:
    assert torch.equal(new[0], old[0]) and torch.equal(new[-1], old[-1])
    at = 30 * 23 / 59
    expected = old[int(at)] * (1 - at % 1) + old[int(at) + 1] * (at % 1)
    torch.testing.assert_close(new[30], expected)


@pytest.mark.parametrize("length", [1, 5, 24, 31, 48, 97])
def test_constants_are_compressed_alike(length: int) -> None:
    weight = torch.randn(2, 24, 6)
    torch.testing.assert_close(resample(weight, length).sum(-2).float(), weight.sum(-2))
    if length == 24:
        torch.testing.assert_close(resample(weight, length).float(), weight)


def test_pooling_matrix_stays_one() -> None:
    def pooling(n: int) -> torch.Tensor:
        matrix = torch.nn.functional.one_hot(torch.arange(n) * 6 // n, 6).double()
        return matrix / matrix.sum(0)

    for length in (48, 96, 12):
        torch.testing.assert_close(resample(pooling(24), length), pooling(length))


@pytest.mark.parametrize("own", [True, False])
def test_who_asks_for_a_length_means_to_read_it(own: bool) -> None:
    """Though a classifier was trained on shorter texts, which its configuration says."""
    model = BertModel(BertConfig(**SIZES)) if own else model_of()
    model.config.trained_inputs = {"columns": ["text"], "max_length": 24}
    longer = linformers.linearise(model, max_length=600) if own else model
    if not own:
        model.resize_max_length(48)
    assert longer.config.trained_inputs == {"columns": ["text"]}


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_positions_of_segments_learn_as_one(kind: str) -> None:
    """Each copy gets the sum over all, also behind the longest text that was read; the norm is that of one."""
    reserved = 0 if kind == "bert" else 2
    made = {
        "bert": lambda: BertModel(BertConfig(**SIZES, max_position_embeddings=24)),
        "roberta": lambda: RobertaModel(RobertaConfig(**SIZES, max_position_embeddings=26)),
    }[kind]()
    model = linformers.linearise(made, max_length=56, segment_length=16)
    table = model.embeddings.position_embeddings

    def gradient() -> torch.Tensor:
        model.zero_grad()
        model(torch.arange(40)[None] % 25 + 3).last_hidden_state[..., ::2].square().sum().backward()
        return table.weight.grad[reserved:].double()

    apart = gradient()
    assert apart[40:].abs().max() == 0 < apart[:40].abs().min()
    (tie,) = tie_positions(model)
    tied = gradient()
    copies = torch.tensor([4.0] * 8 + [3.0] * 8, dtype=torch.float64)[:, None]
    total = apart[:16] + apart[16:32] + torch.cat([apart[32:40], torch.zeros_like(apart[:8])])
    torch.testing.assert_close(tied, (total / copies.sqrt()).repeat(4, 1)[:56], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tied.norm(), total.norm(), rtol=1e-5, atol=0)
    tie.remove()
    assert torch.equal(gradient(), apart)
    table.weight.requires_grad_(False)
    assert tie_positions(model) == []


@pytest.mark.parametrize("settings", [{}, {"projected_dim": 4}], ids=["softmax", "whole"])
def test_positions_of_texts_read_whole_learn_apart(settings: dict[str, int]) -> None:
    made = BertModel(BertConfig(**SIZES, max_position_embeddings=24))
    model = linformers.linearise(made, max_length=56, exact_length=0, **settings) if settings else made
    assert tie_positions(model) == []
    model(torch.arange(20)[None] + 3).last_hidden_state[..., ::2].square().sum().backward()
    assert model.embeddings.position_embeddings.weight.grad[20:].abs().max() == 0


def test_head_and_frozen_weights() -> None:
    model = LinformerForMaskedLM(LinformerConfig(**SIZES, max_position_embeddings=24, projected_dim=6))
    model.base_model.embeddings.position_embeddings.weight.requires_grad = False
    model.resize_max_length(40)
    assert not model.base_model.embeddings.position_embeddings.weight.requires_grad
    assert model(torch.zeros(1, 40, dtype=torch.long)).logits.shape == (1, 40, 30)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((0,), ValueError, "max_length must be at least 1"),
        ((2.5,), TypeError, "max_length must be an int"),
        ((48, "tiel"), ValueError, "Did you mean 'tile'"),
    ],
)
def test_wrong_arguments(arguments, error, said: str, bad_input) -> None:
    model = model_of()
    with pytest.raises(error, match=said):
        model.resize_max_length(*arguments)
    assert model.config.max_position_embeddings == 24
