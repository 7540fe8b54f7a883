"""A bias for the distance of two tokens, against its formula written out."""

import pytest
import torch

from linformers.attention.distances import Distances


def drawn(seq: int, count: int = 5, reach: int = 8, dtype: torch.dtype = torch.float64):
    """A table for two heads, the slot of each token, and shares that sum to one in each slot; the first has none."""
    table = torch.randn(2, 2 * reach + 1, dtype=dtype, requires_grad=True)
    slots = torch.randint(0, count, (3, 2, seq))
    weights = torch.rand(3, 2, seq, dtype=dtype)
    weights[..., 0] = 0
    sums = torch.zeros(3, 2, count, dtype=dtype).scatter_add(2, slots, weights)
    shares = (weights / sums.gather(2, slots).clamp(min=1e-9)).requires_grad_()
    return Distances(table), slots, shares


def written_out(distances: Distances, seq: int) -> torch.Tensor:
    """(heads, seq, seq)."""
    rows = [
        [distances.table[:, min(max(j - i, -distances.reach), distances.reach) + distances.reach] for j in range(seq)]
        for i in range(seq)
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], 1)


@pytest.mark.parametrize("seq", [1, 7, 8, 9, 17, 40])
@pytest.mark.parametrize("window", [0, 1, 11])
def test_slots_are_raised_by_the_mean_over_their_tokens(seq, window):
    distances, slots, shares = drawn(seq)
    near = (torch.arange(seq) - torch.arange(seq)[:, None]).abs() <= window
    raised = written_out(distances, seq).exp() * (~near if window else 1)
    belongs = shares[..., None] * (slots[..., None] == torch.arange(5))
    mass = torch.einsum("hij,bhjk->bhik", raised, belongs)
    found = distances.of_slots(slots, shares, 5, window)
    torch.testing.assert_close(found.exp(), mass)
    assert (found.isneginf() == (mass == 0)).all()

    weight = torch.randn_like(mass) * (mass > 0)  # of nothing there is no logarithm, and no gradient
    inputs = (distances.table, shares)
    gradients = [torch.autograd.grad((x * weight).sum(), inputs) for x in (mass, found.exp())]
    assert all(x.isfinite().all() for x in gradients[1])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("seq", [1, 8, 30])
def test_pairs_of_tokens(seq):
    distances = drawn(seq)[0]
    expected = written_out(distances, seq)
    places = torch.arange(seq)
    torch.testing.assert_close(distances.of_all(seq)[0], expected)
    torch.testing.assert_close(distances.between(places, places), expected)
    torch.testing.assert_close(distances.between(places[:3], places), expected[:, :3])
