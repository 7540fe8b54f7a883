"""The theorems' numbers by hand."""

import math

import pytest

from linformers.analysis.theory import theorem_1_dim, theorem_1_failure, theorem_2_dims


def test_dims() -> None:
    assert theorem_1_dim(512, 0.5) == math.ceil(5 * 6.2383246 / 0.125) == 250
    assert theorem_1_dim(512, 0.1) == 3466  # far above n
    assert theorem_1_failure(512, 0.5, 250) == pytest.approx(2 * 512**-0.25, rel=0.02)
    assert theorem_1_failure(512, 0.5, 10) == 1
    dims = theorem_2_dims(512, 64, 0.5)
    assert (dims.by_features, dims.by_tokens) == (math.ceil(9 * 64 * math.log(64) / 0.25), 125)
    assert dims.projected_dim == 125
    assert theorem_2_dims(10**300, 64, 0.5).projected_dim == dims.by_features


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: theorem_1_dim(1, 0.5), "n must be at least 2, got 1"),
        (lambda: theorem_1_dim(8, 1.0), "epsilon=1.0 must be between 0 and 1"),
        (lambda: theorem_2_dims(8, 1, 0.5), "d must be at least 2, got 1"),
        (lambda: theorem_2_dims(8, 4, 0.0), "epsilon=0.0"),
    ],
)
def test_errors(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
