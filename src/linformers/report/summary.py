"""What the terminal shows at the end of a quickstart."""

import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from linformers.report import words


def next_commands(output: Path, seed: int) -> list[tuple[str, str]]:
    """What to try after a quickstart; each runs as it is."""
    python = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else sys.executable
    again = output.with_name(f"{output.name}-seed{seed + 1}")
    code = (
        "import linformers, sys; from transformers import pipeline; "
        f"which = pipeline('text-classification', '{(output / 'model').as_posix()}', truncation=True); "
        "print(which(sys.stdin.read(), top_k=3))"
    )
    return [
        ("Read the report.", f"{python} -m webbrowser -t {(output / 'report.html').absolute().as_uri()}"),
        ("Ask the model about a text of your own.", f'{python} -c "{code}" < README.md'),
        ("See how much of it is luck.", f"{python} -m linformers quickstart --seed {seed + 1} --output {again}"),
    ]


def summary_table(results: dict[str, Any]) -> Table:
    """The table that ends the run."""
    runs, cells = words.by_name(results["pretraining"]), results["cost"]["cells"]
    ours, softmax = words.longest_common(cells)
    costs = {"linformer": ours, "transformer": softmax}
    accuracy = results["passages"]["accuracy"]
    table = Table(
        caption=f"Right book, for comparison: TF-IDF {accuracy['tfidf']:.1%}, commonest {accuracy['majority']:.1%}"
    )
    table.add_column("model")
    for name in ("perplexity", "right book", f"{ours['length']:,} tokens take", "memory"):
        table.add_column(name, justify="right")
    for name, run in runs.items():
        cell = costs.get(name)
        table.add_row(
            run["label"],
            f"{words.perplexity(run):.1f}",
            f"{accuracy['linformer']:.1%}" if name == "linformer" else "",
            words.seconds(cell["seconds"]) if cell else "",
            f"{cell['peak_bytes'] / words.MEBIBYTE:,.0f} MiB" if cell and cell["peak_bytes"] is not None else "",
        )
    return table


def conclude(results: dict[str, Any], output: Path, console: Console) -> None:
    """Print the table, where the results are, and what to try next."""
    console.print(summary_table(results))
    console.print(
        f"Done in {words.seconds(results['seconds'])}. Results are in {output}", highlight=False, soft_wrap=True
    )
    console.print("Try next:")
    for what, command in results["next"]:
        console.print(f"  # {what}\n  {command}", highlight=False, markup=False, soft_wrap=True)
