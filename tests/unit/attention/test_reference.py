"""The oracle against PyTorch and against values worked out by hand, on stand-ins instead of the library's modules."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from attention_helpers import EXACT, PATTERNS, generator, hidden, make_mask
from torch import Tensor, nn

from linformers.attention.reference import (
    compress,
    linformer_head,
    projection_matrix,
    reference_attention,
    slot_masses,
    slot_of_token,
    softmax_head,
)

HIDDEN, HEADS, HEAD_DIM = 6, 2, 3


class Softmax(SimpleNamespace):
    pass


class KFreeAttention(SimpleNamespace):
    pass


def linears() -> dict[str, nn.Linear]:
    return {name: nn.Linear(HIDDEN, HIDDEN).double() for name in ("q_proj", "k_proj", "v_proj", "o_proj")}


def stand_in(cls=Softmax, **attributes):
    return cls(num_attention_heads=HEADS, head_dim=HEAD_DIM, hidden_size=HIDDEN, **linears(), **attributes)


def projection(kind: str, max_length: int, k: int, weight: Tensor | None = None, per_head: bool = False):
    return SimpleNamespace(kind=kind, max_length=max_length, projected_dim=k, weight=weight, per_head=per_head)


def split_heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_softmax_equals_torch_multihead_attention(pattern):
    module, x, mask = stand_in(), hidden(4, 7, HIDDEN), make_mask(pattern, 4, 7)
    torch_module = nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for name in ("weight", "bias"):
            parts = [getattr(getattr(module, part), name) for part in ("q_proj", "k_proj", "v_proj")]
            getattr(torch_module, f"in_proj_{name}").copy_(torch.cat(parts))
            getattr(torch_module.out_proj, name).copy_(getattr(module.o_proj, name))
    keep = torch.ones(4, 7, dtype=torch.bool) if mask is None else mask
    expected, expected_weights = torch_module(x, x, x, key_padding_mask=~keep, average_attn_weights=False)
    output, weights = reference_attention(module, x, mask)
    torch.testing.assert_close(output[keep], expected[keep], **EXACT)
    torch.testing.assert_close(weights.transpose(1, 2)[keep], expected_weights.transpose(1, 2)[keep], **EXACT)
    assert not output[~keep].any() and not weights.transpose(1, 2)[~keep].any()


@pytest.mark.parametrize("per_head", [False, True])
def test_linear_equals_torch_attention_to_projected_keys(per_head):
    """Equation 7 in PyTorch's own words; rows of E beyond the sequence are unused."""
    n, k, shape = 5, 3, (HEADS, 9, 3) if per_head else (9, 3)
    e, f = (torch.randn(shape, generator=generator(seed), dtype=torch.float64) for seed in (1, 2))
    module = stand_in(
        key_projection=projection("linear", 9, k, e, per_head),
        value_projection=projection("linear", 9, k, f, per_head),
        local_window=0,
        global_tokens=0,
    )
    x = hidden(2, n, HIDDEN)
    q, keys, values = (split_heads(getattr(module, name)(x)) for name in ("q_proj", "k_proj", "v_proj"))
    e, f = (weight[..., :n, :].transpose(-1, -2) for weight in (e, f))
    expected = F.scaled_dot_product_attention(q, e @ keys, f @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(reference_attention(module, x)[0], module.o_proj(expected), **EXACT)


def test_identity_projection_is_softmax_attention():
    n = 6
    identity = projection("linear", n, n, torch.eye(n, dtype=torch.float64))
    module = stand_in(key_projection=identity, value_projection=identity, local_window=0, global_tokens=0)
    softmax = Softmax(**{name: value for name, value in vars(module).items() if "projection" not in name})
    x, context = hidden(2, 4, HIDDEN), hidden(2, n, HIDDEN, seed=1)
    for got, expected in zip(
        reference_attention(module, x, context=context), reference_attention(softmax, x, context=context), strict=True
    ):
        torch.testing.assert_close(got, expected, **EXACT)


def test_kfree_equals_its_formula():
    module, x = stand_in(KFreeAttention), hidden(2, 5, HIDDEN)
    q, k, v = (split_heads(getattr(module, name)(x)) for name in ("q_proj", "k_proj", "v_proj"))
    rows, columns = q.exp() / q.exp().sum(-1, keepdim=True), k.exp() / k.exp().sum(2, keepdim=True)
    attention = torch.einsum("bhid,bhjd->bhij", rows, columns)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, HEADS, 5, dtype=torch.float64), **EXACT)
    output, weights = reference_attention(module, x)
    torch.testing.assert_close(weights, rows, **EXACT)
    torch.testing.assert_close(output, module.o_proj((attention @ v).transpose(1, 2).flatten(2)), **EXACT)


def test_slots_by_hand():
    assert slot_of_token(5, 2) == [0, 0, 0, 1, 1]
    assert slot_of_token(7, 3) == [0, 0, 0, 1, 1, 2, 2]
    assert slot_of_token(2, 5) == [0, 2]
    assert slot_masses(projection("mean_pool", 9, 3), 7) == [3, 2, 2]
    assert slot_masses(projection("max_pool", 9, 5), 2) == [1, 0, 1, 0, 0]
    assert slot_masses(projection("linear", 9, 3), 1) == [1, 1, 1]
    assert slot_masses(projection("conv", 7, 3), 4) == [1, 1, 0]  # stride 3
    assert slot_masses(projection("conv", 9, 4), 9) == [1, 1, 1, 0]  # stride 3: the fourth slot never begins


