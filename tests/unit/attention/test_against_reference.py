"""Outputs, weights and every gradient of every mode against `reference.py`, in float64."""

import pytest
import torch
from attention_helpers import (
    KINDS,
    PATTERNS,
    SHARINGS,
    assert_same_as_reference,
    hidden,
    make_kfree,
    make_linformer,
    make_mask,
    make_softmax,
    pairwise,
)

from linformers.attention import LinformerAttention, ProjectionBank


@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_sharing_and_mask(kind, sharing, pattern, window):
    module = make_linformer(kind, sharing, max_length=16, k=5, window=window)
    assert_same_as_reference(module, hidden(3, 13, 6), make_mask(pattern, 3, 13))


@pytest.mark.parametrize(
    ("kind", "sharing", "pattern", "seq", "window", "global_tokens"),
    pairwise(
        kind=KINDS, sharing=SHARINGS, pattern=PATTERNS, seq=(1, 2, 3, 4, 13), window=(0, 2, 20), global_tokens=(1, 3)
    ),
)
def test_global_tokens(kind, sharing, pattern, seq, window, global_tokens):
    """Also sequences of global tokens only, and shorter ones."""
    module = make_linformer(kind, sharing, max_length=16, k=5, window=window, global_tokens=global_tokens)
    assert_same_as_reference(module, hidden(3, seq, 6), make_mask(pattern, 3, seq))


@pytest.mark.parametrize(
    ("kind", "seq", "k", "window", "pattern", "sharing", "spare"),
    pairwise(
        kind=KINDS,
        seq=(1, 2, 63, 97),
        k=("one", "divides", "does not", "n", "n + 3"),
        window=(0, 1, 8, "n - 1", "n + 5"),
        pattern=PATTERNS,
        sharing=SHARINGS,
        spare=(0, 4),
    ),
)
def test_lengths_projected_dims_and_windows(kind, seq, k, window, pattern, sharing, spare):
    """`spare`: how much longer than the sequence the module's maximum is."""
    divisor = {1: 1, 2: 2, 63: 9, 97: 97}[seq]
    k = {"one": 1, "divides": divisor, "does not": min(5, seq), "n": seq, "n + 3": seq + 3}[k]
    window = {"n - 1": seq - 1, "n + 5": seq + 5}.get(window, window)
    module = make_linformer(kind, sharing, max_length=seq + spare, k=k, window=window)
    assert_same_as_reference(module, hidden(2, seq, 6), make_mask(pattern, 2, seq))


