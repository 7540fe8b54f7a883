"""Table 3: time and memory saved against softmax attention, by n and k.

Time is of a batch of 1; its ratio hardly depends on the number of layers, so that one is enough. Memory saved is, as in
the paper, the ratio of the largest batches that fit, weights included, by what a sequence takes in a batch of
``batch_tokens`` tokens (or of one sequence). Softmax is written out (``eager``, as in the paper) and fused (``sdpa``).
"""

from typing import Any

from linformers.measure.memory import parse_bytes
from linformers.report import plots
from linformers.report.document import Block, Chart, Table
from linformers.reproduce import claims, published
from linformers.reproduce.cells import Context
from linformers.reproduce.scales import Scale
from linformers.reproduce.timing import SOFTMAX, about, by_length, make_plan, measure_batches, measure_one

TITLE = "Table 3: time and memory saved"


def check(scale: Scale, context: Context) -> None:
    """Whether the scale can be measured here."""
    parse_bytes("table3.memory", scale.table3.memory)
    make_plan(scale.table3, context.device)


def largest(single: dict[str, Any], several: dict[str, Any] | None, memory: int) -> int:
    """The largest batch in so much memory, by what a sequence takes in the larger of two batches.

    Cautious: it counts what does not grow with the batch as if it did.
    """
    cell = several if several is not None and not several["problem"] else single
    return int((memory - cell["weight_bytes"]) * cell["batch_size"] / cell["peak_bytes"]) if cell["peak_bytes"] else 0


def run(scale: Scale, context: Context) -> dict[str, Any]:
    """Measure what is not measured yet."""
    size = scale.table3
    rows, batches = measure_one(size, context), measure_batches(size, context)
    one, several, memory = by_length(rows), by_length(batches), parse_bytes("table3.memory", size.memory)
    saved = []
    for length in sorted(size.lengths):
        for k in size.dims:
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
            row["time_saved_published"] = published.saved(published.TIME, length, k)
            row["memory_saved_published"] = published.saved(published.MEMORY, length, k)
            saved.append(row)
    context.notes.append(about(size))
    context.notes.append(
        f"memory saved: ratio of the largest batches in {size.memory}, weights included, by what a sequence takes "
        f"in a batch of {size.batch_tokens:,} tokens"
    )
    return {"cells": rows, "cells_of_batches": batches, "saved": saved}


def evidence(results: dict[str, Any]) -> list[claims.Evidence]:
    """Claim (f)."""
    return claims.of_table3(results["saved"])


def compare(results: dict[str, Any]) -> Table:
    """The whole table."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}"

    keys = [f"{what}_saved_{against}" for what in ("time", "memory") for against in ("eager", "sdpa", "published")]
    rows = [(f"{row['n']:,}", f"{row['k']:,}", *(shown(row[key]) for key in keys)) for row in results["saved"]]
    head = ["n", "k"] + [key.replace("_saved_", ": against ").replace("against published", "published") for key in keys]
    return Table(
        caption="Times less than softmax attention, written out (eager) and fused (sdpa)", head=head, rows=rows
    )


def blocks(results: dict[str, Any]) -> list[Block]:
    """Charts."""
    found: list[Block] = []
    for what in ("time", "memory"):
        rows = [
            (f"{prefix}k = {row['k']}", row["n"], row[f"{what}_saved_{key}"])
            for key, prefix in (("eager", ""), ("published", "published, "))
            for row in results["saved"]
            if row[f"{what}_saved_{key}"]
        ]
        if not rows:
            continue
        labels = dict.fromkeys(label for label, *_ in rows)
        lines = {x: tuple(zip(*((n, y) for label, n, y in rows if label == x), strict=True)) for x in labels}
        found.append(
            Chart(
                name=f"{what}-saved",
                picture=plots.plot_lines(lines, "n, tokens", f"{what} saved, times", log_x=True, log_y=True),
                alt=f"Lines of the {what} saved against n, for each k, ours and published; the table has the numbers.",
                caption=f"Times less {what} than softmax attention that is written out.",
                head=("line", "n", f"{what}_saved"),
                rows=rows,
            )
        )
    missing = [f"{row['name']}, n = {row['length']:,}: {row['problem']}." for row in results["cells"] if row["problem"]]
    return [*found, *missing]