def test_projection_matrices_by_hand():
    half = 1 / 2
    expected = torch.tensor([[half, half, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(projection_matrix(projection("mean_pool", 8, 2), 3, 0), expected)

    kernel = torch.tensor([[9.0, 9.0], [2.0, 3.0]])
    expected = torch.tensor([[2.0, 3.0, 0.0], [0.0, 0.0, 2.0]])
    torch.testing.assert_close(projection_matrix(projection("conv", 4, 2, kernel, per_head=True), 3, 1), expected)

    weight = torch.arange(8.0).view(4, 2)
    expected = torch.tensor([[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]])
    torch.testing.assert_close(projection_matrix(projection("linear", 4, 2, weight), 3, 0), expected)

    rows = torch.tensor([[1.0, 6.0], [5.0, 2.0], [3.0, 4.0]])
    pool = projection("max_pool", 8, 2)
    torch.testing.assert_close(compress(pool, rows, 0), torch.tensor([[5.0, 6.0], [3.0, 4.0]]))
    with pytest.raises(ValueError, match="max_pool"):
        projection_matrix(pool, 3, 0)


def test_mass_and_window_by_hand():
    """Five tokens in slots of 3 and 2, window 1. With keys of zero a score is its bias, so weights are counts."""
    pool = projection("mean_pool", 8, 2)
    zeros, values = torch.zeros(5, 1, dtype=torch.float64), torch.arange(5.0, dtype=torch.float64)[:, None]
    output, weights = linformer_head(zeros, zeros, values, pool, pool, 0, local_window=1)
    counts = torch.tensor([
        [1, 2, 0, 1, 1],
        [0, 2, 1, 1, 1],  # all of slot 0 is in the window: it is removed
        [1, 1, 1, 1, 1],
        [2, 0, 1, 1, 1],
        [3, 0, 1, 1, 0],
    ])  # fmt: skip
    torch.testing.assert_close(weights, counts.double() / 5, **EXACT)
    slot_means = torch.tensor([1.0, 3.5], dtype=torch.float64)
    windows = torch.tensor([0 + 1, 0 + 1 + 2, 1 + 2 + 3, 2 + 3 + 4, 3 + 4], dtype=torch.float64)
    torch.testing.assert_close(output[:, 0], (counts[:, :2].double() @ slot_means + windows) / 5, **EXACT)

    _, weights = linformer_head(zeros, zeros, values, pool, pool, 0)
    torch.testing.assert_close(weights, torch.tensor([[0.6, 0.4]] * 5, dtype=torch.float64), **EXACT)


def test_linear_slots_stay_beside_the_window():
    linear = projection("linear", 8, 2, torch.zeros(8, 2, dtype=torch.float64))
    zeros = torch.zeros(3, 1, dtype=torch.float64)
    _, weights = linformer_head(zeros, zeros, zeros, linear, linear, 0, local_window=1)
    counts = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]).double()
    torch.testing.assert_close(weights, counts / counts.sum(1, keepdim=True), **EXACT)


def test_clusters_by_hand():
    """Four tokens, two of each key, far apart in the text: the slots are exact, so attention is softmax attention."""
    cluster = projection("cluster", 8, 2)
    cluster.sample_tokens, cluster.lloyd_steps = 4, 1
    keys = torch.tensor([[1.0], [1.0], [-2.0], [1.0]], dtype=torch.float64)[[0, 2, 1, 3]]
    values = torch.arange(4.0, dtype=torch.float64)[:, None]
    queries = torch.tensor([[0.5], [-1.0], [2.0], [0.1]], dtype=torch.float64)
    output, weights = linformer_head(queries, keys, values, cluster, cluster, 0)
    expected, _ = softmax_head(queries, keys, values)
    torch.testing.assert_close(output, expected, **EXACT)
    torch.testing.assert_close(weights.sum(1), torch.ones(4, dtype=torch.float64), **EXACT)


def test_score_scale_is_the_root_of_head_dim():
    """One query, two slots of one token each: the log-odds of its weights are the scaled score difference."""
    pool = projection("max_pool", 8, 2)
    query, keys = hidden(1, 1, 4)[0], hidden(1, 2, 4, seed=1)[0]
    _, weights = linformer_head(query, keys, keys, pool, pool, 0)
    difference = (query @ keys[0] - query @ keys[1]) / math.sqrt(4)
    torch.testing.assert_close((weights[0, 0] / weights[0, 1]).log(), difference.squeeze(), **EXACT)


def test_cross_attention_zeroes_samples_without_context():
    module = stand_in()
    x, context = hidden(2, 3, HIDDEN), hidden(2, 4, HIDDEN, seed=1)
    mask = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 0]])
    output, weights = reference_attention(module, x, mask, context)
    assert not output[0].any() and not weights[0].any()
    alone, _ = reference_attention(module, x[1:], context=context[1:, 1:3])
    torch.testing.assert_close(output[1:], alone, **EXACT)


@pytest.mark.parametrize("kind", ["linear", "mean_pool", "max_pool", "conv"])
def test_reference_is_differentiable(kind):
    weight = {"linear": (4, 2), "conv": (2,)}.get(kind)
    if weight is not None:
        weight = torch.randn(weight, generator=generator(), dtype=torch.float64, requires_grad=True)
    e = projection(kind, 4, 2, weight)

    def head(q, k, v, *_):
        return linformer_head(q, k, v, e, e, 0, local_window=1)

    q, k, v = (hidden(1, 3, 2, seed=seed)[0].requires_grad_() for seed in range(3))
    assert torch.autograd.gradcheck(head, (q, k, v) + (() if weight is None else (weight,)))
