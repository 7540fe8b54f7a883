"""Experiments on the theorems against drawing R."""

import math

import numpy as np
import pytest
from theorem_draws import Theorem1, Theorem2, fit_growth, needed_dim

from linformers.analysis.theory import theorem_1_dim


def attention(n: int, sharpness: float = 3.0) -> np.ndarray:
    q, k = np.random.default_rng(0).standard_normal((2, n, 64))
    weights = np.exp(sharpness * q @ k.T / 8)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fit_growth([1, 2], [1, 2]), "2 lengths are too few"),
        (lambda: needed_dim(lambda k: np.ones(5), 0.5), "out of reach"),
    ],
)
def test_errors(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize("k", [6, 50])
def test_theorem_1_draws_are_those_of_a_random_matrix(k: int) -> None:
    n, draws = 40, 3000
    rng = np.random.default_rng(1)
    p, w = attention(n), rng.standard_normal(n) + 0.3
    found = Theorem1(p, w, draws=draws)
    r = rng.standard_normal((draws, k, n)) / math.sqrt(k)
    difference = np.einsum("mn,bkn,bk->bm", p, r, r @ w) - p @ w
    stated = np.linalg.norm(difference, axis=1) / np.linalg.norm(p @ w)
    rows = np.abs(difference / (np.linalg.norm(p, axis=1) * np.linalg.norm(w))).max(1)
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    np.testing.assert_allclose(np.quantile(found.stated(k), levels), np.quantile(stated, levels), rtol=0.08)
    np.testing.assert_allclose(np.quantile(found.by_rows(k), levels), np.quantile(rows, levels), rtol=0.08)
    assert np.mean(found.stated(k) ** 2) == pytest.approx((found.ratio**2 + 1) / k, rel=0.1)


@pytest.mark.parametrize("delta", [0.01, 1.0])
def test_theorem_2_draws_are_those_of_a_random_matrix(delta: float) -> None:
    n, d, k, draws = 40, 5, 12, 3000
    rng = np.random.default_rng(1)
    scores, values = 2 * rng.standard_normal(n), rng.standard_normal((n, d)) + 0.5
    found = Theorem2(scores, values, draws=draws)
    errors = found.errors(k, delta)

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    r = rng.standard_normal((draws, k, n)) / math.sqrt(k)
    exact = softmax(scores) @ values
    linear = np.linalg.norm(np.einsum("bk,bkd->bd", r @ softmax(scores), r @ values) - exact, axis=1)
    through = np.einsum("bk,bkd->bd", softmax(delta * r @ scores), math.exp(-delta) * r @ values)
    levels = [0.05, 0.5, 0.95]
    np.testing.assert_allclose(np.quantile(errors.linear, levels), np.quantile(linear, levels), rtol=0.08)
    construction = np.linalg.norm(through - exact, axis=1)
    np.testing.assert_allclose(np.quantile(errors.construction, levels), np.quantile(construction, levels), rtol=0.08)
    assert found.norm == pytest.approx(np.linalg.norm(exact)) and found.norm <= found.spectral <= found.frobenius


def test_what_holds_grows_with_the_logarithm_and_what_is_stated_with_n() -> None:
    lengths, epsilon = [64, 128, 256, 512], 0.3
    rng = np.random.default_rng(2)
    trials = [Theorem1(attention(n), rng.standard_normal(n)) for n in lengths]
    rows = [needed_dim(trial.by_rows, epsilon) for trial in trials]
    stated = [needed_dim(trial.stated, epsilon) for trial in trials]
    assert all(k < theorem_1_dim(n, epsilon) for n, k in zip(lengths, rows, strict=True))
    assert fit_growth(lengths, rows).exponent < 0.3
    assert all(k > n for n, k in zip(lengths, stated, strict=True))
    assert fit_growth(lengths, stated).exponent > 0.7
    identity = Theorem1(np.eye(256), rng.standard_normal(256))
    assert identity.ratio == pytest.approx(16) and needed_dim(identity.stated, epsilon) > 256 / epsilon**2


def test_needed_dim_and_fit_by_hand() -> None:
    def errors(k: int) -> np.ndarray:
        return np.arange(100) / k

    k = needed_dim(errors, 0.5)
    assert np.quantile(errors(k), 0.95) <= 0.5 < np.quantile(errors(k - 1), 0.95)
    assert needed_dim(lambda k: np.zeros(3), 0.5) == 1
    lengths = np.array([64, 128, 256, 512])
    growth = fit_growth(lengths, 7 + 3 * np.log(lengths))
    assert (growth.slope, growth.intercept, growth.log_r2) == pytest.approx((3, 7, 1))
    assert fit_growth(lengths, 2 * lengths**0.8).exponent == pytest.approx(0.8)
