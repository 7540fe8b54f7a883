"""Low precision, automatic mixed precision and large scores."""

import copy

import pytest
import torch
from attention_helpers import KINDS, hidden, make_kfree, make_linformer, make_mask, make_softmax
from torch import Tensor, nn

from linformers.attention import KFreeAttention, LinformerAttention, SoftmaxAttention
from linformers.attention.reference import reference_attention

SEQ, HIDDEN = 128, 32


def build(kind: str, window: int = 0, sharing: str = "key_value") -> nn.Module:
    """As users get it: the library's own initialisation."""
    if kind == "softmax":
        return SoftmaxAttention(HIDDEN, 4)
    if kind == "kfree":
        return KFreeAttention(HIDDEN, 4)
    options = {"projection_kind": kind, "local_window": window, "projection_sharing": sharing}
    return LinformerAttention(HIDDEN, 4, SEQ, 16, **options)


def output_and_gradients(forward, module: nn.Module, x: Tensor, mask: Tensor | None) -> list[Tensor]:
    x = x.detach().requires_grad_()
    output = forward(module, x, mask)
    loss = (output * hidden(*output.shape, dtype=output.dtype, seed=5)).sum()
    return [output, *torch.autograd.grad(loss, [x, *module.parameters()])]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("return_weights", [False, True])
@pytest.mark.parametrize(
    ("kind", "window", "sharing"),
    [
        *((kind, window, "key_value") for kind in KINDS for window in (0, 4)),
        ("linear", 0, "none"),
        ("linear", 4, "headwise"),
        ("softmax", 0, ""),
        ("kfree", 0, ""),
    ],
)
def test_error_is_at_most_twice_that_of_plain_pytorch(kind, window, sharing, return_weights, dtype):
    """flash-attention's rule: against float64, no worse than 2x the same equations in plain low-precision PyTorch.

    Root mean squares over all elements of the output and of each gradient; single elements are too noisy to compare.
    """
    exact = build(kind, window, sharing).to(dtype).double()
    low = copy.deepcopy(exact).to(dtype)
    x, mask = hidden(2, SEQ, HIDDEN, dtype=dtype).double(), make_mask("right", 2, SEQ)

    def plain(module, x, mask):
        return reference_attention(module, x, mask)[0]

    def ours(module, x, mask):
        return module(x, mask, return_weights=True)[0] if return_weights else module(x, mask)

    names = ["output", "input", *(name for name, _ in exact.named_parameters())]
    truth = output_and_gradients(plain, exact, x, mask)
    plain_low = output_and_gradients(plain, low, x.to(dtype), mask)
    ours_low = output_and_gradients(ours, low, x.to(dtype), mask)
    for name, expected, baseline, got in zip(names, truth, plain_low, ours_low, strict=True):
        assert got.dtype == dtype
        error, allowed = ((value.double() - expected).square().mean().sqrt() for value in (got, baseline))
        # The floor: the key bias has a gradient of zero in exact arithmetic for some kinds, so its error is all noise.
        floor = torch.finfo(dtype).eps * expected.square().mean().sqrt()
        assert error <= 2 * allowed + floor, f"{name}: {error:.3g}, plain PyTorch {allowed:.3g}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("make", [make_kfree, make_softmax, lambda **o: make_linformer(window=2, **o)])
def test_large_scores_do_not_overflow(make, dtype):
    """The softmax over tokens (k-free) and over keys subtracts its maximum, also where that is hundreds."""
    module, mask = make(dtype=dtype), make_mask("empty_row", 3, 13)
    x = (200 * hidden(3, 13, 6)).to(dtype).requires_grad_()
    output = module(x, mask)
    output.sum().backward()
    assert output.isfinite().all() and x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_kfree_over_many_tokens_in_low_precision():
    """4,096 weights of about 1/4096 each must still sum to 1: a plain running sum in bfloat16 would stop at 256."""
    module = KFreeAttention(8, 2)
    values = torch.ones(1, 4096, 8)
    with torch.no_grad():
        for linear in (module.k_proj, module.v_proj, module.o_proj):
            linear.weight.copy_(torch.eye(8))
            linear.bias.zero_()
    torch.testing.assert_close(module.bfloat16()(values.bfloat16()).float(), values, rtol=0.01, atol=0)


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("kind", [*KINDS, "softmax", "kfree"])
@pytest.mark.parametrize("masked", [False, True])
def test_automatic_mixed_precision(kind, window, masked):
    """Under autocast the products run in bfloat16: forward, backward and weights, near float32."""
    if kind in ("softmax", "kfree") and window:
        pytest.skip("no window")
    module, x = build(kind, window), hidden(2, SEQ, HIDDEN, dtype=torch.float32).requires_grad_()
    mask = make_mask("holes", 2, SEQ) if masked else None
    expected = module(x, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(x, mask)
        with_weights, _ = module(x, mask, return_weights=True)
    for got in (output, with_weights):
        torch.testing.assert_close(got.float(), expected, rtol=0.05, atol=0.05)
    output.float().square().sum().backward()
    assert x.grad.isfinite().all()
