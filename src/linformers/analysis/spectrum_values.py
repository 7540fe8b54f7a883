"""Singular values of square matrices, many at a time: exact where they are small, randomised above, with their error.

LAPACK's reduction of one matrix gains next to nothing from a second thread, so each thread takes a matrix of its own.
A small matrix P is reduced by way of ``P^T P``, which takes half of the time and loses singular values below 1e-4 of
the largest; how much that matters is read off the eigenvalues, which cannot be negative and would not be without
rounding, and where it matters P itself is reduced.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

DIRECT_UP_TO, EXACT_UP_TO = 128, 1024
GRAM_TOLERANCE, GRAM_PARTS = 0.02, 4
FLOOR = 1e-5  # of anything made of float32 matrices
RANGE_ERROR = 3e-3  # of a range that is only nearly invariant; seen: 1.7e-3
PROBES, LANCZOS_STEPS, OVERSAMPLING = 16, 32, 128


@dataclass(frozen=True)
class Values:
    """Singular values, descending, in float64; and how far a cumulative share of them may be off."""

    values: Float[Tensor, " n"]
    error: float


def singular_values(matrix: Float[Tensor, "n n"], index: int, *, exact: bool = False, seed: int = 0) -> Values:
    """Singular values of one matrix.

    Args:
        matrix: square.
        index: cumulative shares up to here should be as good as those of an exact method.
        exact: reduce the matrix itself, whatever its size: O(n^3).
        seed: Seed of the randomised method.
    """
    n = matrix.shape[0]
    if exact or n <= DIRECT_UP_TO:
        return direct_values(matrix)
    if n > EXACT_UP_TO and index + OVERSAMPLING <= n // 2:
        return randomised_values(matrix, index + OVERSAMPLING, seed=seed)
    found = gram_values(matrix)
    return found if found.error <= GRAM_TOLERANCE else direct_values(matrix)


def direct_values(matrix: Float[Tensor, "n n"]) -> Values:
    """LAPACK's reduction of the matrix itself, in float64."""
    return Values(torch.linalg.svdvals(matrix.double()), FLOOR)


def gram_values(matrix: Float[Tensor, "n n"]) -> Values:
    """Square roots of the eigenvalues of ``P^T P``.

    The error is that of a spectrum whose squares are all off by as much as the most negative eigenvalue is below zero:
    four to thirty times what was seen on attention matrices.
    """
    squares = torch.linalg.eigvalsh(_lower_gram(matrix)).flip(0).double()
    noise = (-squares[-1]).clamp(min=0)
    squares = squares.clamp(min=0)
    values = squares.sqrt()
    error = ((squares + noise).sqrt() - values).sum() / values.sum()
    return Values(values, float(error) + FLOOR)


