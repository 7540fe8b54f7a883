"""Table 3 of the Linformer paper on this machine: time and memory saved against softmax attention, by n and k.

    python benchmarks/table3.py [--layers 1] [--lengths 512 ... 65536] [--dims 128 ... 2048] [--fields KEY=VALUE ...]

Encoders of base width (hidden 768, 12 heads, intermediate 3,072), random weights and data, forward pass. Time is of a
batch of 1; its ratio hardly depends on the number of layers, so that one is enough. Memory saved is, as in the paper,
the ratio of the largest batches that fit: into 16 GB, weights included, by what a sequence takes in a batch of 16,384
tokens (or of one sequence). Softmax is written
out (``eager``, what the paper had) and fused (``sdpa``). Finished cells are kept in --runs; the same command goes on.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from result_files import write_csv
from rich.console import Console
from rich.table import Table

from linformers.benchmark.contenders import Shape, linformer, rival
from linformers.benchmark.memory import parse_bytes
from linformers.benchmark.run import Plan, Settings, measure_plan
from linformers.benchmark.show import save_plot
from linformers.training.strict import override

LENGTHS, DIMS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536), (128, 256, 512, 1024, 2048)
LONG = 16384
# Published, by n and then k: time saved, memory saved; against the standard Transformer on a V100 of 16 GB.
TIME = {
    512: (1.5, 1.3),
    1024: (1.7, 1.6, 1.3),
    2048: (2.6, 2.4, 2.1, 1.3),
    4096: (3.4, 3.2, 2.8, 2.2, 1.3),
    8192: (5.5, 5.0, 4.4, 3.5, 2.1),
    16384: (8.6, 7.8, 7.0, 5.6, 3.3),
    32768: (13, 12, 11, 8.8, 5.0),
    65536: (20, 18, 16, 14, 7.9),
}
MEMORY = {
    512: (1.7, 1.5),
    1024: (3.0, 2.9, 1.8),
    2048: (6.1, 5.6, 3.6, 2.0),
    4096: (14, 13, 8.3, 4.3, 2.3),
    8192: (28, 26, 17, 8.5, 4.5),
    16384: (56, 48, 32, 16, 8),
    32768: (56, 48, 36, 18, 16),
    65536: (60, 52, 40, 20, 18),
}
SOFTMAX = ("softmax-eager", "softmax-sdpa")

Cells = dict[tuple[str, int], dict[str, Any]]


def published(table: dict[int, tuple[float, ...]], n: int, k: int) -> float | None:
    """The paper's cell, where it has one."""
    row = dict(zip(DIMS, table.get(n, ()), strict=False))
    return row.get(k)


def largest(single: dict[str, Any], several: dict[str, Any] | None, memory: int) -> int:
    """The largest batch in so much memory, by what a sequence takes in the larger of two batches.

    Cautious: it counts what does not grow with the batch as if it did.
    """
    cell = several if several is not None and not several["problem"] else single
    return int((memory - cell["weight_bytes"]) / (cell["peak_bytes"] / cell["batch_size"]))


def main() -> None:
    """Measure what is not measured yet, and write results/table3-cpu.{csv,json,png}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--fields", nargs="*", default=[], metavar="KEY=VALUE", help="of LinformerConfig, for ours")
    parser.add_argument("--memory", default="16GB", help="for the largest batches")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=5, help="passes of a cell at most; the first does not count")
    parser.add_argument("--pass-limit", type=float, default=150.0, help="leave out cells with longer passes, in s")
    parser.add_argument("--runs", type=Path, default=Path("runs/table3"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    memory = parse_bytes("--memory", arguments.memory)
    fields: dict[str, Any] = {}
    override(fields, {}, arguments.fields)
    shape = Shape(num_hidden_layers=arguments.layers)
    plan = Plan(
        contenders=[*(linformer(shape, k, fields) for k in arguments.dims), *(rival(name, shape) for name in SOFTMAX)],
        lengths=arguments.lengths,
        settings=Settings(
            device=arguments.device, repeats=arguments.repeats, cell_seconds=4.0, pass_limit=arguments.pass_limit
        ),
        options={"shape": vars(shape), "fields": fields},
    )
    rows = measure_plan(plan, arguments.runs / "one", console)
    one: Cells = {(row["name"], row["length"]): row for row in rows}
    several: Cells = {}
    for length in (n for n in sorted(arguments.lengths) if n < LONG):
        settings = replace(plan.settings, batch_size=LONG // length, repeats=1)
        batch = measure_plan(
            replace(plan, lengths=[length], settings=settings), arguments.runs / f"batch-{LONG // length}", console
        )
        several |= {(row["name"], row["length"]): row for row in batch}

    saved = []
    for length in sorted(arguments.lengths):
        for k in arguments.dims:
            ours = one.get((f"linformer k={k}", length))
            if ours is None or ours["problem"]:
                continue
            row: dict[str, Any] = {"n": length, "k": k, "seconds": ours["seconds"]}
            row["largest_batch"] = largest(ours, several.get((ours["name"], length)), memory)
            for name in SOFTMAX:
                other, key = one[name, length], name.removeprefix("softmax-")
                fits = not other["problem"]
                row[f"time_saved_{key}"] = other["seconds"] / ours["seconds"] if fits else None
                batch = largest(other, several.get((name, length)), memory) if fits else 0
                row[f"memory_saved_{key}"] = row["largest_batch"] / batch if batch else None
            row["time_saved_published"] = published(TIME, length, k)
            row["memory_saved_published"] = published(MEMORY, length, k)
            saved.append(row)

    table = Table(title="Saved against softmax, eager / sdpa (published)")
    for name in ("n", "k", "seconds", "time", "memory"):
        table.add_column(name, justify="right")
    for row in saved:
        shown = [
            " / ".join("-" if row[f"{what}_saved_{key}"] is None else f"{row[f'{what}_saved_{key}']:.1f}"
                       for key in ("eager", "sdpa"))
            + ("" if row[f"{what}_saved_published"] is None else f" ({row[f'{what}_saved_published']:g})")
            for what in ("time", "memory")
        ]  # fmt: skip
        table.add_row(f"{row['n']:,}", f"{row['k']:,}", f"{row['seconds']:.3g}", *shown)
    console.print(table)
    missing = [f"{name}, n = {n:,}: {row['problem']}" for (name, n), row in one.items() if row["problem"]]
    console.print("\n".join(missing))

    stem = arguments.output / f"table3-{arguments.device}"
    notes = [
        f"hidden 768, 12 heads, intermediate 3,072, vocabulary {shape.vocab_size:,}, {arguments.layers} layer(s), "
        f"float32, forward pass, batch 1, medians; {' '.join(arguments.fields)}",
        f"memory saved: ratio of the largest batches in {arguments.memory}, by what a sequence takes in a batch of 16,384 tokens",
        *missing,
    ]
    write_csv(stem.with_suffix(".csv"), saved, console, notes=notes, device=arguments.device)
    content = json.loads((arguments.runs / "one" / "results.json").read_text())
    content |= {"saved": saved, "cells": rows, "cells_of_batches": list(several.values())}
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    save_plot(rows, stem.with_suffix(".png"))


if __name__ == "__main__":
    main()
