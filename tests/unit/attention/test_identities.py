"""Cases in which Linformer attention must equal full softmax attention, and other exact identities."""

import pytest
import torch
from attention_helpers import (
    EXACT,
    KINDS,
    PATTERNS,
    SHARINGS,
    copy_feature_projections,
    hidden,
    make_kfree,
    make_linformer,
    make_mask,
    make_softmax,
)
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from linformers.attention import LinformerAttention
from linformers.attention.projection import sum_slots


def softmax_twin(module: LinformerAttention) -> nn.Module:
    twin = make_softmax(module.num_attention_heads, module.head_dim)
    copy_feature_projections(module, twin)
    return twin


@pytest.mark.parametrize("sharing", SHARINGS)
def test_identity_projection_is_softmax_attention(sharing):
    """k = n, E = F = I."""
    module = make_linformer("linear", sharing, max_length=12, k=12)
    with torch.no_grad():
        for projection in (module.key_projection, module.value_projection):
            projection.weight.copy_(torch.eye(12).expand_as(projection.weight))
    x = hidden(3, 12, 6)
    output, weights = module(x, return_weights=True)
    expected, expected_weights = softmax_twin(module)(x, return_weights=True)
    torch.testing.assert_close(output, expected, **EXACT)
    torch.testing.assert_close(weights, expected_weights, **EXACT)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("k", [11, 14])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", ["mean_pool", "max_pool"])
def test_pooling_into_as_many_slots_as_tokens_is_softmax_attention(kind, pattern, k, cross):
    module = make_linformer(kind, max_length=16, k=k)
    x, mask = hidden(3, 11, 6), make_mask(pattern, 3, 11)
    context = x if cross else None
    queries = hidden(3, 4, 6, seed=1) if cross else x
    expected = softmax_twin(module)(queries, mask, context)
    torch.testing.assert_close(module(queries, mask, context), expected, **EXACT)


@pytest.mark.parametrize("k", [1, 4, 11, 30])
@pytest.mark.parametrize("window", [11, 40])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", ["mean_pool", "max_pool"])
def test_pooling_under_a_window_over_everything_is_softmax_attention(kind, pattern, window, k):
    """Every token is attended exactly, so no slot has mass left."""
    module = make_linformer(kind, max_length=16, k=k, window=window)
    x, mask = hidden(3, 11, 6), make_mask(pattern, 3, 11)
    output, weights = module(x, mask, return_weights=True)
    torch.testing.assert_close(output, softmax_twin(module)(x, mask), **EXACT)
    torch.testing.assert_close(module(x, mask), output, **EXACT)
    assert not weights[..., :k].any()


def test_mean_pooling_of_equal_tokens_is_softmax_attention():
    """Slots that carry their mass lose nothing where the tokens of a slot are the same, whatever the window."""
    x = hidden(2, 4, 6).repeat_interleave(3, dim=1)
    for window in (0, 1, 2, 5):
        module = make_linformer("mean_pool", max_length=16, k=4, window=window)
        torch.testing.assert_close(module(x), softmax_twin(module)(x), **EXACT)


def test_a_new_convolution_is_mean_pooling():
    """Kernels start at 1 / stride; with k dividing n all slots have the same mass, which then cancels."""
    conv = LinformerAttention(6, 2, 12, 3, projection_kind="conv").double()
    pool = make_linformer("mean_pool", max_length=12, k=3)
    copy_feature_projections(conv, pool)
    x = hidden(2, 12, 6)
    torch.testing.assert_close(conv(x), pool(x), **EXACT)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    "make",
    [
        *(lambda kind=kind, w=w: make_linformer(kind, window=w) for kind in KINDS for w in (0, 3)),
        make_softmax,
        make_kfree,
    ],
    ids=[*(f"{kind}, window {w}" for kind in KINDS for w in (0, 3)), "softmax", "kfree"],
)
def test_weights_are_a_distribution(make, pattern):
    """Rows sum to 1 at real queries and to 0 at padded ones; asking for weights does not change the output."""
    module, x, mask = make(), hidden(3, 13, 6), make_mask(pattern, 3, 13)
    output, weights = module(x, mask, return_weights=True)
    keep = torch.ones(3, 13, dtype=torch.bool) if mask is None else mask
    torch.testing.assert_close(weights.sum(-1), keep[:, None].expand(3, 2, 13).double(), **EXACT)
    assert (weights >= 0).all()
    torch.testing.assert_close(module(x, mask), output, **EXACT)