def _lower_gram(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """``P^T P`` where eigvalsh reads it, on and below the diagonal; five eighths of the product."""
    n = matrix.shape[0]
    found, width = torch.zeros_like(matrix), max(n // GRAM_PARTS, 1)
    for start in range(0, n, width):
        columns = slice(start, start + width)
        found[start:, columns] = matrix[:, start:].T @ matrix[:, columns]
    return found


def randomised_values(matrix: Float[Tensor, "n n"], rank: int, *, seed: int = 0) -> Values:
    """The first ``rank`` values by a randomised range finder, the others by stochastic Lanczos quadrature of the rest.

    Halko et al. (arXiv 0909.4061, algorithm 4.4, two power iterations), then Golub-Kahan bidiagonalisation of what is
    left, ``R = P - Q Q^T P``, from random vectors; its squares are scaled to the norm of R, which is known. So each of
    the last values is a mean over the quantile that it stands for. O(n^2 rank). The error is twice the standard error
    over the random vectors, and a constant for the range.
    """
    n = matrix.shape[0]
    generator = torch.Generator(matrix.device).manual_seed(seed)

    def draw(columns: int) -> Tensor:
        return torch.randn(n, columns, generator=generator, device=matrix.device, dtype=matrix.dtype)

    basis, _ = torch.linalg.qr(matrix @ draw(rank))
    for _ in range(2):
        basis, _ = torch.linalg.qr(matrix @ (matrix.T @ basis))
    inside = basis.T @ matrix
    first = torch.linalg.svdvals(inside).double()
    rest = matrix - basis @ inside
    left = rest.square().sum(dtype=torch.float64)
    if left.sqrt() <= 1e-6 * first[0]:  # nothing but rounding
        return Values(torch.cat([first, first.new_zeros(n - rank)]), FLOOR)
    start = draw(PROBES)
    nodes, weights = _quadrature(rest, start - basis @ (basis.T @ start))
    count = n - rank
    nodes = nodes * (left / (count * (weights * nodes.square()).sum(1).mean())).sqrt()
    sums = count * (weights * nodes).sum(1)
    nodes, order = nodes.flatten().sort(descending=True)
    widths = weights.flatten()[order] / PROBES
    edges = torch.cat([widths.new_zeros(1), widths.cumsum(0)]) / widths.sum()
    area = torch.cat([nodes.new_zeros(1), (widths * nodes).cumsum(0)])
    last = count * _interpolate(torch.arange(count + 1, dtype=torch.float64) / count, edges.cpu(), area.cpu()).diff()
    values = torch.cat([first.cpu(), last]).sort(descending=True).values
    error = 2 * float(sums.std()) / PROBES**0.5 / float(values.sum())
    return Values(values, error + RANGE_ERROR)


def _quadrature(
    matrix: Float[Tensor, "n n"], start: Float[Tensor, "n probes"]
) -> tuple[Float[Tensor, "probes steps"], Float[Tensor, "probes steps"]]:
    """Nodes (singular values) and weights of a matrix's spectrum as each starting vector sees it."""
    tiny = torch.finfo(matrix.dtype).tiny

    def unit(x: Tensor) -> tuple[Tensor, Tensor]:
        size = x.norm(dim=0)
        return x / size.clamp(min=tiny), size

    u, _ = unit(start)
    v, alpha = unit(matrix.T @ u)
    diagonal, below = [alpha], []
    for _ in range(LANCZOS_STEPS - 1):
        u, beta = unit(matrix @ v - alpha * u)
        v, alpha = unit(matrix.T @ u - beta * v)
        diagonal.append(alpha)
        below.append(beta)
    bidiagonal = torch.diag_embed(torch.stack(diagonal, 1)) + torch.diag_embed(torch.stack(below, 1), -1)
    vectors, nodes, _ = torch.linalg.svd(bidiagonal.double())
    return nodes, vectors[:, 0].square()


def _interpolate(x: Tensor, edges: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear."""
    right = torch.searchsorted(edges, x).clamp(1, len(edges) - 1)
    low, high = edges[right - 1], edges[right]
    share = (x - low) / (high - low).clamp(min=1e-300)
    return values[right - 1] + share.clamp(0, 1) * (values[right] - values[right - 1])


class EachOnItsThread:
    """Runs calls on so many threads as torch had, each of them alone; holds few calls at a time, as each has a matrix.

    While it is open, torch itself uses one thread: the results are the same for every number of them.
    """

    def __enter__(self) -> "EachOnItsThread":
        self.threads: int = torch.get_num_threads()
        torch.set_num_threads(1)
        self.pool: ThreadPoolExecutor | None = None
        if self.threads > 1:
            self.pool = ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))
            self.room: BoundedSemaphore = BoundedSemaphore(2 * self.threads)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self.threads)

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Run it soon, or now where there is one thread only."""
        if self.pool is None:
            done: Future[Any] = Future()
            done.set_result(function(*arguments, **options))
            return done
        self.room.acquire()
        future = self.pool.submit(torch.inference_mode()(function), *arguments, **options)
        future.add_done_callback(lambda _: self.room.release())
        return future
