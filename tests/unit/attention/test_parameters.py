"""Which parameters exist, who shares them, how they start, and that they survive saving and copying."""

import copy
import math

import pytest
import torch
from attention_helpers import KINDS, SHARINGS, hidden, make_kfree, make_linformer, make_mask, make_softmax
from torch import Tensor, nn

from linformers.attention import KFreeAttention, LinformerAttention, ProjectionBank, SoftmaxAttention

HEADS, LAYERS, LENGTH, K = 3, 4, 22, 5
FEATURES = 4 * (6 * 6 + 6)  # query, key, value and output projections of hidden size 6, with biases


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def matrices(sharing: str, layers: int, heads: int) -> int:
    """Linformer, section 4: how many E and F there are in all."""
    return {"none": 2 * heads * layers, "headwise": 2 * layers, "key_value": layers, "layerwise": 1}[sharing]


def size(kind: str, length: int = LENGTH, k: int = K) -> int:
    return {"linear": length * k, "conv": math.ceil(length / k)}.get(kind, 0)


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_number_of_parameters(kind, sharing):
    bank = ProjectionBank(LAYERS, HEADS, LENGTH, K, sharing=sharing, kind=kind)
    assert count(bank) == matrices(sharing, LAYERS, HEADS) * size(kind)
    module = LinformerAttention(6, HEADS, LENGTH, K, projection_sharing=sharing, projection_kind=kind)
    assert count(module) == FEATURES + matrices(sharing, 1, HEADS) * size(kind)


def test_number_of_parameters_in_the_paper():
    """Section 4, "parameter sharing": 24, 12 and 1 matrices for 12 layers and 12 heads."""
    for sharing, number in (("headwise", 24), ("key_value", 12), ("layerwise", 1)):
        bank = ProjectionBank(12, 12, 64, 8, sharing=sharing, kind="linear")
        assert count(bank) == number * 64 * 8
        assert len(list(bank.parameters())) == number


@pytest.mark.parametrize("make", [make_softmax, make_kfree])
def test_number_of_parameters_without_projection(make):
    assert count(make()) == FEATURES
    assert count(make(bias=False)) == FEATURES - 4 * 6


def test_number_of_parameters_with_a_k_per_layer():
    for sharing in ("none", "headwise", "key_value"):
        bank = ProjectionBank(4, HEADS, LENGTH, [2, None, 7, 7], sharing=sharing, kind="linear")
        assert bank[1] is None
        assert count(bank) == sum(matrices(sharing, 1, HEADS) * LENGTH * k for k in (2, 7, 7))
    bank = ProjectionBank(3, HEADS, LENGTH, [7, None, 7], sharing="layerwise", kind="linear")
    assert count(bank) == LENGTH * 7


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_sharing_is_object_identity(kind, sharing):
    bank = ProjectionBank(LAYERS, HEADS, LENGTH, K, sharing=sharing, kind=kind)
    keys, values = zip(*(bank[layer] for layer in range(LAYERS)), strict=True)
    pools = kind not in ("linear", "conv")
    for key, value in zip(keys, values, strict=True):
        assert (key is value) == (pools or sharing in ("key_value", "layerwise"))
        assert (key.kind, key.max_length, key.projected_dim) == (kind, LENGTH, K)
        assert (value.kind, value.max_length, value.projected_dim) == (kind, LENGTH, K)
        if not pools:
            assert key.per_head == value.per_head == (sharing == "none")
    if not pools:
        assert len({id(projection) for projection in keys}) == (1 if sharing == "layerwise" else LAYERS)
    assert all(bank[layer][0] is keys[layer] for layer in range(LAYERS))


@pytest.mark.parametrize("per_head", [False, True])
def test_shapes_of_projections(per_head):
    heads = (HEADS,) if per_head else ()
    sharing = "none" if per_head else "headwise"
    linear = ProjectionBank(1, HEADS, LENGTH, K, sharing=sharing, kind="linear")[0][0]
    assert linear.weight.shape == (*heads, LENGTH, K)
    conv = ProjectionBank(1, HEADS, LENGTH, K, sharing=sharing, kind="conv")[0][0]
    assert conv.weight.shape == (*heads, 5)  # ceil(22 / 5)


