"""The two theorems of Linformer (arXiv 2006.04768, section 3 and 4.1), as numbers.

Both rest on a random R of shape (k, n), entries N(0, 1/k): ``R^T R`` is nearly the identity for a few vectors at a
time (Johnson and Lindenstrauss). What that gives for a row p of P and a column w is
``|p R^T R w - p w| <= epsilon |p| |w|``. Theorem 1 says more: relative to ``|P w|``. For Gaussian R exactly

    E |P R^T R w - P w|^2 = (|P|_F^2 |w|^2 + |P w|^2) / k,

so as stated it takes ``k`` near ``(ratio^2 + 1) / epsilon^2`` with ``ratio = |P|_F |w| / |P w|``, which log n bounds
only where the ratio is small: not for the identity (ratio sqrt(n)), nor for uniform attention over values of mean zero.

Theorem 2's construction, E = delta R and F = exp(-delta) R, makes all k slots alike as delta goes to 0, whatever the
scores are: its output tends to the mean of R's rows times V, which has nothing to do with the attention. Logarithms are
natural, and the constants hidden by Theta are taken as 1.
"""

import math
from dataclasses import dataclass

from linformers.checks import check_int


def theorem_1_dim(n: int, epsilon: float) -> int:
    """``k = 5 ln(n) / (epsilon^2 - epsilon^3)``, as in the proof of theorem 1.

    Raises:
        ValueError: ``n`` below 2, or ``epsilon`` not between 0 and 1.
    """
    check_int("n", n, minimum=2)
    return math.ceil(5 * math.log(n) / _gap(epsilon))


def theorem_1_failure(n: int, epsilon: float, k: int) -> float:
    """The proof's bound on the probability that it fails: ``2 n exp(-(epsilon^2 - epsilon^3) k / 4)``, at most 1.

    At ``theorem_1_dim`` it is ``2 n^(-1/4)``: 0.42 at n = 512, below 0.05 only from n = 2.6 million on.
    """
    return min(1.0, 2 * n * math.exp(-_gap(epsilon) * k / 4))


@dataclass(frozen=True)
class Theorem2Dims:
    """``9 d ln(d) / epsilon^2`` and ``5 ln(n) / epsilon^2``, of which the smaller is k."""

    by_features: int
    by_tokens: int

    @property
    def projected_dim(self) -> int:
        """Theorem 2's k."""
        return min(self.by_features, self.by_tokens)


def theorem_2_dims(n: int, d: int, epsilon: float) -> Theorem2Dims:
    """Both sides of theorem 2's minimum, for n tokens and d features of a head.

    With d = 64 the first, which does not depend on n, is the smaller one only from ``n > d^(9 d / 5)``, about 10^208: a
    k independent of n is a statement about no sequence there is.

    Raises:
        ValueError: a size below 2, or ``epsilon`` not between 0 and 1.
    """
    check_int("n", n, minimum=2)
    check_int("d", d, minimum=2)
    _gap(epsilon)
    return Theorem2Dims(math.ceil(9 * d * math.log(d) / epsilon**2), math.ceil(5 * math.log(n) / epsilon**2))


def _gap(epsilon: float) -> float:
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon={epsilon} must be between 0 and 1.")
    return epsilon**2 - epsilon**3
