"""The mechanisms give on CUDA what they give on a CPU, where they are held to the reference."""

import copy

import pytest
import torch
from attention_helpers import KINDS, PATTERNS, SHARINGS, hidden, make_kfree, make_linformer, make_mask, make_softmax

pytestmark = pytest.mark.gpu

MECHANISMS = {
    "kfree": make_kfree,
    "softmax": make_softmax,
    **{
        f"{kind}, {sharing}, window {window}, {global_tokens} global": (
            lambda kind=kind, sharing=sharing, window=window, global_tokens=global_tokens, **options: make_linformer(
                kind, sharing, window=window, global_tokens=global_tokens, **options
            )
        )
        for kind in KINDS
        for sharing in (SHARINGS if kind in ("linear", "conv") else ("key_value",))
        for window, global_tokens in ((0, 0), (2, 0), (3, 2))
    },
}


def on(device: str, module: torch.nn.Module, x: torch.Tensor, mask: torch.Tensor | None) -> list[torch.Tensor]:
    """The output without and with gradients, the weights, and the gradients of the input and all parameters."""
    module = copy.deepcopy(module).to(device)
    x, mask = x.to(device).requires_grad_(), None if mask is None else mask.to(device)
    with torch.no_grad():
        alone = module(x, mask)
    output = module(x, mask)
    target = hidden(*output.shape, dtype=output.dtype, seed=3).to(device)
    gradients = torch.autograd.grad((output * target).sum(), [x, *module.parameters()], materialize_grads=True)
    _, weights = module(x, mask, return_weights=True)
    return [value.detach().cpu() for value in (alone, output, weights, *gradients)]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", MECHANISMS)
def test_equal_to_the_cpu_in_float64(name, pattern):
    module, x, mask = MECHANISMS[name](), hidden(3, 13, 6), make_mask(pattern, 3, 13)
    torch.testing.assert_close(on("cuda", module, x, mask), on("cpu", module, x, mask), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("pattern", ["none", "right", "holes", "empty_row"])
@pytest.mark.parametrize("window", [0, 16])
@pytest.mark.parametrize("kind", [*KINDS, "kfree", "softmax"])
def test_low_precision_errs_no_more_than_on_the_cpu(kind, window, pattern, dtype):
    """At sizes at which the fused kernels of the device take over; against float64, root mean squares."""
    sizes = {"heads": 4, "head_dim": 32, "dtype": torch.float64}
    if kind in ("kfree", "softmax"):
        module = (make_kfree if kind == "kfree" else make_softmax)(**sizes)
    else:
        module = make_linformer(kind, window=window, max_length=300, k=64, global_tokens=window // 16, **sizes)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.3)
    low = copy.deepcopy(module).to(dtype)
    exact = copy.deepcopy(low).double()
    x, mask = hidden(3, 290, 128, dtype=dtype), make_mask(pattern, 3, 290)
    found = zip(on("cuda", low, x, mask), on("cpu", low, x, mask), on("cpu", exact, x.double(), mask), strict=True)
    # The gradient of the key bias is zero in exact arithmetic, hence noise: held to the size of its neighbours.
    for number, (got, on_cpu, expected) in enumerate(found):
        assert got.dtype == dtype and got.isfinite().all()
        error, allowed = ((value.double() - expected).square().mean().sqrt() for value in (got, on_cpu))
        floor = 4 * torch.finfo(dtype).eps * (expected.square().mean().sqrt() + 1)
        assert error <= 3 * allowed + floor, f"value {number}: {error:.3g}, on the CPU {allowed:.3g}"


@pytest.mark.parametrize("kind", [*KINDS, "kfree"])
def test_mixed_precision(kind):
    module = make_kfree() if kind == "kfree" else make_linformer(kind, window=2)
    module, x = module.float().cuda(), hidden(3, 13, 6, dtype=torch.float32).cuda().requires_grad_()
    expected = module(x)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        output = module(x)
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05)
    output.float().square().sum().backward()
    assert x.grad.isfinite().all()
