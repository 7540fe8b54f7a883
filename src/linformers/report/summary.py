"""What the terminal shows at the end of a quickstart."""

import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from linformers.report import words


def next_commands(output: Path, seed: int, teacher: Path | None = None) -> list[tuple[str, str]]:
    """What to try after a quickstart; each runs as it is.

    Args:
        output: folder of the results.
        seed: of the run.
        teacher: folder of the model that was converted.
    """
    python = _short(Path(sys.executable))
    again = output.with_name(f"{output.name}-seed{seed + 1}")
    code = (
        "import linformers, sys; from transformers import pipeline; "
        f"which = pipeline('text-classification', '{(output / 'model').as_posix()}', truncation=True); "
        "print(which(sys.stdin.read(), top_k=3))"
    )
    commands = [
        ("Read the report.", f"{python} -m webbrowser -t {(output / 'report.html').absolute().as_uri()}"),
        ("Ask the model about a text of your own.", f'{python} -c "{code}" < README.md'),
        ("See how much of it is luck.", f"{python} -m linformers quickstart --seed {seed + 1} --output {again}"),
    ]
    if teacher is not None:
        target = output.with_name("minilm-4096")
        convert = f"{python} -m linformers convert --model {_short(teacher)} --max-length 4096 --output {target}"
        commands.insert(2, ("Keep the linearised MiniLM, for 4,096 tokens.", convert))
    return commands


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def conversion_table(conversion: dict[str, Any]) -> Table:
    """How the linearised model compares with its teacher."""
    ours, softmax = words.longest_common(conversion["cost"]["cells"])
    table = Table(
        caption=f"One pass over {ours['length']:,} tokens: linearised {words.seconds(ours['seconds'])}, softmax "
        f"{words.seconds(softmax['seconds'])}"
    )
    table.add_column(f"{conversion['teacher']}, {conversion['tokens']:,} tokens")
    for name in ("right book", "95% interval", "a passage takes"):
        table.add_column(name, justify="right")
    for reader in conversion["readers"]:
        low, high = reader["interval"]
        share, time = f"{reader['accuracy']:.1%}", words.seconds(reader["seconds"])
        table.add_row(reader["label"], share, f"{low:.0%} to {high:.0%}", time)
    return table


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
    if words.converted(results):
        console.print(conversion_table(results["conversion"]))
    console.print(summary_table(results))
    console.print(
        f"Done in {words.seconds(results['seconds'])}. Results are in {output}", highlight=False, soft_wrap=True
    )
    console.print("Try next:")
    for what, command in results["next"]:
        console.print(f"  # {what}\n  {command}", highlight=False, markup=False, soft_wrap=True)
