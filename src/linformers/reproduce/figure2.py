"""Figure 2: inference time against the length, for softmax attention and for Linformer at fixed k."""

from typing import Any

from linformers.commands.report import scaling_charts
from linformers.report import words
from linformers.report.document import Block, Table
from linformers.reproduce import claims
from linformers.reproduce.cells import Context
from linformers.reproduce.scales import Scale
from linformers.reproduce.timing import SOFTMAX, about, by_length, make_plan, measure_one

TITLE = "Figure 2: inference time by length"


def check(scale: Scale, context: Context) -> None:
    """Whether the scale can be measured here."""
    make_plan(scale.figure2, context.device)


def run(scale: Scale, context: Context) -> dict[str, Any]:
    """Measure what is not measured yet."""
    rows = measure_one(scale.figure2, context)
    names = dict.fromkeys(row["name"] for row in rows)
    exponents = {name: claims.growth([row for row in rows if row["name"] == name]) for name in names}
    context.notes.append(about(scale.figure2))
    return {"cells": rows, "exponents": {name: found for name, found in exponents.items() if found is not None}}


def evidence(results: dict[str, Any]) -> list[claims.Evidence]:
    """Claim (f)."""
    return claims.of_figure2(results["exponents"])


def compare(results: dict[str, Any]) -> Table:
    """Growth, and times at the longest length that softmax attention has too."""
    found = by_length([row for row in results["cells"] if not row["problem"]])
    names = dict.fromkeys(name for name, _ in found)
    common = [n for _, n in found if all((name, n) in found for name in SOFTMAX)]
    length = max(common, default=0)
    rows = []
    for name in names:
        exponent = results["exponents"].get(name)
        cell = found.get((name, length))
        rows.append(
            (
                name,
                "-" if exponent is None else f"{exponent[0]:.2f} ({exponent[1]:.2f} to {exponent[2]:.2f})",
                words.seconds(cell["seconds"]) if cell else "-",
                "grows linearly" if name.startswith("linformer") else "grows quadratically",
            )
        )
    head = ("encoder", "time ~ n to the power (95% interval)", f"{length:,} tokens take", "published")
    return Table(caption="How time grows with the length", head=head, rows=rows)


def blocks(results: dict[str, Any]) -> list[Block]:
    """Charts."""
    missing = [f"{row['name']}, n = {row['length']:,}: {row['problem']}." for row in results["cells"] if row["problem"]]
    return [*scaling_charts(results["cells"]), *missing]
