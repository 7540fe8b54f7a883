"""Low precision, automatic mixed precision and large scores."""

import copy

import pytest
import torch
import torch.nn.functional as F
from attention_helpers import KINDS, hidden, make_kfree, make_linformer, make_mask, make_softmax
from torch import Tensor, nn

from linformers.attention import Documents, KFreeAttention, LinformerAttention, SoftmaxAttention
from linformers.attention.projection import MeanPoolProjection
from linformers.attention.reference import reference_attention

SEQ, HIDDEN = 128, 32


def build(kind: str, window: int = 0, sharing: str = "key_value", global_tokens: int = 0) -> nn.Module:
    """As users get it: the library's own initialisation."""
    if kind == "softmax":
        return SoftmaxAttention(HIDDEN, 4)
    if kind == "kfree":
        return KFreeAttention(HIDDEN, 4)
    options = {"local_window": window, "projection_sharing": sharing, "global_tokens": global_tokens}
    return LinformerAttention(HIDDEN, 4, SEQ, 16, projection_kind=kind, **options)


def plain_attention(module: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """What one would write first in PyTorch: dense, vectorised, an n x n window mask; for padding on the right.

    Slots that follow the data are written in no other plain way than in the reference.
    """
    if getattr(module, "key_projection", None) is not None and module.key_projection.kind in (
        "attention_pool",
        "cluster",
    ):
        return reference_attention(module, x, mask)[0]

    def split(tokens):
        return tokens.unflatten(-1, (4, HIDDEN // 4)).transpose(1, 2)

    q, k, v = (split(linear(x)) for linear in (module.q_proj, module.k_proj, module.v_proj))
    scale, keep = q.shape[-1] ** -0.5, mask[:, None, :, None]

    def attend_to_all():
        return (q @ k.transpose(2, 3) * scale).masked_fill(~keep.transpose(2, 3), -torch.inf).softmax(dim=3) @ v

    if isinstance(module, KFreeAttention):
        weights = k.masked_fill(~keep, -torch.inf).softmax(dim=2).transpose(2, 3)
        heads = q.softmax(dim=3) @ (weights @ v)
    elif isinstance(module, SoftmaxAttention):
        heads = attend_to_all()
    else:
        first = module.global_tokens
        rest = SEQ - first  # tokens that the slots compress
        positions, lengths = torch.arange(rest), mask.sum(1) - first
        near = (torch.arange(first, SEQ) - torch.arange(SEQ)[:, None]).abs() <= module.local_window
        members = positions * 16 // lengths[:, None] == torch.arange(16)[:, None, None]  # slot, batch, token
        members = members.transpose(0, 1) & mask[:, None, first:]
        mass = torch.ones(2, 1, 1, 16, dtype=x.dtype)
        if "pool" in module.key_projection.kind:
            mass = members.sum(2).to(x)[:, None, None]
            if module.local_window > 0:
                mass = mass - (members.to(x) @ near.T.to(x)).transpose(1, 2)[:, None]
        if module.key_projection.kind == "conv":
            mass = (torch.arange(0, SEQ, 8) < lengths[:, None])[:, None, None].to(x)

        def compress(projection, tokens):
            tokens = tokens.masked_fill(~keep, 0)[:, :, first:]
            if projection.kind == "linear":
                return projection.weight.transpose(-1, -2)[..., :rest] @ tokens
            if projection.kind == "mean_pool":
                return members[:, None].to(x) @ tokens / members.sum(2)[:, None, :, None]
            if projection.kind == "max_pool":
                return tokens[:, :, None].masked_fill(~members[:, None, ..., None], -torch.inf).amax(dim=3)
            columns = F.pad(tokens, (0, 0, 0, first)).transpose(2, 3).reshape(-1, 1, SEQ)
            columns = F.conv1d(columns, projection.weight[None, None], stride=8)
            return columns.view(2, 4, -1, 16).transpose(2, 3)

        keys, values = compress(module.key_projection, k), compress(module.value_projection, v)
        scores = q @ keys.transpose(2, 3) * scale + mass.log()
        scores = torch.cat([scores, q @ k[:, :, :first].transpose(2, 3) * scale], dim=3)
        values = torch.cat([values, v[:, :, :first]], dim=2)
        if module.local_window > 0:
            local = q @ k[:, :, first:].transpose(2, 3) * scale
            local = local.masked_fill(~(near & mask[:, None, None, first:]), -torch.inf)
            scores, values = torch.cat([scores, local], dim=3), torch.cat([values, v[:, :, first:]], dim=2)
        heads = scores.softmax(dim=3) @ values
        heads = torch.cat([attend_to_all()[:, :, :first], heads[:, :, first:]], dim=2)
    return module.o_proj(heads.transpose(1, 2).flatten(2)).masked_fill(~mask[..., None], 0)


def output_and_gradients(forward, module: nn.Module, x: Tensor, mask: Tensor | None) -> list[Tensor]:
    x = x.detach().requires_grad_()
    output = forward(module, x, mask)
    loss = (output * hidden(*output.shape, dtype=output.dtype, seed=5)).sum()
    return [output, *torch.autograd.grad(loss, [x, *module.parameters()])]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("kind", "window", "sharing", "global_tokens"),
    [
        *((kind, window, "key_value", 0) for kind in KINDS for window in (0, 4)),
        *((kind, window, "key_value", 2) for kind in KINDS for window in (0, 4)),
        ("linear", 0, "none", 0),
        ("linear", 4, "headwise", 2),
        ("softmax", 0, "", 0),
        ("kfree", 0, "", 0),
    ],
)
def test_error_is_at_most_twice_that_of_plain_pytorch(kind, window, sharing, global_tokens, dtype):
    """flash-attention's rule: against float64, no worse than 2x the same equations in plain low-precision PyTorch.

    Root mean squares over the output, and over the gradients of the input and of each layer (weight and bias together:
    the gradient of the key bias is zero in exact arithmetic, hence all noise), plus one rounding of the value itself.
    """
    exact = build(kind, window, sharing, global_tokens).to(dtype).double()
    low = copy.deepcopy(exact).to(dtype)
    x, mask = hidden(2, SEQ, HIDDEN, dtype=dtype).double(), make_mask("right", 2, SEQ)

    def reference(module, x, mask):
        return reference_attention(module, x, mask)[0]

    def outputs_alone(module, x, mask):
        return module(x, mask)

    def beside_weights(module, x, mask):
        return module(x, mask, return_weights=True)[0]

    truth = output_and_gradients(reference, exact, x, mask)
    torch.testing.assert_close(output_and_gradients(plain_attention, exact, x, mask), truth)
    plain_low = output_and_gradients(plain_attention, low, x.to(dtype), mask)
    layers = ["output", "input", *(name.rpartition(".")[0] for name, _ in exact.named_parameters())]
    for ours in (outputs_alone, beside_weights):
        ours_low = output_and_gradients(ours, low, x.to(dtype), mask)
        assert all(value.dtype == dtype for value in ours_low)
        for layer in dict.fromkeys(layers):
            expected, baseline, got = (
                torch.cat(
                    [value.double().flatten() for value, name in zip(values, layers, strict=True) if name == layer]
                )
                for values in (truth, plain_low, ours_low)
            )
            error, allowed = ((value - expected).square().mean().sqrt() for value in (got, baseline))
            floor = torch.finfo(dtype).eps * expected.square().mean().sqrt()
            assert error <= 2 * allowed + floor, f"{layer}, {ours.__name__}: {error:.3g}, plain PyTorch {allowed:.3g}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    "make",
    [
        make_kfree,
        make_softmax,
        lambda **o: make_linformer(window=2, **o),
        lambda **o: make_linformer("mean_pool", global_tokens=2, **o),
    ],
)
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


def test_global_tokens_read_many_large_values_in_half_precision():
    """A mean of 4,096 values of 1,000 is 1,000, though their sum is more than float16 can hold."""
    module = LinformerAttention(8, 2, 4096, 16, projection_kind="mean_pool", global_tokens=1)
    with torch.no_grad():
        for linear in (module.q_proj, module.k_proj, module.v_proj, module.o_proj):
            linear.weight.copy_(torch.eye(8))
    values = torch.full((1, 4096, 8), 1000.0)
    torch.testing.assert_close(module.half()(values.half()).float(), values, rtol=0.01, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mean_pooling_of_many_tokens_in_low_precision(dtype):
    """The mean of 1,000 times 100 is 100: a sum in bfloat16 would stop at 25,600, one in float16 overflow."""
    projection = MeanPoolProjection(4000, 4)
    for seq in (4000, 3999):
        pooled = projection(torch.full((1, seq, 8), 100.0, dtype=dtype), Documents(None, seq, torch.device("cpu")))
        torch.testing.assert_close(pooled.float(), torch.full((1, 4, 8), 100.0), rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("kind", "window"), [*((kind, window) for kind in KINDS for window in (0, 4)), ("softmax", 0), ("kfree", 0)]
)
@pytest.mark.parametrize("masked", [False, True])
def test_automatic_mixed_precision(kind, window, masked):
    """Under autocast the products run in bfloat16: forward, backward and weights, near float32."""
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
