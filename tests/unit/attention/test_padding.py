"""Real tokens must not notice padding, its content, its place, or their batch mates."""

import pytest
import torch
from attention_helpers import (
    EXACT,
    KINDS,
    PATTERNS,
    SHARINGS,
    generator,
    hidden,
    make_kfree,
    make_linformer,
    make_mask,
    make_softmax,
    pairwise,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

MODULES = {
    **{
        f"{kind}, {sharing}, window {w}": lambda kind=kind, sharing=sharing, w=w: make_linformer(
            kind, sharing, window=w, global_tokens=w // 2
        )
        for kind, sharing, w in pairwise(kind=KINDS, sharing=SHARINGS, w=(0, 3, 20))
    },
    "softmax": make_softmax,
    "kfree": make_kfree,
}
every_module = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES.keys())
CROSS_MODULES = {name: make for name, make in MODULES.items() if "window" not in name or "window 0" in name}

# Layout of the padding changes the order of float64 sums and nothing else.
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}


def scatter(tokens: Tensor, mask: Tensor, pad: float = 0.0) -> Tensor:
    """Put the tokens of a sample (kept, hidden) at the kept positions of a mask (seq,)."""
    placed = tokens.new_full((len(mask), tokens.shape[1]), pad)
    placed[mask] = tokens
    return placed


@every_module
@pytest.mark.parametrize("pattern", ["right", "left", "holes", "empty_row"])
@pytest.mark.parametrize("content", [1e4, float("nan"), float("inf"), -float("inf")])
def test_content_of_padding(make, pattern, content):
    """Outputs, weights and gradients are bit-equal for any padding, even what would poison a sum."""
    module, x, mask = make(), hidden(3, 13, 6), make_mask(pattern, 3, 13)
    results = []
    for pad in (0.5, content):
        padded = x.masked_fill(~mask[..., None], pad).requires_grad_()
        plain = module(padded, mask)
        output, weights = module(padded, mask, return_weights=True)
        loss = plain.square().sum() + output.square().sum() + weights.square().sum()
        gradients = torch.autograd.grad(loss, [padded, *module.parameters()])
        results.append([plain, output, weights, *gradients])
        assert not plain[~mask].any() and not gradients[0][~mask].any()
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@every_module
@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients_reach_the_weights_that_are_returned(make, pattern):
    """Where a query has weights its output is made of them; padding and global tokens have none."""
    module, mask = make(), make_mask(pattern, 3, 13)
    output, weights = module(hidden(3, 13, 6), mask, return_weights=True)
    (gradient,) = torch.autograd.grad((output * hidden(3, 13, 6, seed=1)).sum(), weights)
    assert torch.equal(gradient.abs().amax((1, 3)) > 0, weights.abs().amax((1, 3)) > 0)


@pytest.mark.parametrize("make", CROSS_MODULES.values(), ids=CROSS_MODULES.keys())
@pytest.mark.parametrize("content", [1e4, float("nan"), float("inf")])
def test_content_of_padding_in_a_context(make, content):
    module, x, context, mask = make(), hidden(3, 4, 6), hidden(3, 13, 6, seed=1), make_mask("empty_row", 3, 13)
    results = []
    for pad in (0.5, content):
        padded = context.masked_fill(~mask[..., None], pad).requires_grad_()
        output, weights = module(x, mask, padded, return_weights=True)
        plain = module(x, mask, padded)
        loss = plain.square().sum() + output.square().sum() + weights.square().sum()
        results.append([plain, output, weights, *torch.autograd.grad(loss, [padded, *module.parameters()])])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert not results[0][0][0].any() and results[0][0][1:].all()


@every_module
def test_place_of_padding(make):
    """The same tokens with padding on the right, on the left, scattered, or none at all."""
    module, tokens = make(), hidden(1, 9, 6)[0]
    expected = module(tokens[None])[0]
    for pattern in ("right", "left", "holes"):
        mask = {
            "right": torch.arange(14) < 9,
            "left": torch.arange(14) >= 5,
            "holes": torch.randperm(14, generator=generator(3)) < 9,
        }[pattern]
        output = module(scatter(tokens, mask)[None], mask[None])[0]
        torch.testing.assert_close(output[mask], expected, **ROUNDING, msg=lambda text, p=pattern: f"{p}: {text}")


