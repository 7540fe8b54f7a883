"""Builders and comparisons shared by the attention tests."""

import itertools
import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from linformers.attention import KFreeAttention, LinformerAttention, SoftmaxAttention
from linformers.attention.reference import reference_attention

KINDS = ("linear", "mean_pool", "max_pool", "conv", "attention_pool", "cluster")
SHARINGS = ("none", "headwise", "key_value", "layerwise")
PATTERNS = ("none", "right", "left", "holes", "empty_row")

# Float64 rounding, with room for sums over 1,000 tokens; any mistake in the mathematics is 1e8 times larger.
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hidden(batch: int, seq: int, hidden_size: int, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(batch, seq, hidden_size, generator=generator(seed), dtype=torch.float64).to(dtype)


def make_mask(pattern: str, batch: int, seq: int, seed: int = 0) -> Tensor | None:
    """A mask whose rows keep different numbers of tokens, at least one each (row 0 of `empty_row`: none)."""
    if pattern == "none":
        return None
    positions = torch.arange(seq)
    lengths = torch.tensor([max(1, seq - (row * seq) // batch) for row in range(batch)])
    if pattern == "right":
        return positions < lengths[:, None]
    if pattern == "left":
        return positions >= seq - lengths[:, None]
    mask = torch.rand(batch, seq, generator=generator(seed)) < 0.6
    mask[torch.arange(batch), torch.arange(batch) % seq] = True
    if pattern == "empty_row":
        mask[0] = False
    return mask


def randomise(*modules: nn.Module, seed: int = 0) -> None:
    """Give every parameter values that hide nothing: no zero biases, no constant convolution kernels."""
    source = generator(seed)
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=source, dtype=torch.float64))


def make_linformer(
    kind: str = "linear",
    sharing: str = "key_value",
    *,
    max_length: int = 16,
    k: int = 5,
    window: int = 0,
    heads: int = 2,
    head_dim: int = 3,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> LinformerAttention:
    module = LinformerAttention(
        heads * head_dim,
        heads,
        max_length,
        k,
        projection_sharing=sharing,
        projection_kind=kind,
        local_window=window,
        **options,
    )
    randomise(module)
    return module.to(dtype)


def make_softmax(heads: int = 2, head_dim: int = 3, dtype: torch.dtype = torch.float64, **options: Any):
    module = SoftmaxAttention(heads * head_dim, heads, **options)
    randomise(module)
    return module.to(dtype)


def make_kfree(heads: int = 2, head_dim: int = 3, dtype: torch.dtype = torch.float64, **options: Any):
    module = KFreeAttention(heads * head_dim, heads, **options)
    randomise(module)
    return module.to(dtype)


def copy_feature_projections(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the query, key, value and output projections of `source`."""
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        target.get_submodule(name).load_state_dict(source.get_submodule(name).state_dict())


def assert_same_as_reference(
    module: nn.Module,
    x: Tensor,
    mask: Tensor | None = None,
    context: Tensor | None = None,
    parameters: Iterable[Tensor] | None = None,
) -> None:
    """Outputs, weights, and the gradients of the inputs and of every parameter, against `reference_attention`.

    The module is called as users call it: for outputs alone without and with gradients, and for the weights too.
    """
    # Keyword arguments only where given, so that the defaults are exercised as well.
    arguments = {name: value for name, value in (("attention_mask", mask), ("context", context)) if value is not None}
    inputs = [x.requires_grad_()] + ([] if context is None else [context.requires_grad_()])
    parameters = list(module.parameters() if parameters is None else parameters)
    expected, expected_weights = reference_attention(module, x, mask, context)
    output_grad = hidden(*expected.shape, dtype=expected.dtype, seed=7)
    weights_grad = torch.randn(expected_weights.shape, generator=generator(8), dtype=expected.dtype)

    def gradients(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, inputs + parameters, retain_graph=True, materialize_grads=True)

    with torch.no_grad():
        torch.testing.assert_close(module(x, **arguments), expected.detach(), **EXACT)
    output = module(x, **arguments)
    torch.testing.assert_close(output, expected, **EXACT)
    expected_gradients = gradients((expected * output_grad).sum())
    torch.testing.assert_close(gradients((output * output_grad).sum()), expected_gradients, **EXACT)

    output, weights = module(x, **arguments, return_weights=True)
    torch.testing.assert_close(output, expected, **EXACT)
    torch.testing.assert_close(weights, expected_weights, **EXACT)
    loss, expected_loss = (
        (y * output_grad).sum() + (p * weights_grad).sum() for y, p in ((output, weights), (expected, expected_weights))
    )
    torch.testing.assert_close(gradients(loss), gradients(expected_loss), **EXACT)


def pairwise(**factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Few combinations of the factors in which every two values of two factors meet at least once."""
    names = list(factors)
    missing = {(a, va, b, vb) for a, b in itertools.combinations(names, 2) for va in factors[a] for vb in factors[b]}
    draw = random.Random(0)
    cases: list[tuple[Any, ...]] = []
    while missing:
        a, va, b, vb = min(missing, key=repr)
        best: tuple[int, tuple[Any, ...]] = (-1, ())
        for _ in range(60):
            case = {name: draw.choice(factors[name]) for name in names} | {a: va, b: vb}
            covered = sum((p, case[p], q, case[q]) in missing for p, q in itertools.combinations(names, 2))
            best = max(best, (covered, tuple(case.values())), key=lambda pair: pair[0])
        cases.append(best[1])
        chosen = dict(zip(names, best[1], strict=True))
        missing -= {(p, chosen[p], q, chosen[q]) for p, q in itertools.combinations(names, 2)}
    return cases
