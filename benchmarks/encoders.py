"""Our encoder against five of transformers, how its time grows, and how near it is to its matrix products.

    python benchmarks/encoders.py [--against nystromformer ...] [--kinds linear mean_pool] [--fields KEY=VALUE ...]

3 layers, hidden 768, 12 heads, intermediate 3,072, k = 256, batch 1, forward pass, random weights. Every cell runs in a
process of its own: medians, the fastest and the slowest pass, and the peak beyond the weights, next to one copy of the
hidden states. Growth is the exponent e of time ~ n^e, by least squares of the logarithms. The limit is the time of the
bare matrix products by the fastest route found, in one process and in turns with the encoder. Finished cells are kept
in --runs; the same command goes on.
"""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from limit import measure_limit
from result_files import write_csv
from rich.console import Console
from rich.table import Table

from linformers.commands.benchmark import BenchmarkSettings, Plan, measure_plan
from linformers.files.settings import override
from linformers.measure.contenders import RIVALS, Shape, linformer, rival
from linformers.measure.results import identity
from linformers.measure.show import growth_exponent, save_plot, table
from linformers.measure.sweep import in_fresh_process

LENGTHS = (512, 2048, 8192, 16384)
GROWTH = (2048, 4096, 8192, 16384, 32768, 65536)
LIMIT = (2048, 8192, 65536)
FIVE = ("nystromformer", "longformer", "bigbird", "modernbert", "roberta")


def limits(plan: Plan, lengths: list[int], rounds: int, path: Path, console: Console) -> list[dict[str, Any]]:
    """Each contender at each length beside its matrix products, kept in a file for the next run of the same state."""
    state = identity(plan.settings.device, {**plan.settings.model_dump(), **plan.options, "rounds": rounds})
    kept = json.loads(path.read_text()) if path.is_file() else {}
    rows: list[dict[str, Any]] = kept["rows"] if kept.get("identity") == state else []
    for length in lengths:
        for contender in plan.contenders:
            if any((row["name"], row["length"]) == (contender.name, length) for row in rows):
                continue
            found = asdict(in_fresh_process(measure_limit, plan.task(contender, length), rounds))
            rows.append({"name": contender.name, "length": length, **found})
            path.write_text(json.dumps({"identity": state, "rows": rows}, indent=1))
            console.print(
                f"{contender.name}, n = {length:,}: {found['fraction']:.2f} of the limit "
                f"({found['seconds']:.3g} s, products {found['limit']:.3g} s, {found['gflops']:.0f} GFLOP/s)"
            )
    return [row for row in rows if row["length"] in lengths]


def summarise(rows: list[dict[str, Any]], ours: list[str]) -> list[dict[str, Any]]:
    """Ours against the fastest and the leanest of the others, at each length."""
    found = []
    for length in sorted({row["length"] for row in rows}):
        here = [row for row in rows if row["length"] == length and not row["problem"]]
        others = [row for row in here if row["name"] not in ours]
        for row in here if others else []:
            if row["name"] not in ours:
                continue
            fastest = min(others, key=lambda other: other["seconds"])
            leanest = min(others, key=lambda other: other["peak_bytes"])
            found.append(
                {
                    "length": length,
                    "name": row["name"],
                    "fastest": fastest["name"],
                    "times_faster": fastest["seconds"] / row["seconds"],
                    "leanest": leanest["name"],
                    "times_leaner": leanest["peak_bytes"] / row["peak_bytes"],
                    "faster_than": {other["name"]: other["seconds"] / row["seconds"] for other in others},
                    "leaner_than": {other["name"]: other["peak_bytes"] / row["peak_bytes"] for other in others},
                }
            )
    return found