@pytest.mark.parametrize(("k", "window", "columns"), [(5, 0, 5), (5, 3, 5 + 7), (20, 0, 20), (5, 30, 5 + 61)])
@pytest.mark.parametrize("kind", KINDS)
def test_shape_of_the_weights(kind, k, window, columns):
    _, weights = make_linformer(kind, k=k, window=window)(hidden(2, 13, 6), return_weights=True)
    assert weights.shape == (2, 2, 13, columns)


@pytest.mark.parametrize(("batch", "seq"), [(1, 9_000), (3, 2_001), (1_500, 3)])
@pytest.mark.parametrize("pattern", ["none", "holes"])
@pytest.mark.parametrize(
    "make",
    [
        *(lambda n, w=w: make_linformer("mean_pool", max_length=n, k=8, window=w) for w in (0, 5)),
        lambda n: make_kfree(),
    ],
    ids=["mean_pool, window 0", "mean_pool, window 5", "kfree"],
)
def test_inference_on_long_or_many_sequences_changes_nothing(make, pattern, batch, seq):
    """Without gradients the module is free to read the sequence in chunks; these sizes are beyond any likely chunk."""
    module, x, mask = make(seq), hidden(batch, seq, 6), make_mask(pattern, batch, seq)
    expected = module(x, mask).detach()
    with torch.inference_mode():
        torch.testing.assert_close(module(x, mask), expected, **EXACT)


def test_inference_in_chunks_across_attention():
    """The same for queries beside a context."""
    x, context, mask = hidden(2, 9_000, 6), hidden(2, 13, 6, seed=1), make_mask("holes", 2, 13)
    for module in (make_linformer(), make_kfree(), make_softmax()):
        expected = module(x, mask, context).detach()
        with torch.inference_mode():
            torch.testing.assert_close(module(x, mask, context), expected, **EXACT)


class LargestTensor(TorchDispatchMode):
    """Size of the largest tensor, and of all tensors together, that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                # Storage, not numel: an expanded view of n x n costs nothing.
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
                self.total += tensor.untyped_storage().nbytes() // tensor.element_size()
        return result


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("return_weights", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        *(
            lambda n, kind=kind, w=w: make_linformer(kind, max_length=n, k=8, window=w, heads=1, head_dim=4)
            for kind in KINDS
            for w in (0, 4)
        ),
        lambda n: make_kfree(1, 4),
    ],
    ids=[*(f"{kind}, window {w}" for kind in KINDS for w in (0, 4)), "kfree"],
)
def test_memory_is_linear_in_the_length(make, return_weights, masked):
    """No tensor, forward or backward, grows faster than the sequence: never an n x n mask."""
    sizes = []
    for n in (2048, 4096):
        module, x = make(n), hidden(1, n, 4)
        mask = make_mask("holes", 1, n) if masked else None
        with LargestTensor() as tensors:
            result = module(x, mask, return_weights=return_weights)
            (result[0] if return_weights else result).sum().backward()
        sizes.append((tensors.largest, tensors.total))
    (largest, total), (largest_twice, total_twice) = sizes
    assert largest_twice <= 2.1 * largest, f"the largest tensor grew from {largest} to {largest_twice} numbers"
    assert total_twice <= 2.2 * total, f"all tensors together grew from {total} to {total_twice} numbers"


class LowRank(nn.Module):
    """What LoRA puts in the place of a linear layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False)
        self.double()

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("global_tokens", [0, 2])
@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("sharing", ["key_value", "headwise", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_on_the_feature_projections_reach_everything(kind, sharing, window, global_tokens, gradients):
    """Modules are called and never read by their weights: an adapter beside a weight is that weight with it merged."""
    options = {"max_length": 64, "k": 5, "window": window, "global_tokens": global_tokens}
    plain, adapted, merged = (make_linformer(kind, sharing, **options) for _ in range(3))
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        adapter = LowRank(adapted.get_submodule(name))
        setattr(adapted, name, adapter)
        with torch.no_grad():
            merged.get_submodule(name).weight += adapter.up.weight @ adapter.down.weight
    x = hidden(2, 50, 6)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(adapted(x), merged(x), **EXACT)
    assert not torch.allclose(merged(x), plain(x), atol=1e-3)


def test_more_slots_than_sixteen_bits_count():
    """Slots are sorted as integers of 16 bits where they fit, and 65,536 is not 0."""
    rows = torch.tensor([[[1.0], [2.0], [4.0]]])
    (sums,) = sum_slots([rows], torch.tensor([[[0, 65_536, 70_000]]]), torch.ones(1, 1, 3), 70_001)
    assert sums.nonzero().tolist() == [[0, 0, 0], [0, 65_536, 0], [0, 70_000, 0]]
    assert sums[0, [0, 65_536, 70_000], 0].tolist() == [1, 2, 4]
