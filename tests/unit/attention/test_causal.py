"""Causal attention: equal to its plain loops, blind to what comes later, and softmax where nothing is compressed."""

import pytest
import torch
import torch.nn.functional as F
from attention_helpers import (
    EXACT,
    PATTERNS,
    assert_same_as_reference,
    copy_feature_projections,
    hidden,
    make_mask,
    make_softmax,
    randomise,
)

from linformers import CausalLinformerAttention


def make_causal(s: int = 4, m: int = 2, heads: int = 2, head_dim: int = 3, dtype=torch.float64, **options):
    module = CausalLinformerAttention(heads * head_dim, heads, segment_length=s, segment_slots=m, **options)
    randomise(module)
    return module.to(dtype)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    ("s", "m", "seq"), [(4, 2, 19), (4, 4, 13), (4, 1, 16), (1, 1, 5), (6, 3, 4), (3, 1, 9), (5, 5, 1)]
)
def test_outputs_weights_and_gradients_are_those_of_the_loops(s, m, seq, pattern):
    assert_same_as_reference(make_causal(s, m), hidden(3, seq, 6), make_mask(pattern, 3, seq))


@pytest.mark.parametrize("m", [1, 2, 4])
def test_no_output_has_a_gradient_at_a_later_token(m):
    module, x = make_causal(4, m), hidden(2, 18, 6).requires_grad_()
    output = module(x)
    for i in range(18):
        (gradient,) = torch.autograd.grad(output[:, i].square().sum(), x, retain_graph=True)
        assert not gradient[:, i + 1 :].any()  # exactly
        assert gradient[:, : i + 1].abs().sum(-1).min() > 0  # every earlier token counts


def test_later_tokens_change_no_bit():
    """Also with a mask of holes, and where queries are read in chunks."""
    module, x = make_causal(8, 2), hidden(1, 1900, 6)
    mask = torch.rand(1, 1900) < 0.8
    with torch.no_grad():
        for cut in (1, 7, 8, 776, 1555):
            later = x.clone()
            later[:, cut:] = 100.0
            for given in (None, mask):
                torch.testing.assert_close(module(later, given)[:, :cut], module(x, given)[:, :cut], rtol=0, atol=0)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("s", "m", "seq"), [(4, 4, 23), (8, 1, 16), (8, 2, 11)])
def test_is_causal_softmax_where_each_token_has_a_slot_or_all_are_near(s, m, seq, pattern):
    module, softmax, x = make_causal(s, m), make_softmax(), hidden(3, seq, 6)
    copy_feature_projections(module, softmax)
    mask = make_mask(pattern, 3, seq)
    keep = torch.ones(3, seq, dtype=torch.bool) if mask is None else mask
    q, k, v = (softmax.split_heads(linear(x)) for linear in (softmax.q_proj, softmax.k_proj, softmax.v_proj))
    seen = keep[:, None, None] & torch.ones(seq, seq, dtype=torch.bool).tril()
    read = F.scaled_dot_product_attention(q, k, v, attn_mask=seen | ~keep[:, None, :, None])
    expected = softmax.o_proj(softmax.merge_heads(read)).masked_fill(~keep[..., None], 0)
    torch.testing.assert_close(module(x, mask), expected, **EXACT)


@pytest.mark.parametrize("content", [1e4, float("nan")])
@pytest.mark.parametrize("pattern", ["right", "left", "holes", "empty_row"])
def test_padding_changes_nothing(pattern, content):
    module, x, mask = make_causal(), hidden(3, 19, 6), make_mask(pattern, 3, 19)
    output = module(x, mask)
    other = module(x.masked_fill(~mask[..., None], content), mask)
    torch.testing.assert_close(other, output, rtol=0, atol=0)
    assert not output[~mask].any()
    for row in range(3):
        if mask[row].any():
            torch.testing.assert_close(output[row, mask[row]], module(x[row : row + 1, mask[row]])[0], **EXACT)


def test_chunks_are_the_whole():
    """Without gradients queries are read in chunks that end inside of segments."""
    module, x = make_causal(50, 5), hidden(1, 2000, 6)
    with torch.no_grad():
        chunked = module(x)
    torch.testing.assert_close(chunked, module(x).detach(), **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_errs_at_most_twice_as_much_as_softmax(dtype):
    module = make_causal(32, 32, head_dim=8, dtype=dtype)
    softmax = make_softmax(head_dim=8, dtype=dtype)
    copy_feature_projections(module, softmax)
    x = hidden(2, 200, 16, dtype=dtype)
    q, k, v = (softmax.split_heads(linear(x)) for linear in (softmax.q_proj, softmax.k_proj, softmax.v_proj))
    plain = softmax.o_proj(softmax.merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
    output, exact = module(x), module.double()(x.double())
    assert output.dtype == dtype
    errors = [(y.double() - exact).square().mean().sqrt() for y in (output, plain)]
    assert errors[0] <= 2 * errors[1] + torch.finfo(dtype).eps * exact.abs().mean()


def test_dropout_is_for_training():
    module, x = make_causal(dropout=0.5).train(), hidden(1, 19, 6)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


@pytest.mark.usefixtures("bad_input")
def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="segment_slots=3 does not divide segment_length=8"):
        CausalLinformerAttention(6, 2, segment_length=8, segment_slots=3)
    with pytest.raises(ValueError, match="segment_length must be at least 1, got 0"):
        CausalLinformerAttention(6, 2, segment_length=0)
    with pytest.raises(TypeError, match="segment_slots must be an int"):
        CausalLinformerAttention(6, 2, segment_length=8, segment_slots=2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="context"):
        make_causal()(hidden(2, 9, 6), context=hidden(2, 5, 6))