@pytest.mark.parametrize(
    ("kind", "sharing", "window", "pattern"),
    [
        ("linear", "key_value", 0, "holes"),
        ("linear", "none", 8, "right"),
        ("mean_pool", "key_value", 8, "holes"),
        ("max_pool", "headwise", 8, "none"),
        ("conv", "headwise", 0, "left"),
        ("attention_pool", "key_value", 8, "holes"),
        ("cluster", "key_value", 0, "none"),
        ("cluster", "key_value", 8, "left"),
    ],
)
def test_a_thousand_tokens(kind, sharing, window, pattern):
    options = {"window": window, "global_tokens": window // 8}
    module = make_linformer(kind, sharing, max_length=1024, k=24, heads=1, head_dim=4, **options)
    assert_same_as_reference(
        module, hidden(2, 1000, 4)[:1], make_mask(pattern, 2, 1000)[1:] if pattern != "none" else None
    )


@pytest.mark.parametrize(
    ("kind", "seq", "window"),
    [
        ("mean_pool", 127, 3),
        ("linear", 128, 8),
        ("max_pool", 129, 1),
        ("conv", 256, 64),
        ("mean_pool", 257, 70),
        ("linear", 300, 130),
        ("mean_pool", 300, 299),
    ],
)
def test_windows_across_the_borders_of_blocks(kind, seq, window):
    """Windows smaller and larger than any likely block, lengths just below, at and above powers of two."""
    module = make_linformer(kind, "headwise", max_length=300, k=7, window=window, heads=1, head_dim=2)
    mask = make_mask("holes", 2, seq)
    mask[1] = True
    assert_same_as_reference(module, hidden(2, seq, 2), mask)


@pytest.mark.parametrize(
    ("heads", "head_dim", "seq", "k"),
    [
        (1, 32, 9, 4),  # hidden size above n: features dominate
        (1, 2, 96, 4),  # n above the hidden size: the sequence dominates
        (6, 1, 20, 30),  # head_dim 1, k above n and above the hidden size
        (8, 4, 33, 32),
    ],
)
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("kind", ["linear", "mean_pool", "conv"])
def test_either_order_of_multiplication(kind, sharing, heads, head_dim, seq, k):
    """The cheaper order depends on these sizes; with biases and masks both must be exact."""
    module = make_linformer(kind, sharing, max_length=seq + 3, k=k, heads=heads, head_dim=head_dim)
    assert_same_as_reference(module, hidden(2, seq, heads * head_dim), make_mask("holes", 2, seq))


@pytest.mark.parametrize("kind", KINDS)
def test_without_biases(kind):
    module = make_linformer(kind, "none", bias=False, window=1)
    assert all(name.endswith("weight") or "proj" not in name for name, _ in module.named_parameters())
    assert module.q_proj.bias is None and module.o_proj.bias is None
    assert_same_as_reference(module, hidden(2, 11, 6), make_mask("holes", 2, 11))


@pytest.mark.parametrize(
    ("kind", "sharing", "pattern", "seq", "source"),
    pairwise(kind=KINDS, sharing=SHARINGS, pattern=PATTERNS, seq=(1, 4, 20), source=(1, 11, 16)),
)
def test_cross_attention(kind, sharing, pattern, seq, source):
    """The mask belongs to the context; queries may be more than `max_length`, which bounds the context alone."""
    module = make_linformer(kind, sharing, max_length=16, k=5)
    context = hidden(3, source, 6, seed=1)
    assert_same_as_reference(module, hidden(3, seq, 6), make_mask(pattern, 3, source), context)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("seq", [1, 2, 63, 97])
@pytest.mark.parametrize("make", [make_softmax, make_kfree])
def test_softmax_and_kfree(make, seq, pattern):
    assert_same_as_reference(make(), hidden(3, seq, 6), make_mask(pattern, 3, seq))


@pytest.mark.parametrize("make", [make_softmax, make_kfree])
def test_softmax_and_kfree_of_a_thousand_tokens(make):
    assert_same_as_reference(make(), hidden(2, 1000, 6), make_mask("holes", 2, 1000))


@pytest.mark.parametrize(("seq", "source"), [(1, 7), (9, 5), (4, 1)])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("make", [make_softmax, make_kfree])
def test_softmax_and_kfree_cross_attention(make, pattern, seq, source):
    context = hidden(3, source, 6, seed=1)
    assert_same_as_reference(make(), hidden(3, seq, 6), make_mask(pattern, 3, source), context)


@pytest.mark.parametrize("make", [make_softmax, make_kfree])
def test_softmax_and_kfree_without_biases(make):
    assert_same_as_reference(make(bias=False), hidden(2, 7, 6), make_mask("holes", 2, 7))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sharing", SHARINGS)
def test_layers_that_borrow_from_a_bank(kind, sharing):
    """Each layer of a bank with its own k, gradients of the bank's parameters included."""
    dims = [5, 5, 5] if sharing == "layerwise" else [5, None, 3]
    bank = ProjectionBank(3, 2, 16, dims, sharing=sharing, kind=kind).double()
    for layer, k in enumerate(dims):
        if k is None:
            assert bank[layer] is None
            continue
        module = LinformerAttention(
            6, 2, 16, k, projection_sharing=sharing, projection_kind=kind, projections=bank[layer]
        )
        module = module.double()
        parameters = [*module.parameters(), *bank.parameters()]
        assert_same_as_reference(module, hidden(2, 13, 6), make_mask("right", 2, 13), parameters=parameters)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("make", [make_linformer, make_softmax, make_kfree])
def test_integer_masks(make, dtype):
    """Any nonzero value keeps the token, as the tokenizers' masks of 0 and 1 do."""
    mask = make_mask("holes", 3, 9).to(dtype)
    mask[2] *= 2
    assert_same_as_reference(make(), hidden(3, 9, 6), mask)


@pytest.mark.parametrize(
    "make",
    [
        *(lambda kind=kind: make_linformer(kind, "none", max_length=5, k=2, heads=2, head_dim=2) for kind in KINDS),
        *(lambda kind=kind: make_linformer(kind, max_length=5, k=2, window=1, head_dim=2) for kind in KINDS),
        *(lambda kind=kind: make_linformer(kind, max_length=5, k=2, global_tokens=1, head_dim=2) for kind in KINDS),
        lambda: make_softmax(head_dim=2),
        lambda: make_kfree(head_dim=2),
    ],
    ids=[
        *KINDS,
        *(f"{kind} with window" for kind in KINDS),
        *(f"{kind} with global" for kind in KINDS),
        "softmax",
        "kfree",
    ],
)
def test_gradcheck(make):
    """Autograd against finite differences, for the input and every parameter: the analytic backward of every path."""
    module, x = make(), hidden(2, 4, 4).requires_grad_()
    mask = torch.tensor([[True, True, True, True], [True, False, True, False]])
    parameters = tuple(module.parameters())  # gradcheck moves them in place, so the module sees each step
    for options in ({}, {"return_weights": True}):
        assert torch.autograd.gradcheck(lambda x, *_, o=options: module(x, mask, **o), (x, *parameters), fast_mode=True)
