"""The layers that take the place of PyTorch's, beside PyTorch's."""

import copy

import pytest
import torch
from torch import nn

from linformers import LinformerEncoder, LinformerEncoderLayer

SLOTS = {"max_length": None, "projected_dim": 64, "projection_kind": "cluster"}


def theirs(**options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 48, dtype=torch.float64, **options).eval()
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.3)
    return layer


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_slot_for_each_token_is_their_layer(norm_first, batch_first, bias):
    layer = theirs(norm_first=norm_first, batch_first=batch_first, bias=bias, activation="gelu")
    own = LinformerEncoderLayer.from_transformer(layer, **SLOTS)
    x = torch.randn(2, 40, 32, dtype=torch.float64)
    padding = torch.arange(40) >= torch.tensor([[40], [25]])
    given = x if batch_first else x.transpose(0, 1)
    expected = layer(given, src_key_padding_mask=padding)
    for mask in (padding, torch.zeros(2, 40, dtype=torch.float64).masked_fill(padding, -torch.inf)):
        found = own(given, src_key_padding_mask=mask)
        assert found.shape == given.shape
        a, b = (some if batch_first else some.transpose(0, 1) for some in (found, expected))
        torch.testing.assert_close(a[~padding], b[~padding], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(own(given), layer(given), atol=1e-10, rtol=1e-10)


def test_it_stands_in_their_stack():
    layer = theirs(batch_first=True)
    stack = nn.TransformerEncoder(copy.deepcopy(layer), 2, norm=nn.LayerNorm(32, dtype=torch.float64)).eval()
    own = nn.TransformerEncoder(LinformerEncoderLayer.from_transformer(layer, **SLOTS), 2, enable_nested_tensor=False)
    own.norm = stack.norm
    x = torch.randn(2, 40, 32, dtype=torch.float64)
    padding = torch.arange(40) >= torch.tensor([[40], [25]])
    found, expected = (some.eval()(x, src_key_padding_mask=padding) for some in (own, stack))
    torch.testing.assert_close(found[~padding], expected[~padding], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("sharing", "matrices"), [("layerwise", 1), ("key_value", 3), ("headwise", 6), ("none", 24)])
def test_a_stack_shares_its_projections(sharing, matrices):
    shared = {"max_length": 50, "projected_dim": 8, "projection_sharing": sharing}
    encoder = LinformerEncoder(3, 32, 4, 48, batch_first=True, norm=nn.LayerNorm(32), **shared)
    assert sum(x.numel() for x in encoder.bank.parameters()) == matrices * 50 * 8
    layers = 3 * sum(x.numel() for x in nn.TransformerEncoderLayer(32, 4, 48).parameters())
    assert sum(x.numel() for x in encoder.parameters()) == layers + 64 + matrices * 50 * 8
    again = copy.deepcopy(encoder)
    again.load_state_dict(encoder.state_dict())
    x = torch.randn(2, 50, 32)
    torch.testing.assert_close(again.eval()(x), encoder.eval()(x))
    encoder.train()(x).sum().backward()
    assert all(weight.grad is not None for weight in encoder.parameters())


def test_slots_of_each_layer():
    encoder = LinformerEncoder(2, 32, 4, max_length=50, projected_dim=[8, 16], projection_sharing="key_value")
    assert [layer.self_attn.projected_dim for layer in encoder.layers] == [8, 16]
    assert encoder(torch.randn(50, 2, 32)).shape == (50, 2, 32)


@pytest.mark.usefixtures("bad_input")
def test_what_is_refused():
    layer = LinformerEncoderLayer(32, 4, max_length=50, projected_dim=8)
    x = torch.randn(50, 2, 32)
    with pytest.raises(ValueError, match="give src_key_padding_mask alone"):
        layer(x, src_mask=nn.Transformer.generate_square_subsequent_mask(50))
    with pytest.raises(ValueError, match="is_causal"):
        layer(x, is_causal=True)
    with pytest.raises(ValueError, match="relu, gelu or a function"):
        LinformerEncoderLayer(32, 4, activation="tanh", max_length=50, projected_dim=8)
    with pytest.raises(TypeError, match="projected_dims"):
        LinformerEncoderLayer(32, 4, max_length=50, projected_dim=8, projected_dims=8)
