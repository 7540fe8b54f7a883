"""Long Range Arena (Tay et al. 2020, arXiv 2011.04006): its tasks as sequences of small integers, 0 = padding."""

import random
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lra_listops as listops
import lra_pathfinder as pathfinder
import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int

from linformers.checks import check_choice, check_int

# Accuracy in percent of the Transformer and of the Linformer (Tay et al. 2020, table 1).
PUBLISHED = {
    "listops": {"softmax": 36.37, "linformer": 35.70},
    "text": {"softmax": 64.27, "linformer": 53.94},
    "image": {"softmax": 42.44, "linformer": 38.56},
    "pathfinder": {"softmax": 71.40, "linformer": 76.34},
}
# The same in PyTorch by Xiong et al. 2021 (arXiv 2102.03902, table 3), all of it run again.
RERUN = {
    "listops": {"softmax": 37.10, "linformer": 37.25},
    "text": {"softmax": 65.02, "linformer": 55.91},
    "image": {"softmax": 38.20, "linformer": 37.84},
    "pathfinder": {"softmax": 74.16, "linformer": 67.60},
}
TEXT_LENGTH = 4096
_SHAPES = {  # ids, classes, longest sequence
    "listops": (len(listops.TOKENS), 10, 2000),
    "text": (257, 2, TEXT_LENGTH),
    "image": (257, 10, 32 * 32),
    "pathfinder": (257, 2, 32 * 32),
}
SPLITS = ("train", "validation", "test", "shorter")
# Tokens of the shorter lists, of each ten in turn: half are read at a glance, and all lead up to those of 500 and more.
_SHORTER = (*5 * [(8, 32)], *3 * [(32, 128)], *2 * [(128, listops.MIN_LENGTH - 1)])
Report = Callable[[float], None]


@dataclass(frozen=True)
class Sequences:
    """Examples of a split."""

    ids: list[Int[np.ndarray, " _"]]
    labels: Int[np.ndarray, " examples"]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class LraTask:
    """A task made ready."""

    name: str
    vocab_size: int
    classes: int
    max_length: int
    splits: dict[str, Sequences]


def load_task(
    name: str,
    *,
    data: Path | None = None,
    sizes: tuple[int, int, int] | None = None,
    shorter: int = 0,
    seed: int = 0,
    processes: int = 1,
    report: Report = lambda share: None,
) -> LraTask:
    """Generate or read a task.

    Args:
        name: ``listops``, ``text``, ``image`` or ``pathfinder``.
        data: folder with ``imdb_train.parquet`` and ``imdb_test.parquet`` (text), or with the ``.bin`` files of
            CIFAR-10's binary version (image); generated tasks need none.
        sizes: examples to train on, to choose the step by, and to test on; None = 20,000, 1,000 and 2,000, of files
            all but a tenth of the training part, that tenth, and the test part. A larger train split of the same seed
            begins with the smaller one.
        shorter: lists of 8 to 499 tokens to train on as well (ListOps), in a split of their own; Long Range Arena has
            none. Half have at most 32 tokens, and a fifth 128 and more.
        seed: of what is random.
        processes: that generate at a time.
        report: hears what share is done.

    Raises:
        ValueError: an unknown task, sizes that cannot be had, or shorter lists of another task.
        FileNotFoundError: a file is not there.
    """
    check_choice("task", name, PUBLISHED)
    for size in sizes or ():
        check_int("sizes", size)
    check_int("shorter", shorter, minimum=0)
    if shorter and name != "listops":
        raise ValueError(f"shorter={shorter} is for task='listops', not {name!r}.")
    if name in ("listops", "pathfinder"):
        counts = (*(sizes or (20_000, 1_000, 2_000)), *([shorter] if shorter else []))
        splits = _generate(name, counts, seed, processes, report)
    elif data is None:
        raise ValueError(f"task={name!r} is read from files: give data, the folder that holds them.")
    else:
        splits = _split(*(_imdb(data) if name == "text" else _cifar(data)), sizes, seed)
    vocab_size, classes, max_length = _SHAPES[name]
    return LraTask(name=name, vocab_size=vocab_size, classes=classes, max_length=max_length, splits=splits)


