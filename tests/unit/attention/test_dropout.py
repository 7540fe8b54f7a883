"""Dropout of the attention weights: its rate, its mean, its seed, and its absence in evaluation."""

import pytest
import torch
from attention_helpers import KINDS, hidden, make_kfree, make_linformer, make_mask, make_softmax

MODULES = {
    **{
        f"{kind}, window {w}": lambda kind=kind, w=w, **o: make_linformer(kind, window=w, **o)
        for kind in KINDS
        for w in (0, 2)
    },
    "softmax": make_softmax,
    "kfree": make_kfree,
}
every_module = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES.keys())


@every_module
def test_off_in_evaluation(make):
    module, x, mask = make(dropout=0.5), hidden(3, 13, 6), make_mask("holes", 3, 13)
    assert module.dropout == 0.5
    module.eval()
    torch.testing.assert_close(module(x, mask), make()(x, mask), rtol=0, atol=0)
    module.train()
    assert not torch.equal(module(x, mask), make()(x, mask))


@every_module
def test_seeds(make):
    module, x = make(dropout=0.5), hidden(3, 13, 6)

    def run(seed, **options):
        torch.manual_seed(seed)
        return module(x, **options)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    assert torch.equal(run(1, return_weights=True)[0], run(1, return_weights=True)[0])


@every_module
@pytest.mark.parametrize("return_weights", [False, True])
def test_expectation_is_the_output_without_dropout(make, return_weights):
    """The output is linear in the weights, so its mean over draws is exact; here over 1,000 copies in one batch."""
    draws, x = 1000, hidden(1, 4, 6)
    module = make(dropout=0.3)
    outputs = module(x.expand(draws, -1, -1), return_weights=return_weights)
    outputs = outputs[0] if return_weights else outputs
    expected = module.eval()(x)[0]
    standard_error = outputs.std(dim=0) / draws**0.5
    assert ((outputs.mean(dim=0) - expected).abs() < 5 * standard_error).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_linformer("linear", max_length=1, k=1, heads=1, head_dim=1, dropout=0.2),
        lambda: make_linformer("mean_pool", max_length=1, k=1, window=1, heads=1, head_dim=1, dropout=0.2),
        lambda: make_softmax(1, 1, dropout=0.2),
        lambda: make_kfree(1, 1, dropout=0.2),
    ],
    ids=["slot", "neighbour", "softmax", "kfree"],
)
@pytest.mark.parametrize("return_weights", [False, True])
def test_rate(make, return_weights):
    """One key with weight 1: the output is the bias where it was dropped, and scaled by 1 / 0.8 elsewhere."""
    module, x = make(), hidden(1, 1, 1).expand(4_000, 1, 1)
    output = module(x, return_weights=return_weights)
    output = (output[0] if return_weights else output) - module.o_proj.bias
    kept = (module.eval()(x[:1]) - module.o_proj.bias) / 0.8
    dropped = output.abs() < 1e-12
    assert dropped.double().mean().item() == pytest.approx(0.2, abs=0.032)  # 5 standard errors
    torch.testing.assert_close(output[~dropped], kept.flatten().expand(int((~dropped).sum())))


@every_module
def test_padding_stays_zero_under_dropout(make):
    module, x, mask = make(dropout=0.5), hidden(3, 13, 6).requires_grad_(), make_mask("empty_row", 3, 13)
    output = module(x, mask)
    output.square().sum().backward()
    assert not output[~mask].any()
    assert x.grad.isfinite().all() and not x.grad[~mask].any()
