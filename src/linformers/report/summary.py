"""What the terminal shows at the end of a quickstart."""

import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from linformers.report import words
from linformers.report.conversion import cost, finding_table
from linformers.report.document import Table


def next_commands(output: Path, seed: int, teacher: Path | None = None) -> list[tuple[str, str]]:
    """What to try after a quickstart; each runs as it is.

    Args:
        output: folder of the results.
        seed: Seed of the run.
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
        target = output.with_name("minilm-long")
        reading = "--segment-length 128 --projection-kind attention_pool --projected-dim 32 --max-length 8192"
        convert = f"{python} -m linformers convert --model {_short(teacher)} {reading} --output {target}"
        commands.insert(2, ("Keep the linearised MiniLM, for 8,192 tokens.", convert))
    return commands


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def summary_table(results: dict[str, Any]) -> Table:
    """The models trained from scratch, side by side."""
    cells, accuracy = results["cost"]["cells"], results["passages"]["accuracy"]
    ours, softmax = words.longest_common(cells)
    costs = {"linformer": ours, "transformer": softmax}
    rows = []
    for run in results["pretraining"]:
        cell = costs.get(run["name"])
        rows.append(
            (
                run["label"],
                f"{words.perplexity(run):.1f}",
                f"{accuracy['linformer']:.1%}" if cell is ours else "",
                words.seconds(cell["seconds"]) if cell else "",
                words.memory(cell["peak_bytes"]) if cell else "",
            )
        )
    return Table(
        caption=f"Right book, for comparison: TF-IDF {accuracy['tfidf']:.1%}, commonest {accuracy['majority']:.1%}",
        head=["model", "perplexity", "right book", f"{ours['length']:,} tokens take", "memory"],
        rows=rows,
    )


def conclude(results: dict[str, Any], output: Path, console: Console) -> None:
    """Print the table, where the results are, and what to try next."""
    if words.converted(results):
        console.print(finding_table(results["conversion"]).for_terminal())
        console.print(cost(results["conversion"]), highlight=False)
    console.print(summary_table(results).for_terminal())
    first = results["conversion"].get("first_table")
    early = f"; the first table came after {words.seconds(first['seconds'])}" if first else ""
    console.print(
        f"Done in {words.seconds(results['seconds'])}{early}. Results are in {output}", highlight=False, soft_wrap=True
    )
    console.print("Try next:")
    for what, command in results["next"]:
        console.print(f"  # {what}\n  {command}", highlight=False, markup=False, soft_wrap=True)
