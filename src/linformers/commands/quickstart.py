"""The main job in miniature: convert a trained model, learn from real text, compare, measure, report.

Only the order of the parts is here. The conversion is in ``quickstart_conversion``; what is trained is in
``quickstart_training``, which is imported once the first part is done: its first table must come early.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from linformers.commands.quickstart_conversion import PACKAGE, ConversionScale, compare_with_teacher, find_teacher
from linformers.data.books import load_books
from linformers.files.environment import command_line, describe_environment
from linformers.files.run_folder import RESULTS, Folder
from linformers.files.settings import differences
from linformers.models.silence import silenced
from linformers.report.quickstart import document
from linformers.report.summary import conclude, next_commands

KIND = "linformers quickstart"


@dataclass(frozen=True, kw_only=True)
class QuickstartScale:
    """The size of everything; lengths in tokens."""

    books: int | None = None
    vocab_size: int = 280
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int = 256
    projected_dim: int = 32
    projection_kind: str = "linear"
    local_window: int = 8
    initializer_range: float = 0.08
    stages: tuple[tuple[int, float], ...] = ((32, 0.4), (64, 0.1), (128, 0.1), (256, 0.1), (512, 0.1), (1024, 0.2))
    pretrain_steps: int = 900
    tokens_per_step: int = 4096
    learning_rate: float = 4e-3
    eval_lengths: tuple[int, ...] = (128, 1024)
    eval_tokens: int = 65536
    passage_length: int = 1024
    finetune_steps: int = 200
    finetune_batch_size: int = 8
    finetune_learning_rate: float = 1e-5
    head_learning_rate: float = 1e-2
    head_passages: int = 128
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384)
    repeats: int = 5
    cost_seconds: float = 40.0
    conversion: ConversionScale = ConversionScale()

    @property
    def max_length(self) -> int:
        """The longest text that the trained models can read."""
        return max(self.passage_length, *self.eval_lengths, *(length for length, _ in self.stages))


FULL = QuickstartScale()
# For CI: every part runs, nothing is learned.
FAST = replace(
    FULL,
    books=3,
    pretrain_steps=20,
    eval_tokens=4096,
    finetune_steps=6,
    lengths=(512, 1024),
    repeats=2,
    cost_seconds=15.0,
    conversion=ConversionScale(
        length=1024, passages=1, sentences=2, first_passages=2, lengths=(512, 1024), cost_seconds=2.0
    ),
)


def convert(
    scale: QuickstartScale, seed: int, device: torch.device, console: Console, started: float | None = None
) -> dict[str, Any]:
    """Compare MiniLM with its linearised self, where its package is installed."""
    folder = find_teacher()
    if folder is None:
        skipped = f"the package {PACKAGE} is not installed (pip install {PACKAGE})"
        console.print(f"  skipped: {skipped}", highlight=False, soft_wrap=True)
        return {"skipped": skipped}
    return compare_with_teacher(folder, load_books(scale.books), scale.conversion, seed, device, console, started)


def run(
    output: Path,
    *,
    scale: QuickstartScale = FULL,
    seed: int = 0,
    console: Console | None = None,
    started: float | None = None,
) -> dict[str, Any]:
    """Run the whole quickstart.

    Args:
        output: folder of the results; changed only once everything has succeeded.
        scale: the size of everything.
        seed: Seed of everything random.
        console: where to print.
        started: ``time.perf_counter()`` when the command began, if that was earlier: imports take seconds.

    Returns:
        What ``results.json`` holds.

    Raises:
        ValueError: the folder cannot be used, or the seed is negative.
        OSError: the disk is full.
    """
    if seed < 0:
        raise ValueError(f"seed={seed} must be 0 or above")
    console = console or Console()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    start, stages = time.perf_counter() if started is None else started, {}

    @contextmanager
    def stage(name: str, announcement: str) -> Iterator[None]:
        console.print(f"[bold]{announcement}[/bold]")
        begin = time.perf_counter()
        yield
        stages[name] = time.perf_counter() - begin

    folder = Folder(output, option="--output", plan=RESULTS, before=())
    folder.check(lambda path: differences({"kind": (folder.results or {}).get("kind")}, {"kind": KIND}))
    with folder.locked(), folder.staged(free_bytes=100 * 10**6) as staging, silenced():
        environment = describe_environment(device)
        with stage("conversion", "1/6 Converting: all-MiniLM-L6-v2 made linear, without training"):
            conversion = convert(scale, seed, device, console, start)
        from linformers.commands import quickstart_training as training

        with stage("tokenizer", "2/6 Reading the books and training a tokenizer"):
            corpus = training.read_corpus(scale)
        with stage("pretraining", "3/6 Pretraining: Linformer, Transformer, and a control without attention"):
            runs = training.pretrain_models(scale, corpus, seed, staging, device, console)
        with stage("fine-tuning", "4/6 Fine-tuning: which book is a long passage from?"):
            task = training.tell_books_apart(scale, corpus, seed, staging, device, console)
        with stage("measuring", "5/6 Measuring time and memory"):
            cost = training.measure_cost(scale, len(corpus.tokenizer), seed, device, console)
        console.print("[bold]6/6 Writing the report[/bold]")
        results = {
            "kind": KIND,
            "format": 1,
            "command": command_line(),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "fast": scale == FAST,
            "seed": seed,
            "seconds": time.perf_counter() - start,
            "stages": stages,
            "environment": environment,
            "settings": asdict(scale),
            "data": {
                "books": [
                    {"title": book.title, "author": book.author, "gutenberg_id": book.gutenberg_id}
                    for book in corpus.books
                ],
                "vocabulary": len(corpus.tokenizer),
                "train_tokens": _count(corpus.train),
                "held_out_tokens": _count(corpus.held_out),
            },
            "conversion": conversion,
            "pretraining": runs,
            "passages": task,
            "cost": cost,
            "next": next_commands(output, seed, find_teacher()),
        }
        report = document(results)
        report.write_charts(staging)
        (staging / "report.html").write_text(report.as_html(), encoding="utf-8")
        text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (staging / RESULTS).write_text(text, encoding="utf-8")
    conclude(results, output, console)
    return results


def _count(regions: Sequence[Sequence[np.ndarray]]) -> int:
    return sum(len(region) for book in regions for region in book)