def _generate(name: str, sizes: tuple[int, ...], seed: int, processes: int, report: Report) -> dict[str, Sequences]:
    keys = [(split, index) for split, size in enumerate(sizes) for index in range(size)]
    one, found = partial(_one, name, seed), []
    with ProcessPoolExecutor(processes) if processes > 1 else nullcontext() as pool:
        made: Iterable[Any] = map(one, keys) if pool is None else pool.map(one, keys, chunksize=64)
        for example in made:
            found.append(example)
            report(len(found) / len(keys))
    splits = {}
    for split, size in zip(SPLITS[: len(sizes)], sizes, strict=True):
        part, found = found[:size], found[size:]
        splits[split] = Sequences([ids for ids, _ in part], np.array([label for _, label in part]))
    return splits


def _one(name: str, seed: int, key: tuple[int, int]) -> tuple[Int[np.ndarray, " length"], int]:
    """An example depends on its number only, so that any number of processes makes the same ones."""
    if name == "listops":
        split, index = key
        lengths = _SHORTER[index % len(_SHORTER)] if SPLITS[split] == "shorter" else ()
        ids, label = listops.generate(random.Random(f"{seed} {key}"), *lengths)
        return np.array(ids, dtype=np.int16), label
    image, label = pathfinder.generate(np.random.default_rng((seed, *key)))
    return image.flatten().astype(np.int16) + 1, label


def _imdb(folder: Path) -> tuple[Sequences, Sequences]:
    """Reviews as bytes, cut at 4,096."""

    def read(part: str) -> Sequences:
        path = folder / f"imdb_{part}.parquet"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; it has columns text and label, see data")
        table = pq.read_table(path, columns=["text", "label"])
        texts = (np.frombuffer(text.encode()[:TEXT_LENGTH], dtype=np.uint8) for text in table["text"].to_pylist())
        return Sequences([text.astype(np.int16) + 1 for text in texts], table["label"].to_numpy().astype(int))

    return read("train"), read("test")


def _cifar(folder: Path) -> tuple[Sequences, Sequences]:
    """Grey pixels, row by row."""

    def read(*names: str) -> Sequences:
        rows = []
        for name in names:
            path = folder / name
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file; data must be the folder of CIFAR-10's binary version")
            rows.append(np.fromfile(path, dtype=np.uint8).reshape(-1, 1 + 3 * 1024))
        found = np.concatenate(rows)
        grey = np.array([299, 587, 114]) @ found[:, 1:].reshape(-1, 3, 1024).astype(np.int64) // 1000
        return Sequences(list(grey.astype(np.int16) + 1), found[:, 0].astype(int))

    return read(*(f"data_batch_{number}.bin" for number in range(1, 6))), read("test_batch.bin")


def _split(train: Sequences, test: Sequences, sizes: tuple[int, int, int] | None, seed: int) -> dict[str, Sequences]:
    order = np.random.default_rng(seed).permutation(len(train))
    held = len(train) // 10
    wanted = sizes or (len(train) - held, held, len(test))
    if wanted[0] + wanted[1] > len(train) or wanted[2] > len(test):
        raise ValueError(f"sizes={wanted}: there are {len(train):,} examples to train on and {len(test):,} to test on.")

    def some(part: Sequences, rows: Any) -> Sequences:
        return Sequences([part.ids[row] for row in rows], part.labels[rows])

    first = max(held, wanted[1])  # what the usual validation leaves over comes last
    rest = np.concatenate([order[first:], order[wanted[1] : first]])
    shuffled = np.random.default_rng((seed, 1)).permutation(len(test))
    return {
        "train": some(train, rest[: wanted[0]]),
        "validation": some(train, order[: wanted[1]]),
        "test": some(test, np.sort(shuffled[: wanted[2]])),
    }
