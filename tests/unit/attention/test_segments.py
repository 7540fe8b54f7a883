"""Segments that see the document, against their formula written out for every pair of tokens."""

import pytest
import torch
from torch import Tensor

from linformers.attention.distances import Distances
from linformers.attention.documents import Documents
from linformers.attention.segments import read_in_segments
from linformers.attention.sharing import PROJECTION_KINDS

KINDS = ["attention_pool", "cluster"]
SEQ, LENGTH, WEIGHT = 70, 16, 0.3


def drawn(seq: int = SEQ, batch: int = 2) -> list[Tensor]:
    """Queries, keys and values of three heads."""
    return [torch.randn(batch, seq, 3, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]


def found(query, keys, values, *, kind="cluster", k=128, mask=None, **options) -> Tensor:
    documents = Documents(mask, query.shape[1], query.device)
    keys, values = documents.zero(keys), documents.zero(values)
    given = {"length": LENGTH, "context_weight": WEIGHT, "global_tokens": 1} | options
    return read_in_segments(query, keys, values, documents, PROJECTION_KINDS[kind](None, k), **given)


def written_out(query, keys, values, *, context_weight=WEIGHT, global_tokens=1, bias=None) -> Tensor:
    """Softmax over all tokens, those of other segments held down, except for what global tokens read."""
    i = torch.arange(query.shape[1])
    near = (i[:, None] // LENGTH == i // LENGTH) | (i < global_tokens) | (i[:, None] < global_tokens)
    weight = (context_weight * LENGTH / (~near).sum(1, keepdim=True).clamp(min=1).double()).clamp(max=1)
    scores = torch.einsum("bihd,bjhd->bhij", query, keys) * query.shape[-1] ** -0.5
    scores = scores + torch.where(near, 0.0, weight.log())
    return torch.einsum("bhij,bjhd->bihd", (scores + (0 if bias is None else bias)).softmax(-1), values)


def torch_softmax(query, keys, values) -> Tensor:
    """Softmax attention of PyTorch."""
    read = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, keys, values)))
    return read.transpose(1, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context_weight", [0.0, 0.3, 50.0])
@pytest.mark.parametrize("global_tokens", [0, 1, 3, LENGTH + 4])
def test_a_slot_for_each_token_is_the_formula(kind, context_weight, global_tokens):
    tensors, options = drawn(), {"context_weight": context_weight, "global_tokens": global_tokens}
    own, expected = found(*tensors, kind=kind, **options), written_out(*tensors, **options)
    torch.testing.assert_close(own, expected, atol=1e-10, rtol=1e-10)
    weights = torch.randn_like(own)
    gradients = (torch.autograd.grad((x * weights).sum(), tensors) for x in (own, expected))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_each_document_by_its_own_length(kind):
    tensors = drawn()
    mask = torch.arange(SEQ) < torch.tensor([[SEQ], [41]])
    for k in (5, 128):
        own = found(*tensors, kind=kind, k=k, mask=mask)
        alone = found(*(x[1:, :41] for x in tensors), kind=kind, k=k)
        torch.testing.assert_close(own[1:, :41], alone, atol=1e-10, rtol=1e-10)
        assert own.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_weight_a_segment_is_read_by_itself(kind):
    """Few slots hold tokens of several segments, and none of them counts."""
    tensors = drawn()
    own = found(*tensors, kind=kind, k=4, context_weight=0.0, global_tokens=0)
    parts = zip(*(x.split(LENGTH, dim=1) for x in tensors), strict=True)
    alone = torch.cat([torch_softmax(*part) for part in parts], dim=1)
    torch.testing.assert_close(own, alone, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_seen_exactly_does_not_count_in_its_slot(kind):
    """With one slot for all, of equal keys: its value is the mean over the other segments."""
    query, _, values = drawn()
    keys = torch.zeros_like(values)
    own = found(query, keys, values, kind=kind, k=1, context_weight=1e9, global_tokens=0)
    assert torch.allclose(own.mean(1), own[:, 0], atol=0.3)
    segment = torch.arange(SEQ) // LENGTH == 1
    mass = (~segment).sum()  # the slot holds all, and its value is the mean of all
    expected = (values[:, segment].sum(1) + mass * values.mean(1)) / SEQ
    torch.testing.assert_close(own[:, LENGTH], expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("global_tokens", [0, 2])
def test_other_segments_are_far_away(global_tokens):
    tensors = drawn()
    table = torch.randn(3, 2 * LENGTH + 1, dtype=torch.float64)
    distances, i = Distances(table), torch.arange(SEQ)
    own = found(*tensors, distances=distances, global_tokens=global_tokens)
    same = i[:, None] // LENGTH == i // LENGTH
    far = torch.where(i < i[:, None], table[:, :1, None], table[:, -1:, None])
    exact = same | (i < global_tokens) | (i[:, None] < global_tokens)
    bias = torch.where(exact, distances.between(i, i), far)
    expected = written_out(*tensors, global_tokens=global_tokens, bias=bias)
    torch.testing.assert_close(own, expected, atol=1e-10, rtol=1e-10)
