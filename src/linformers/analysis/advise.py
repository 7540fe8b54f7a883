"""Which k does each layer need? Measured on the model and text at hand, for a conversion.

Singular values say how well a map could be compressed by the best E for that one text; a converted model has one way
to compress all texts. So beside the paper's criterion (a share of the spectrum) stand two that measure conversion
itself: the error of a layer's attention, and the error of the last hidden states when one layer is compressed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedModel

from linformers.analysis.spectrum import SpectrumSums, check_lengths, cut_windows, measure_windows
from linformers.analysis.stack import KIND, Dims, Stack
from linformers.checks import check_int
from linformers.convert.load import find_tokenizer, load_teacher

GRID = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2)  # of the length
ROUNDS, STEPS = 2, 64
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Slots for each layer.

    Args:
        projected_dim: Slots for ``linearise`` or ``configure``; None = this layer should stay as it is.
        target: Quantity that was asked for: ``mass``, ``error`` or ``mean_dim``.
        value: Its value.
        length: Tokens of the texts it was measured on.
        local_window: Window, as it was measured with.
        global_tokens: Global tokens, likewise.
        grid: Slots at which ``errors`` were measured.
        layers: Layers that can have slots; the others read a window of the model's own, and go on to.
        errors: Errors of each of these, by ``target``: the share of the spectrum left out; the relative error of its
            attention's output; or that of the last hidden states when it alone is changed from what the others have.
        hidden_error: Relative error of the last hidden states of the whole converted model, on the same texts.
        uniform_error: The same with the mean of ``projected_dim`` in every layer; None where layers keep softmax.
    """

    projected_dim: Dims
    target: str
    value: float
    length: int
    local_window: int
    global_tokens: int
    grid: tuple[int, ...]
    layers: tuple[int, ...]
    errors: Float[np.ndarray, "layers grid"]
    hidden_error: float
    uniform_error: float | None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of ``linearise``, ``configure`` or ``to_linformer``."""
        return {
            "projected_dim": list(self.projected_dim),
            "projection_kind": KIND,
            "local_window": self.local_window,
            "global_tokens": self.global_tokens,
        }


def advise_projected_dims(
    model: PreTrainedModel | str | Path,
    texts: Iterable[str],
    *,
    target_mass: float | None = None,
    target_error: float | None = None,
    mean_dim: int | None = None,
    tokenizer: Any = None,
    length: int = 512,
    max_texts: int = 8,
    windows_per_text: int = 1,
    local_window: int = 0,
    global_tokens: int = 1,
    on_progress: Progress | None = None,
) -> Advice:
    """Find slots for each layer of an encoder to be converted with slots that follow the content (``cluster``).

    >>> texts = ["It was a grim film about the old road, and the day was good. " * 20]
    >>> advice = advise_projected_dims("my-encoder", texts, target_mass=0.9, length=48)
    >>> len(advice.projected_dim)  # a number for each layer
    2

    Exactly one target. A layer that would need more than half of ``length`` keeps softmax attention. All texts are read
    by slots, also those that the converted model will read by softmax attention as they are short (``exact_length``).

    Args:
        model: Encoder of text whose attention can be set (``configure`` takes it), or its folder.
        texts: Texts, read until there are enough; those with fewer than ``length`` tokens are passed over.
        target_mass: Share of the sum that as many singular values as there are slots have at least (the paper's).
        target_error: Relative error of each layer's attention at most; the fewest slots that do.
        mean_dim: Mean slots of a layer; their split that gives the smallest error of the last hidden states.
        tokenizer: Tokenizer of the model; None = the one in its folder.
        length: Tokens of a text, special tokens included.
        max_texts: Texts to measure.
        windows_per_text: Stretches of ``length`` tokens to take of one text at most.
        local_window: Window, as of ``configure``.
        global_tokens: Global tokens, as of ``configure``.
        on_progress: Function called with the measurements done and their number.

    Raises:
        TypeError: Texts that are one str, or a number of the wrong type.
        ValueError: None or several targets, one out of range, text that is too short, or a model that cannot be
            converted or whose layers cannot have slots of their own.
        OSError: No such model.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be a list of texts, got one str: put it in a list.")
    target, value = _target(target_mass, target_error, mean_dim, length)
    if isinstance(model, str | Path):
        tokenizer = tokenizer or find_tokenizer(model)
        model = load_teacher(model)
    stack = Stack(model, local_window, global_tokens)
    if tokenizer is None:
        raise ValueError("tokenizer is missing: give the model's tokenizer.")
    check_lengths(model, length, 1)
    stack.take(cut_windows(texts, tokenizer, length, max_texts, windows_per_text).ids)
    grid, layers = slot_grid(length), len(stack.free)
    note = _Counter(on_progress, layers if target != "mean_dim" else layers * ROUNDS, len(stack.ids))
    if target == "mass":
        dims, errors = _by_mass(stack, value, grid, note)
    elif target == "error":
        dims, errors = _by_attention(stack, value, grid, note)
    else:
        dims, errors = _by_hidden_states(stack, int(value), grid, note)
    kept = [k for k in dims if k is not None]
    uniform = None
    if len(kept) == layers:
        uniform = stack.error(stack.all_at(max(1, round(sum(kept) / layers))))
    return Advice(
        projected_dim=dims,
        target=target,
        value=value,
        length=length,
        local_window=local_window,
        global_tokens=global_tokens,
        grid=grid,
        layers=stack.free,
        errors=errors,
        hidden_error=stack.error(dims),
        uniform_error=uniform,
    )


def slot_grid(length: int) -> tuple[int, ...]:
    """Slots to measure at; up to half of the length, beyond which a layer gains little over softmax attention."""
    return tuple(sorted({max(1, round(length * share)) for share in GRID}))


def _target(mass: float | None, error: float | None, mean_dim: int | None, length: int) -> tuple[str, float]:
    given = {"target_mass": mass, "target_error": error, "mean_dim": mean_dim}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise ValueError(f"{' and '.join(chosen) or 'no target'}: give exactly one of {', '.join(given)}.")
    if mean_dim is not None:
        check_int("mean_dim", mean_dim)
        low, high = slot_grid(length)[0], slot_grid(length)[-1]
        if not low <= mean_dim <= high:
            raise ValueError(f"mean_dim={mean_dim} must be between {low} and {high} at length={length}.")
        return "mean_dim", float(mean_dim)
    (name,), (value,) = chosen, [value for value in given.values() if value is not None]
    if not 0 < value < 1:
        raise ValueError(f"{name}={value} must be between 0 and 1.")
    return name.removeprefix("target_"), float(value)


class _Counter:
    """Counts measurements, one for each layer, text and round."""

    def __init__(self, call: Progress | None, layers: int, texts: int) -> None:
        self.call, self.whole, self.done = call, layers * texts, 0

    def __call__(self, count: int = 1) -> None:
        self.done += count
        if self.call is not None:
            self.call(min(self.done, self.whole), self.whole)


def _by_mass(stack: Stack, mass: float, grid: Sequence[int], note: _Counter) -> tuple[Dims, np.ndarray]:
    sums = SpectrumSums(index=1)
    with stack.softmax() as model:
        measure_windows(model, stack.ids.numpy(force=True), sums, on_text=lambda done, whole: note(note.whole // whole))
    found, free = sums.spectrum(), list(stack.free)
    dims = np.array(found.smallest_dims(mass))[free].tolist()
    left_out = 1 - found.curves.mean(1)[free][:, np.array(grid) - 1]
    return stack.with_free([k if k <= grid[-1] else None for k in dims]), left_out


def _by_attention(stack: Stack, bound: float, grid: Sequence[int], note: _Counter) -> tuple[Dims, np.ndarray]:
    """The smallest k within the bound: on the grid first, then by halves between two of its points."""
    errors = np.empty((len(stack.free), len(grid)))
    dims: list[int | None] = []
    for row, (layer, inputs) in enumerate(stack.exact_inputs()):
        error = stack.attention_error(layer, inputs)
        errors[row] = [error(k) for k in grid]
        note(len(stack.ids))
        enough = np.flatnonzero(errors[row] <= bound)
        if not len(enough):
            dims.append(None)
            continue
        high, low = grid[enough[0]], grid[enough[0] - 1] if enough[0] else 0
        while high - low > max(1, grid[-1] // STEPS):
            middle = (low + high) // 2
            low, high = (low, middle) if error(middle) <= bound else (middle, high)
        dims.append(high)
    return stack.with_free(dims), errors


def _by_hidden_states(stack: Stack, mean_dim: int, grid: Sequence[int], note: _Counter) -> tuple[Dims, np.ndarray]:
    """Split the slots by what each layer's do for the last hidden states, beside the others as they are.

    Errors of layers about add up as squares, which makes the best split a knapsack. But not wholly: so the second round
    measures around the best that the first found, and what is kept is the best of all by the error of the whole model.
    """
    best = stack.all_at(mean_dim)
    best_error, shown = stack.error(best), None
    around = stack.clean
    for _ in range(ROUNDS):
        errors = stack.errors_around(around, grid, note)
        shown = errors if shown is None else shown
        dims = stack.with_free(split_slots(errors**2, grid, mean_dim))
        error = stack.error(dims)
        if error < best_error:
            best, best_error = dims, error
        around = best
    assert shown is not None
    return best, shown


def split_slots(costs: Float[np.ndarray, "layers grid"], grid: Sequence[int], mean_dim: int) -> tuple[int, ...]:
    """Split ``layers * mean_dim`` slots so that the sum of costs is smallest, by dynamic programming.

    Costs between points of the grid are interpolated, logarithm against logarithm.
    """
    layers = len(costs)
    step = max(1, grid[-1] // STEPS)
    dims = np.arange(grid[0], grid[-1] + 1, step)
    costs = np.maximum(costs, 1e-30)
    dense = np.exp([np.interp(np.log(dims), np.log(grid), np.log(row)) for row in costs])
    budget = (layers * mean_dim - layers * grid[0]) // step  # beyond the least that each layer has
    best, choices = np.zeros(budget + 1), []
    for row in dense:
        options = np.full((len(row), budget + 1), np.inf)
        for extra, cost in enumerate(row[: budget + 1]):
            options[extra, extra:] = best[: budget + 1 - extra] + cost
        choices.append(options.argmin(0))
        best = options.min(0)
    left, found = int(best.argmin()), []
    for choice in reversed(choices):
        found.append(int(dims[choice[left]]))
        left -= int(choice[left])
    return tuple(reversed(found))
