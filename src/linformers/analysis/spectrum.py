"""Is attention low-rank? The singular values of an encoder's attention maps on given text (Linformer, Figure 1)."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from transformers import PreTrainedModel

from linformers.analysis.spectrum_maps import visit_maps
from linformers.analysis.spectrum_values import EachOnItsThread, Values, singular_values
from linformers.checks import check_int
from linformers.convert.load import longest_input
from linformers.data.tokenise import TextEncoder
from linformers.training.loading import load_encoder, load_tokenizer

RESAMPLES = 2000


@dataclass(frozen=True)
class Trend:
    """Spearman's correlation of a head's mean effective rank with the index of its layer.

    ``low`` to ``high`` is its 95% interval over other draws of the texts; ``p_value`` is two-sided, over random
    assignments of the heads to the layers.
    """

    correlation: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Singular values of attention maps, as shares of their sum (the nuclear norm).

    Args:
        layers: index in the model of each layer measured.
        curves: mean over texts of the share that the first i + 1 singular values have.
        shares: Shares of the first ``index`` of them, for each text.
        effective_ranks: exp of the entropy of the shares (Roy and Vetterli, 2007), for each text.
        index: see ``shares``; 128 in the paper's heat map.
        error: estimate of how far a text's share may be off, as a mean over all maps.
        largest_error: the worst of them.
    """

    layers: tuple[int, ...]
    curves: Float[np.ndarray, "layers heads n"]
    shares: Float[np.ndarray, "texts layers heads"]
    effective_ranks: Float[np.ndarray, "texts layers heads"]
    index: int
    error: float
    largest_error: float

    @property
    def length(self) -> int:
        """Tokens of a text."""
        return self.curves.shape[-1]

    @property
    def texts(self) -> int:
        """How many were measured."""
        return len(self.shares)

    def smallest_dims(self, mass: float) -> list[int]:
        """For each layer, how many singular values have this share of the mass, as a mean over heads and texts."""
        return [int(np.searchsorted(curve, mass - 1e-12)) + 1 for curve in self.curves.mean(1)]

    def trend(self) -> Trend:
        """Whether higher layers have lower rank (the paper's section 3): a negative correlation."""
        return layer_trend(self.effective_ranks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: means over texts, without the curves."""
        return {
            "length": self.length,
            "texts": self.texts,
            "index": self.index,
            "layers": list(self.layers),
            "share": np.round(self.shares.mean(0), 6).tolist(),
            "effective_rank": np.round(self.effective_ranks.mean(0), 4).tolist(),
            "higher_layers_have_lower_rank": vars(self.trend()),
            "error_of_a_share": {"mean": self.error, "largest": self.largest_error},
        }


def spectrum(
    model: PreTrainedModel | str | Path,
    texts: Iterable[str],
    *,
    tokenizer: Any = None,
    length: int = 512,
    max_texts: int = 200,
    windows_per_text: int = 1,
    index: int = 128,
    exact: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Spectrum:
    """Measure the singular values of an encoder's attention maps (Linformer, Figure 1).

    >>> texts = ["It was a grim film about the old road, and the day was good. " * 20]
    >>> found = spectrum("my-encoder", texts, length=48, index=8)
    >>> found.shares.shape  # texts, layers, heads
    (1, 2, 2)

    Any encoder of transformers goes whose attention weights can be had (BERT, RoBERTa, XLM-R, MiniLM, ModernBERT,
    ELECTRA, DistilBERT, ...), and ours. Of a Linformer it is the n x n map that compression and attention make
    together. Memory: some n x n matrices. Time for each map: O(n^3) up to 1,024 tokens, then O(n^2 index).

    Args:
        model: the model, or its folder.
        texts: read until there are enough; those with fewer than ``length`` tokens are passed over.
        tokenizer: Tokenizer of the model; None = the one in its folder.
        length: tokens of a text, special tokens included.
        max_texts: how many to measure.
        windows_per_text: how many stretches of ``length`` tokens to take of one text at most, from its start.
        index: Index of the shares that are kept for each text.
        exact: never approximate, at any length.
        on_progress: called after each text with the texts done and their number.

    Raises:
        TypeError: texts that are one str.
        ValueError: no text that is long enough, more tokens than the model takes, or a model without attention maps.
        OSError: no such model.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be a list of texts, got one str: put it in a list.")
    if isinstance(model, PreTrainedModel):
        if tokenizer is None:
            raise ValueError("tokenizer is missing: give the model's tokenizer beside a model that is loaded.")
    else:
        tokenizer = tokenizer or load_tokenizer("model", str(model))
        model = load_encoder("model", str(model))
    check_lengths(model, length, index)
    windows = cut_windows(texts, tokenizer, length, max_texts, windows_per_text)
    sums = SpectrumSums(index)
    measure_windows(model, windows.ids, sums, exact=exact, on_text=on_progress)
    return sums.spectrum()


def check_lengths(model: PreTrainedModel, length: int, index: int) -> None:
    """Refuse what the model or the method cannot do.

    Raises:
        TypeError: no int.
        ValueError: out of range.
    """
    check_int("length", length, minimum=2)
    check_int("index", index)
    limit = longest_input(model)
    if length > limit:
        raise ValueError(f"length={length} exceeds the {limit} tokens that the model takes: lower it.")
    if index > length:
        raise ValueError(f"index={index} exceeds length={length}, the number of singular values: lower it.")


@dataclass(frozen=True)
class Windows:
    """Token ids of texts of one length, and how many texts were read and how many were too short."""

    ids: Int[np.ndarray, "texts n"]
    read: int
    short: int


def cut_windows(
    texts: Iterable[str], tokenizer: Any, length: int, count: int, per_text: int = 1, what: str = "texts"
) -> Windows:
    """Take the first ``per_text`` stretches of exactly ``length`` tokens of each text, until there are ``count``.

    Raises:
        ValueError: no text is long enough.
    """
    check_int("max_texts", count)
    check_int("windows_per_text", per_text)
    encoder = TextEncoder(tokenizer)
    found: list[np.ndarray] = []
    read = short = 0
    for text in texts:
        read += 1
        windows = encoder.windows([text], length, min(per_text, count - len(found))).windows
        pieces = [ids for ids in windows if len(ids) == length]
        short += not pieces
        found += pieces
        if len(found) == count:
            break
    if not found:
        raise ValueError(f"{what}: none of {read} has {length} tokens; lower length, or give longer texts")
    return Windows(np.array(found, dtype=np.int64), read, short)


class SpectrumSums:
    """What is kept of the texts measured so far; goes to disk and back as arrays."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.layers: tuple[int, ...] = ()
        self.curves: np.ndarray | None = None
        self.shares: list[np.ndarray] = []
        self.effective_ranks: list[np.ndarray] = []
        self.errors: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.shares)

    def add(self, found: Mapping[int, Sequence[Values]]) -> None:
        """Add one text: for each layer, the values of its heads."""
        heads = {len(values) for values in found.values()}
        if len(heads) != 1:
            raise ValueError(f"layers have {sorted(heads) or 'no'} heads; they must all have as many")
        values = np.stack([np.stack([one.values.cpu().numpy() for one in found[layer]]) for layer in sorted(found)])
        parts = values / values.sum(-1, keepdims=True)
        curves = parts.cumsum(-1)
        entropy = -(parts * np.log(np.where(parts > 0, parts, 1))).sum(-1)
        self.layers = tuple(sorted(found))
        self.curves = curves if self.curves is None else self.curves + curves
        self.shares.append(curves[..., self.index - 1])
        self.effective_ranks.append(np.exp(entropy))
        self.errors.append(np.array([[one.error for one in found[layer]] for layer in sorted(found)]))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """For ``from_arrays``."""
        assert self.curves is not None
        return {
            "layers": np.array(self.layers),
            "curves": np.ascontiguousarray(self.curves),
            "shares": np.stack(self.shares),
            "effective_ranks": np.stack(self.effective_ranks),
            "errors": np.stack(self.errors),
        }

    @classmethod
    def from_arrays(cls, index: int, arrays: Mapping[str, np.ndarray]) -> "SpectrumSums":
        """What ``to_arrays`` gave."""
        sums = cls(index)
        sums.layers, sums.curves = tuple(arrays["layers"].tolist()), arrays["curves"]
        sums.shares, sums.effective_ranks = list(arrays["shares"]), list(arrays["effective_ranks"])
        sums.errors = list(arrays["errors"])
        return sums

    def spectrum(self) -> Spectrum:
        """The means."""
        assert self.curves is not None
        return Spectrum(
            layers=self.layers,
            curves=self.curves / len(self),
            shares=np.stack(self.shares),
            effective_ranks=np.stack(self.effective_ranks),
            index=self.index,
            error=float(np.mean(self.errors)),
            largest_error=float(np.max(self.errors)),
        )


def measure_windows(
    model: PreTrainedModel,
    windows: Int[np.ndarray, "texts n"],
    sums: SpectrumSums,
    *,
    exact: bool = False,
    on_text: Callable[[int, int], None] | None = None,
) -> None:
    """Add the texts that ``sums`` does not have yet, one at a time; each core works on a matrix of its own."""
    model.eval()
    with EachOnItsThread() as threads:
        for number in range(len(sums), len(windows)):
            futures: dict[int, list[Any]] = {}

            def visit(layer: int, head: int, matrix: torch.Tensor, number: int = number, futures=futures) -> None:
                call = threads.submit(singular_values, matrix, sums.index, exact=exact, seed=number)
                futures.setdefault(layer, []).append(call)

            visit_maps(model, torch.from_numpy(windows[number])[None].to(model.device), visit)
            if not futures:
                raise ValueError(f"{type(model).__name__} has no layer with attention; use another model")
            sums.add({layer: [future.result() for future in heads] for layer, heads in futures.items()})
            if on_text is not None:
                on_text(number + 1, len(windows))


def layer_trend(values: Float[np.ndarray, "texts layers heads"]) -> Trend:
    """Correlation of a head's mean with its layer's index, with a bootstrap by text and a permutation test by head."""
    rng = np.random.default_rng(0)
    texts, layers, heads = values.shape
    if layers == 1:
        return Trend(0.0, -1.0, 1.0, 1.0)
    flat = values.reshape(texts, layers * heads)
    number = rankdata(np.repeat(np.arange(layers), heads))

    def correlate(means: np.ndarray) -> np.ndarray:
        ranks = rankdata(means, axis=-1)
        x, y = number - number.mean(), ranks - ranks.mean(-1, keepdims=True)
        size = np.sqrt((x**2).sum() * (y**2).sum(-1))
        return np.divide((x * y).sum(-1), size, out=np.zeros_like(size), where=size > 0)

    counts = rng.multinomial(texts, np.full(texts, 1 / texts), size=RESAMPLES)
    low, high = np.percentile(correlate(counts @ flat / texts), [2.5, 97.5])
    mean = flat.mean(0)
    found = float(correlate(mean[None])[0])
    shuffled = correlate(rng.permuted(np.tile(mean, (RESAMPLES, 1)), axis=1))
    p_value = (1 + np.sum(np.abs(shuffled) >= abs(found) - 1e-12)) / (1 + RESAMPLES)
    return Trend(found, float(low), float(high), float(p_value))


def fingerprint(windows: Int[np.ndarray, "texts n"], weights: Mapping[str, torch.Tensor]) -> str:
    """Changes with the text and with the model."""
    total = hashlib.sha256(np.ascontiguousarray(windows).tobytes())
    for name, weight in weights.items():
        total.update(name.encode())
        total.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
