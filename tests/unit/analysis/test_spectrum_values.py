"""Singular values against LAPACK's in float64, and the errors that are stated with them."""

import pytest
import torch
from torch import Tensor

from linformers.analysis import spectrum_values
from linformers.analysis.spectrum_values import (
    EachOnItsThread,
    gram_values,
    randomised_values,
    singular_values,
)

FAMILIES = ("soft", "sharp", "sink", "neighbours", "identity", "uniform", "low rank")


def attention(kind: str, n: int) -> Tensor:
    """A row-stochastic matrix; in 32 features, as of a head."""
    torch.manual_seed(1)
    scores = torch.randn(n, 32) @ torch.randn(32, n) / 32**0.5
    distance = (torch.arange(n)[:, None] - torch.arange(n)).abs().float()
    if kind == "sink":  # nearly all look at the first token
        scores[:, 0] += 10
    matrix = {
        "soft": scores,
        "sharp": 4 * scores,
        "sink": scores,
        "neighbours": -distance / 3,
        "identity": -1e9 * distance,
        "uniform": 0 * scores,
        "low rank": -((distance / 20) ** 2),  # falls below rounding
    }[kind]
    return matrix.softmax(-1)


def largest_difference(found: Tensor, matrix: Tensor) -> tuple[float, float]:
    """Of any cumulative share, and of the effective rank, relatively."""
    exact = torch.linalg.svdvals(matrix.double())
    shares, expected = found / found.sum(), exact / exact.sum()
    ranks = [torch.special.entr(x).sum().exp() for x in (shares, expected)]
    return float((shares.cumsum(0) - expected.cumsum(0)).abs().max()), float((ranks[0] / ranks[1] - 1).abs())


@pytest.mark.parametrize("n", [33, 256])  # reduced itself, and by way of its squares
@pytest.mark.parametrize("kind", FAMILIES)
def test_values_are_as_good_as_they_say(kind: str, n: int) -> None:
    matrix = attention(kind, n)
    found = singular_values(matrix, 16)
    difference, of_rank = largest_difference(found.values, matrix)
    assert found.values.dtype == torch.float64 and bool((found.values.diff() <= 0).all())
    assert difference <= found.error <= spectrum_values.GRAM_TOLERANCE
    assert of_rank < 0.03
    direct = singular_values(matrix, 16, exact=True)
    assert largest_difference(direct.values, matrix)[0] <= direct.error == spectrum_values.FLOOR


def test_where_squares_lose_too_much_the_matrix_itself_is_reduced() -> None:
    matrix = attention("uniform", 256)  # one value, and 255 that rounding makes
    assert gram_values(matrix).error > spectrum_values.GRAM_TOLERANCE
    assert singular_values(matrix, 16).error == spectrum_values.FLOOR


@pytest.mark.parametrize("kind", FAMILIES)
def test_randomised_values_are_as_good_as_they_say(kind: str) -> None:
    matrix = attention(kind, 512)
    found = randomised_values(matrix, 160)
    difference, of_rank = largest_difference(found.values, matrix)
    assert len(found.values) == 512
    assert difference <= found.error < 0.03
    assert of_rank < 0.05


def test_randomised_values_repeat_and_depend_on_the_seed() -> None:
    matrix = attention("sharp", 300)
    first = randomised_values(matrix, 100, seed=1).values
    assert torch.equal(first, randomised_values(matrix, 100, seed=1).values)
    assert not torch.equal(first, randomised_values(matrix, 100, seed=2).values)


def test_large_matrices_are_not_reduced_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum_values, "EXACT_UP_TO", 300)
    matrix = attention("sharp", 320)
    called = []
    monkeypatch.setattr(spectrum_values, "randomised_values", lambda *a, **b: called.append(a[1]) or gram_values(a[0]))
    singular_values(matrix, 8)
    assert called == [8 + spectrum_values.OVERSAMPLING]
    singular_values(matrix, 200)  # a range of more than half saves nothing
    singular_values(matrix, 8, exact=True)
    assert len(called) == 1


def test_threads_change_nothing_and_are_given_back() -> None:
    matrices = [attention(kind, 48) for kind in FAMILIES]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with EachOnItsThread() as pool:
                assert torch.get_num_threads() == 1
                futures = [pool.submit(singular_values, matrix, 8) for matrix in matrices]
                results.append([future.result().values for future in futures])
            assert torch.get_num_threads() == threads
            with pytest.raises(ZeroDivisionError), EachOnItsThread() as pool:
                pool.submit(lambda: 1 / 0).result()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