@every_module
def test_batch_mates(make):
    """A sample alone, or beside longer, shorter and empty ones."""
    module, lengths = make(), [13, 5, 1, 0, 8]
    x = hidden(5, 13, 6)
    mask = torch.arange(13) < torch.tensor(lengths)[:, None]
    together = module(x, mask)
    for row, length in enumerate(lengths):
        alone = module(x[row : row + 1], mask[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, **ROUNDING)
        if length > 0:
            trimmed = module(x[row : row + 1, :length])
            torch.testing.assert_close(together[row : row + 1, :length], trimmed, **ROUNDING)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(module(x[order], mask[order]), together[order], **ROUNDING)


@every_module
def test_a_mask_that_keeps_all_is_no_mask(make):
    module, x = make(), hidden(2, 13, 6)
    torch.testing.assert_close(module(x, torch.ones(2, 13, dtype=torch.bool)), module(x), **ROUNDING)


@every_module
def test_a_batch_of_padding(make):
    """Zeros, and gradients that are zero rather than NaN."""
    module, x = make(), hidden(2, 13, 6).requires_grad_()
    output, weights = module(x, torch.zeros(2, 13, dtype=torch.bool), return_weights=True)
    plain = module(x, torch.zeros(2, 13, dtype=torch.bool))
    assert not output.any() and not weights.any() and not plain.any()
    gradients = torch.autograd.grad(
        (output + plain).square().sum() + weights.sum() + (output + plain).sum(),
        [x, *module.parameters()],
        materialize_grads=True,
    )
    assert not any(gradient.any() for gradient in gradients)  # NaN counts as any


@every_module
def test_an_empty_row_leaves_the_gradients_of_the_others(make):
    module, x, mask = make(), hidden(3, 13, 6), make_mask("empty_row", 3, 13)
    gradients = [
        torch.autograd.grad(module(x[rows], mask[rows]).square().sum(), list(module.parameters()))
        for rows in (slice(None), slice(1, None))
    ]
    torch.testing.assert_close(*gradients, **EXACT)


@every_module
def test_inputs_are_left_alone(make):
    module, x, mask = make(), hidden(3, 13, 6), make_mask("holes", 3, 13)
    x_before, mask_before = x.clone(), mask.clone()
    module(x, mask)
    module(x, mask, return_weights=True)
    assert torch.equal(x, x_before) and torch.equal(mask, mask_before)


@every_module
def test_inputs_need_not_be_contiguous(make):
    module, mask = make(), make_mask("holes", 3, 13)
    x = hidden(13, 6, 3).permute(2, 0, 1)
    torch.testing.assert_close(module(x, mask.T.contiguous().T), module(x.contiguous(), mask), **ROUNDING)


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(
    masks=st.integers(1, 30).flatmap(
        lambda seq: st.lists(st.lists(st.booleans(), min_size=seq, max_size=seq), min_size=1, max_size=4)
    ),
    attention=st.one_of(
        st.sampled_from(["softmax", "kfree"]),
        st.tuples(st.sampled_from(KINDS), st.sampled_from(SHARINGS), st.integers(1, 34), st.integers(0, 34)),
    ),
    spare=st.integers(0, 3),
)
def test_padding_can_be_removed(masks, attention, spare):
    """For any mask, a sample's real outputs are those of its kept tokens alone, and the others are zero."""
    mask = torch.tensor(masks)
    if attention == "softmax":
        module = make_softmax()
    elif attention == "kfree":
        module = make_kfree()
    else:
        kind, sharing, k, window = attention
        module = make_linformer(kind, sharing, max_length=mask.shape[1] + spare, k=k, window=window)
    x = hidden(*mask.shape, 6)
    output, weights = module(x, mask, return_weights=True)
    torch.testing.assert_close(module(x, mask), output, **ROUNDING)
    assert not output[~mask].any() and not weights.transpose(1, 2)[~mask].any()
    for row in range(len(mask)):
        if mask[row].any():
            alone = module(x[row : row + 1, mask[row]])[0]
            torch.testing.assert_close(output[row, mask[row]], alone, **ROUNDING)
