"""Experiments on the two theorems of Linformer, which ``linformers.analysis.theory`` states.

R is never drawn: what is asked of it depends on products with a few vectors, whose distribution is known. So
n and k can be large.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import chi2

DRAWS = 200


class Theorem1:
    """``P R^T R w`` against ``P w``, for many draws of R and any k.

    Given ``|R w|``, which is chi-distributed, the part of ``R^T R w`` across w is Gaussian: two draws of n numbers
    stand for k n.

    Args:
        attention: P.
        value: w, a column of the values.
        draws: of R.
        seed: of them; the same for every k, so that errors fall with k.
    """

    def __init__(
        self,
        attention: Float[np.ndarray, "rows n"],
        value: Float[np.ndarray, " n"],
        *,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        p, w = np.asarray(attention, np.float64), np.asarray(value, np.float64)
        across = rng.standard_normal((len(w), draws))
        across -= np.outer(w, w @ across) / (w @ w)
        self.exact, self.across = p @ w, p @ across
        self.luck = rng.uniform(size=draws)
        self.size = float(np.linalg.norm(w))
        self.row_sizes = np.linalg.norm(p, axis=1)
        self.ratio = float(np.linalg.norm(self.row_sizes) * self.size / np.linalg.norm(self.exact))
        """``|P|_F |w| / |P w|``: what decides whether the theorem holds as it is stated."""

    def differences(self, k: int) -> Float[np.ndarray, "rows draws"]:
        """``P R^T R w - P w``."""
        share = chi2.ppf(self.luck, k) / k  # |R w|^2 / |w|^2
        return np.outer(self.exact, share - 1) + np.sqrt(share / k) * self.size * self.across

    def stated(self, k: int) -> Float[np.ndarray, " draws"]:
        """Errors relative to ``|P w|``: what theorem 1 bounds by epsilon."""
        return np.linalg.norm(self.differences(k), axis=0) / np.linalg.norm(self.exact)

    def by_rows(self, k: int) -> Float[np.ndarray, " draws"]:
        """The largest error of a row p relative to ``|p| |w|``: what the lemma bounds by epsilon."""
        return np.abs(self.differences(k) / (self.row_sizes * self.size)[:, None]).max(0)


@dataclass(frozen=True)
class Theorem2Errors:
    """Sizes of the difference to ``softmax(w) V``, over draws of R.

    Args:
        linear: of ``softmax(w) R^T R V``, which the proof passes through.
        construction: of ``softmax(w E^T) F V`` with E = delta R and F = exp(-delta) R.
    """

    linear: Float[np.ndarray, " draws"]
    construction: Float[np.ndarray, " draws"]


class Theorem2:
    """The attention of one query through the proof's E and F.

    It depends on R by its products with w, softmax(w) and V alone, whose rows are Gaussian with the Gram matrix of
    those vectors.

    Args:
        scores: w, a row of ``Q K^T / sqrt(d)``.
        values: V.
        draws: of R.
        seed: of them.
    """

    def __init__(
        self,
        scores: Float[np.ndarray, " n"],
        values: Float[np.ndarray, "n d"],
        *,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> None:
        self.draws, self.seed = draws, seed
        w, v = np.asarray(scores, np.float64), np.asarray(values, np.float64)
        weights = _softmax(w)
        vectors = np.column_stack([w, weights, v])
        squares, directions = np.linalg.eigh(vectors.T @ vectors)
        self.root = directions * np.sqrt(np.clip(squares, 0, None)) @ directions.T
        self.exact = weights @ v
        self.norm = float(np.linalg.norm(self.exact))
        """Size of ``softmax(w) V``, which is also the error of answering 0."""
        size = float(np.linalg.norm(weights))
        self.spectral = size * float(np.linalg.norm(v, 2))
        """``|softmax(w)| |V|`` with the largest singular value of V."""
        self.frobenius = size * float(np.linalg.norm(v))
        """``|softmax(w)| |V|`` with the Frobenius norm; ``spectral`` times up to sqrt(d)."""

    def errors(self, k: int, delta: float) -> Theorem2Errors:
        """Draw R ``draws`` times."""
        rng = np.random.default_rng(self.seed)
        linear, construction = np.empty(self.draws), np.empty(self.draws)
        for i in range(self.draws):
            products = rng.standard_normal((k, len(self.root))) @ self.root / math.sqrt(k)
            scores, weights, values = products[:, 0], products[:, 1], products[:, 2:]
            linear[i] = np.linalg.norm(weights @ values - self.exact)
            through = math.exp(-delta) * _softmax(delta * scores) @ values
            construction[i] = np.linalg.norm(through - self.exact)
        return Theorem2Errors(linear, construction)


def _softmax(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    x = np.exp(x - x.max())
    return x / x.sum()


def needed_dim(errors: Callable[[int], np.ndarray], epsilon: float, *, failure: float = 0.05) -> int:
    """The smallest k for which all but a share of ``failure`` of the errors are at most ``epsilon``.

    Args:
        errors: of a k, over draws; falling with k.
        epsilon: the bound.
        failure: share of draws that may exceed it.

    Raises:
        ValueError: not even a k of 2^30 is enough.
    """

    def enough(k: int) -> bool:
        return bool(np.quantile(errors(k), 1 - failure) <= epsilon)

    high = 1
    while not enough(high):
        high *= 2
        if high > 2**30:
            raise ValueError(f"epsilon={epsilon} is out of reach: the errors do not fall with k.")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class Growth:
    """Two laws for how a needed k grows with n, by least squares.

    Args:
        slope: b of ``k = a + b ln n``.
        intercept: a of it.
        log_r2: share of the variance of k that it explains.
        exponent: c of ``k = e n^c``.
    """

    slope: float
    intercept: float
    log_r2: float
    exponent: float


def fit_growth(lengths: Sequence[int] | Int[np.ndarray, " m"], dims: Sequence[int] | Float[np.ndarray, " m"]) -> Growth:
    """Fit both laws.

    Raises:
        ValueError: fewer than three lengths.
    """
    if len(lengths) < 3:
        raise ValueError(f"{len(lengths)} lengths are too few for a fit: give three or more.")
    x, k = np.log(np.asarray(lengths, np.float64)), np.asarray(dims, np.float64)
    slope, intercept = np.polyfit(x, k, 1)
    spread = float(((k - k.mean()) ** 2).sum())
    r2 = 1 - float(((k - intercept - slope * x) ** 2).sum()) / spread if spread > 0 else 1.0
    return Growth(float(slope), float(intercept), r2, float(np.polyfit(x, np.log(k), 1)[0]))