def main() -> None:
    """Measure what is not measured yet, and write results/encoders-cpu.{csv,json,png}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="against the others")
    parser.add_argument("--growth", type=int, nargs="+", default=GROWTH, help="lengths of ours alone")
    parser.add_argument("--limit", type=int, nargs="*", default=LIMIT, help="lengths beside the matrix products")
    parser.add_argument("--against", nargs="*", choices=list(RIVALS), default=FIVE)
    parser.add_argument("--kinds", nargs="+", default=["linear", "mean_pool"], help="projection_kind of ours")
    parser.add_argument("--fields", nargs="*", default=[], metavar="KEY=VALUE", help="of LinformerConfig, for ours")
    parser.add_argument("--projected-dim", type=int, default=256)
    parser.add_argument("--hidden-size", type=int, default=768)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=6, help="passes of a cell at most; the first does not count")
    parser.add_argument("--rounds", type=int, default=3, help="passes beside the matrix products")
    parser.add_argument("--runs", type=Path, default=Path("runs/encoders"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    fields: dict[str, Any] = {}
    override(fields, {}, arguments.fields)
    shape = Shape(
        hidden_size=arguments.hidden_size, num_hidden_layers=arguments.layers, num_attention_heads=arguments.heads
    )
    k = arguments.projected_dim
    ours = [linformer(shape, k, {**fields, "projection_kind": kind}, f"ours, {kind}") for kind in arguments.kinds]
    names = [contender.name for contender in ours]
    alone = Plan(
        contenders=ours,
        lengths=arguments.growth,
        settings=BenchmarkSettings(
            device=arguments.device, repeats=arguments.repeats, cell_seconds=6.0, pass_limit=60.0
        ),
        options={"shape": shape.model_dump(), "k": k, "fields": fields},
    )
    everyone = replace(
        alone, contenders=[*ours, *(rival(name, shape) for name in arguments.against)], lengths=arguments.lengths
    )
    rows = measure_plan(everyone, arguments.runs, console)
    grown = measure_plan(alone, arguments.runs, console)
    exponents = {
        name: growth_exponent([row for row in grown if row["name"] == name and not row["problem"]]) for name in names
    }
    near = limits(alone, arguments.limit, arguments.rounds, arguments.runs / "limit.json", console)
    summary = summarise(rows, names)

    rows += [row for row in grown if row not in rows]
    table(sorted(rows, key=lambda row: row["length"]), names[0], console)
    shown = Table(title="Ours against the fastest and the leanest of the others")
    for name in ("n", "encoder", "times faster", "than", "times less memory", "than"):
        shown.add_column(name)
    for row in summary:
        faster, leaner = f"{row['times_faster']:.2f}", f"{row['times_leaner']:.2f}"
        shown.add_row(f"{row['length']:,}", row["name"], faster, row["fastest"], leaner, row["leanest"])
    console.print(shown)
    for name, exponent in exponents.items():
        lengths = f"{min(arguments.growth):,} to {max(arguments.growth):,}"
        console.print(f"{name}: time grows with n to the power {exponent:.3f} from {lengths} tokens")
    for row in near:
        console.print(f"{row['name']}, n = {row['length']:,}: {row['fraction']:.2f} of the limit")

    stem = arguments.output / f"encoders-{arguments.device}"
    notes = [
        f"{shape.model_dump()}, k = {k}, batch 1, float32, inference mode, medians; {' '.join(arguments.fields)}",
        "peak_bytes: beyond the weights; hidden_bytes: one copy of the hidden states",
        *(f"{name}: time ~ n^{exponent:.3f}, n = {list(arguments.growth)}" for name, exponent in exponents.items()),
        *(f"{row['name']}, n = {row['length']}: {row['fraction']:.3f} of the matrix products' speed" for row in near),
    ]
    write_csv(stem.with_suffix(".csv"), rows, console, notes=notes, device=arguments.device)
    content = json.loads((arguments.runs / "results.json").read_text())
    content |= {"cells": rows, "summary": summary, "exponents": exponents, "limits": near}
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    save_plot(rows, stem.with_suffix(".png"))


if __name__ == "__main__":
    main()
