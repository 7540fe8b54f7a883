"""Rows of a benchmark for people: a line as they come, a table with ratios, a plot, and how time grows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from linformers.measure.memory import gigabytes
from linformers.report import plots
from linformers.report.words import seconds as in_words


def line(row: dict[str, Any]) -> str:
    """One cell in a line."""
    head = f"{row['name']}, {row['length']:,} tokens: "
    if row["problem"]:
        return head + row["problem"]
    batch = f", batch {row['batch_size']:,}" if row["batch_size"] > 1 else ""
    return f"{head}{in_words(row['seconds'])}, {_memory(row)}{batch}"


def table(rows: Sequence[dict[str, Any]], reference: str | None, console: Console) -> None:
    """Print the rows; time, memory and batch also as ratios to those of ``reference`` (a name), above 1 = better."""
    found = {row["length"]: row for row in rows if row["name"] == reference and not row["problem"]}
    largest = any((row["batch_size"] or 1) > 1 for row in rows)
    shown = Table()
    shown.add_column("tokens", justify="right")
    shown.add_column("encoder")
    shown.add_column(("seconds a sequence" if largest else "seconds") + " (fastest-slowest)")
    shown.add_column("memory", justify="right")
    for name in ("batch",) * largest + (f"x {reference}: faster", "less memory") * (reference is not None):
        shown.add_column(name, justify="right")
    length = None
    for row in rows:
        if length not in (None, row["length"]):
            shown.add_section()
        length = row["length"]
        cells = [f"{length:,}", row["name"]]
        if row["problem"]:
            shown.add_row(*cells, row["problem"])
            continue
        low, middle, high = (row[key] / row["batch_size"] for key in ("seconds_min", "seconds", "seconds_max"))
        cells += [f"{middle:.3g} ({low:.3g}-{high:.3g})", _memory(row)]
        cells += [f"{row['batch_size']:,}"] if largest else []
        shown.add_row(*cells, *(_ratios(row, found.get(length)) if reference is not None else ()))
    console.print(shown)


def _memory(row: dict[str, Any]) -> str:
    return "?" if row["peak_bytes"] is None else gigabytes(row["peak_bytes"])


def _ratios(row: dict[str, Any], other: dict[str, Any] | None) -> tuple[str, str]:
    """How many times as long, and as much memory, the other one takes for a sequence."""
    if other is None:
        return "", ""
    time, memory = (
        (other[key] or 0) / other["batch_size"] / (row[key] / row["batch_size"]) if row[key] else 0.0
        for key in ("seconds", "peak_bytes")
    )
    return f"{time:.2f}", f"{memory:.2f}" if memory else "?"


def save_plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Time and memory of a sequence against its length, as PNG."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    measured = [row for row in rows if not row["problem"]]
    panels = []
    for field, unit, axis in (("seconds", 1.0, "seconds a sequence"), ("peak_bytes", 1e6, "MB a sequence")):
        lines = {
            name: [
                (row["length"], row[field] / row["batch_size"] / unit)
                for row in measured
                if row["name"] == name and row[field]
            ]
            for name in names
        }
        panels.append((axis, {name: points for name, points in lines.items() if points}))
    plots.save_png(plots.plot_scaling(panels), path)


def growth_exponent(rows: Sequence[dict[str, Any]]) -> float:
    """The e of time ~ n^e, by least squares of the logarithms."""
    lengths, seconds = ([row[key] for row in rows] for key in ("length", "seconds"))
    return float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0])