def test_a_layer_that_borrows_owns_no_projection():
    bank = ProjectionBank(2, HEADS, LENGTH, K, sharing="layerwise", kind="linear")
    layers = [LinformerAttention(6, HEADS, LENGTH, K, projections=bank[layer]) for layer in range(2)]
    for layer in layers:
        assert count(layer) == FEATURES
        assert layer.key_projection is layer.value_projection is bank[0][0]
        assert not any("projection" in name for name in layer.state_dict())


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [0, 2])
def test_every_parameter_gets_a_gradient(kind, sharing, window):
    module = make_linformer(kind, sharing, max_length=13, k=5, window=window)
    module(hidden(2, 13, 6)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        # A constant added to all keys cancels in the softmax, wherever slots are averages.
        if name != "k_proj.bias":
            assert parameter.grad.abs().amax() > 1e-6, name


@pytest.mark.parametrize("make", [make_softmax, make_kfree])
def test_every_parameter_gets_a_gradient_without_projection(make):
    module = make()
    module(hidden(2, 13, 6)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        if name != "k_proj.bias":
            assert parameter.grad.abs().amax() > 1e-6, name


@pytest.mark.parametrize("sharing", SHARINGS)
def test_linear_projections_start_with_the_deviation_of_the_theorem(sharing):
    """N(0, 1/k), theorem 1. Of 32,768 draws the deviation is within 2% and the kurtosis tells normal from uniform."""
    length, k = 512, 64
    module = LinformerAttention(12, 2, length, k, projection_sharing=sharing)
    for weight in {module.key_projection.weight, module.value_projection.weight}:
        draws = weight.detach().double()
        assert draws.std().item() == pytest.approx(k**-0.5, rel=0.02)
        assert draws.mean().abs() < 0.02 * k**-0.5
        kurtosis = ((draws - draws.mean()) / draws.std()).pow(4).mean()
        assert kurtosis.item() == pytest.approx(3, abs=0.2)


def test_different_projections_start_differently():
    bank = ProjectionBank(2, HEADS, LENGTH, K, sharing="none", kind="linear")
    weights = [projection.weight for layer in range(2) for projection in bank[layer]]
    draws = torch.cat([weight.detach() for weight in weights])
    assert len(draws.unique(dim=0)) == 2 * 2 * HEADS


def test_convolutions_start_as_means():
    for sharing in SHARINGS:
        module = LinformerAttention(6, HEADS, LENGTH, K, projection_kind="conv", projection_sharing=sharing)
        for projection in (module.key_projection, module.value_projection):
            torch.testing.assert_close(projection.weight, torch.full_like(projection.weight, 1 / 5))


def test_seeds_decide_the_start():
    def build(seed):
        torch.manual_seed(seed)
        return LinformerAttention(6, HEADS, LENGTH, K, projection_sharing="none").state_dict()

    first, same, other = build(1), build(1), build(2)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


MODULES = {
    **{
        f"{kind}, {sharing}": lambda kind=kind, sharing=sharing: LinformerAttention(
            6, 2, 16, 5, projection_kind=kind, projection_sharing=sharing, local_window=1
        )
        for kind in KINDS
        for sharing in SHARINGS
    },
    "softmax": lambda: SoftmaxAttention(6, 2),
    "kfree": lambda: KFreeAttention(6, 2),
}
every_module = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES.keys())


def output(module: nn.Module) -> Tensor:
    return module(hidden(2, 13, 6, dtype=torch.float32), make_mask("holes", 2, 13))


@every_module
def test_state_dict_round_trip_is_bit_equal(make):
    first = make()
    torch.manual_seed(1)
    second = make()
    assert not torch.equal(output(first), output(second))
    second.load_state_dict(first.state_dict())
    assert torch.equal(output(first), output(second))


@every_module
def test_state_dict_holds_each_projection_once(make):
    """No tensor under two names: safetensors refuses those."""
    state = make().state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)


@every_module
def test_deepcopy(make):
    module = make()
    clone = copy.deepcopy(module)
    before = output(module)
    assert torch.equal(output(clone), before)
    if hasattr(module, "key_projection"):
        assert clone.key_projection is not module.key_projection
        assert (clone.key_projection is clone.value_projection) == (module.key_projection is module.value_projection)
    with torch.no_grad():
        for parameter in clone.parameters():
            parameter.add_(1.0)
    assert torch.equal(output(module), before)
    assert not torch.equal(output(clone), before)


@every_module
def test_dtype_conversion(make):
    module = make()
    assert module.double()(hidden(2, 13, 6)).dtype == torch.float64
    assert module.bfloat16()(hidden(2, 13, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16


class Stack(nn.Module):
    """What an encoder does: a bank beside the layers that borrow from it."""

    def __init__(self, sharing: str) -> None:
        super().__init__()
        self.bank = ProjectionBank(3, 2, 16, 5, sharing=sharing, kind="linear")
        self.layers = nn.ModuleList(
            LinformerAttention(6, 2, 16, 5, projection_sharing=sharing, projections=self.bank[i]) for i in range(3)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = x + layer(x, mask)
        return x


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_stack_is_counted_saved_copied_and_converted(sharing):
    stack = Stack(sharing)
    assert count(stack) == 3 * FEATURES + matrices(sharing, 3, 2) * 16 * 5
    state = stack.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)

    other = Stack(sharing)
    other.load_state_dict(state)
    assert torch.equal(output(other), output(stack))

    clone = copy.deepcopy(stack)
    assert torch.equal(output(clone), output(stack))
    for i, layer in enumerate(clone.layers):
        assert layer.key_projection is clone.bank[i][0]
        assert layer.value_projection is clone.bank[i][1]
        assert layer.key_projection is not stack.bank[i][0]

    stack.double()
    assert stack(hidden(2, 13, 6)).dtype == torch.float64
    stack(hidden(2, 16, 6)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in stack.bank.parameters())
