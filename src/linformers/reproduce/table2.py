"""Table 2: accuracy on the paper's tasks, by conversion and of pretrained Linformers.

The teacher of a task is an encoder that is fine-tuned by ``linformers finetune``. It is converted to our class, or made
linear in its own where ours knows none of its kind; measured as it is, distilled beside the task with every layer
taught, and measured again on the same test rows. A random E is fine-tuned without a teacher too; taught, it is CALD's
recipe (arXiv 2410.06846). Encoders of Figure 3 are fine-tuned as they are. Finished cells are kept, interrupted runs go
on.
"""

import inspect
import json
import shutil
import time
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from rich.console import Console
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from linformers import linearise, to_linformer
from linformers.checks import check_choice
from linformers.classification.data import EncodedPart, PadInputs
from linformers.classification.metrics import estimate, predictions, probabilities
from linformers.classification.objective import predict_logits
from linformers.classification.settings import FinetuneSettings
from linformers.commands.finetune import run_finetune
from linformers.convert.interface import Settings
from linformers.convert.load import reading
from linformers.convert.patches import ALL_FAMILIES
from linformers.data.tasks import TASKS, TaskSources, prepare_task
from linformers.files.folders import file_hash, write_folder
from linformers.files.rejects import Rejects
from linformers.files.settings import build
from linformers.report import plots
from linformers.report.document import Block, Chart, Table
from linformers.reproduce import claims, figure1, figure3, published, tiny
from linformers.reproduce.cells import Cell, Context, stop_if
from linformers.reproduce.scales import Scale, Table2Scale

TITLE = "Table 2: classification"
BOOKS = "books"  # the task made of the shipped books
STUDENT_OPTIONS = tuple(inspect.signature(to_linformer).parameters)[1:]
OWN_CLASS_OPTIONS = (
    *(name for name, one in inspect.signature(linearise).parameters.items() if one.kind == one.KEYWORD_ONLY),
    *(one.name for one in fields(Settings)),
)
SIZES = ("train_size", "validation_size", "test_size", "split_seed")


def files_of(task: str, scale: Table2Scale, context: Context) -> list[Path]:
    """The files of a task.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: no such task.
    """
    if task == BOOKS:
        return list(tiny.write_task(context.folder / "tiny"))
    if task not in TASKS:
        raise ValueError(f"table2.tasks.{task} is no task: choose of {', '.join((*TASKS, BOOKS))}")
    needed = list(scale.tasks[task].get("extra_train", []))
    for names in (TASKS[task].test, TASKS[task].train):
        there = [name for name in names if context.data is not None and (context.data / name).is_file()]
        needed.insert(0, there[0] if there else names[0])
    return context.need(f"table2 ({task})", needed)


def options_of(task: str, scale: Table2Scale, context: Context) -> dict[str, Any]:
    """Arguments of ``FinetuneSettings`` for a task."""
    options = {key: value for key, value in scale.tasks[task].items() if key != "student_epochs"}
    device = "auto" if context.device == "cuda" else "cpu"
    found: dict[str, Any] = {"task": task, "data": str(context.data), "save_every": 50, **options, "device": device}
    if task == BOOKS:
        train, test = files_of(task, scale, context)
        return found | {"task": str(train), "test": str(test), "data": None}
    return found | {"extra_train": tuple(str(path) for path in files_of(task, scale, context)[2:])}


def check(scale: Scale, context: Context) -> None:
    """Whether all is there, and all settings do."""
    size = scale.table2
    missing = []
    for task in size.tasks:
        try:
            files_of(task, size, context)
        except FileNotFoundError as error:
            missing.append(str(error))
    if missing:
        raise FileNotFoundError("; ".join(missing))
    made_by, known = to_linformer, STUDENT_OPTIONS
    if size.teacher is not None:
        path = figure1.encoder(size.teacher, context)
        with reading(path, "table2.teacher: "):
            config = AutoConfig.from_pretrained(path)
        if in_own_class(config):
            made_by, known = linearise, OWN_CLASS_OPTIONS
    for task in size.tasks:
        options = {"model": "model", "output": "output", **options_of(task, size, context)}
        build(FinetuneSettings, options, prefix=f"table2.tasks.{task}.")
        for name, student in size.students_of(task).items():
            for key in student:
                check_choice(f"argument of {made_by.__name__} in table2, student {name!r},", key, known)
    cells = figure3.grid(scale.figure3)
    unknown = [cell for cell in size.encoders.values() if cell not in cells]
    if unknown:
        raise ValueError(f"table2.encoders names {unknown[0]!r}, which is no cell of figure3: {', '.join(cells)}")
    if size.encoders:
        figure3.check(scale, context)


def in_own_class(config: Any) -> bool:
    """Whether a model has no counterpart among our classes."""
    return config.model_type not in ALL_FAMILIES


def made_linear(model: Any, options: dict[str, Any]) -> Any:
    """The student of a teacher."""
    return linearise(model, **options) if in_own_class(model.config) else to_linformer(model, **options)


class _Task:
    """The runs of one task."""

    def __init__(self, task: str, scale: Table2Scale, context: Context) -> None:
        self.name, self.scale, self.context = task, scale, context
        self.options = options_of(task, scale, context)
        self.cells: dict[str, Any] = {}
        # Where files lie does not matter, what is in them does.
        named = {
            key: value for key, value in self.options.items() if key not in ("data", "task", "test", "extra_train")
        }
        files = [file_hash(path) for path in files_of(task, scale, context)]
        self.identity = {"task": task, "files": files, **named}
        self._rows: Any = None

    def note(self, name: str, found: dict[str, Any]) -> None:
        """Add a cell to the results."""
        self.cells[name] = found
        value = found["metrics"]["accuracy"]
        text = f"accuracy {value['value']:.4f} ({value['low']:.4f} to {value['high']:.4f})"
        self.context.say(f"{self.name}, {name}: {text}")

    def cell(self, name: str, **identity: Any) -> Cell:
        """A cell of this task."""
        return self.context.cell(f"table2-{self.name}-{name}", {**self.identity, **identity})

    def train(self, name: str, model: Path | str, identity: Any, **options: Any) -> Cell:
        """Fine-tune, unless that is done.

        Args:
            name: Name of the cell.
            model: to start from.
            identity: what tells it from others.
            options: Fields of ``FinetuneSettings``.
        """
        told = {key: value for key, value in options.items() if key != "teacher"}
        cell = self.cell(name, model=identity, taught=options.get("teacher") is not None, **told)
        found = cell.found
        if found is None:
            cell.path.mkdir(parents=True, exist_ok=True)
            settings = FinetuneSettings(model=str(model), output=str(cell.run), **{**self.options, **options})
            quiet = Console(quiet=True) if self.context.scale == "smoke" else self.context.console
            stop_if(run_finetune(settings, console=quiet))
            results = json.loads((cell.run / "results.json").read_text(encoding="utf-8"))
            rows = pq.read_table(cell.run / "predictions.parquet", columns=["label", "predicted"]).to_pydict()
            kept = {key: results[key] for key in ("metrics", "seconds", "steps")}
            labels, predicted = (np.array(rows[key], dtype=object) for key in ("label", "predicted"))
            found = cell.keep({**kept, **about_rows(labels, predicted)})
        self.note(name, found)
        return cell

    def convert(self, name: str, teacher: Cell, options: dict[str, Any]) -> Cell:
        """Make the teacher linear, and measure it as it is."""
        cell = self.cell(f"{name}, converted", teacher=teacher.fingerprint, options=options)
        found = cell.found
        if found is None:
            model: Any = AutoModelForSequenceClassification.from_pretrained(teacher.run / "model")
            tokenizer = AutoTokenizer.from_pretrained(teacher.run / "model")
            torch.manual_seed(0)  # of a random E
            began = time.perf_counter()
            student = made_linear(model, options)
            seconds = time.perf_counter() - began

            def write(folder: Path) -> None:
                student.save_pretrained(folder)
                tokenizer.save_pretrained(folder)

            cell.path.mkdir(parents=True, exist_ok=True)
            write_folder(cell.run, write)
            found = cell.keep({**self.measure(student, tokenizer), "seconds": seconds})
        self.note(f"{name}, converted", found)
        return cell

    def measure(self, model: Any, tokenizer: Any) -> dict[str, Any]:
        """Metrics with intervals on the test rows, which rows are right, and rows a second."""
        if self._rows is None:
            options = {key: self.options[key] for key in (*SIZES, "task", "data", "test") if key in self.options}
            with Rejects() as rejects:
                task = prepare_task(TaskSources(extra_train=self.options.get("extra_train", ()), **options), rejects)
            assert task.test is not None
            self._rows = task, EncodedPart(task.test, tokenizer, self.options["max_length"])
        task, rows = self._rows
        began = time.perf_counter()
        logits = predict_logits(model.to(self.context.device), rows, PadInputs(tokenizer), 16)
        seconds = time.perf_counter() - began
        scores, labels = probabilities(logits, task.kind), task.test.labels
        metrics: dict[str, Any] = {name: asdict(value) for name, value in estimate(labels, scores, task.kind).items()}
        metrics["rows_per_second"] = len(rows) / seconds
        return {"metrics": metrics, **about_rows(labels, predictions(scores, task.kind))}

    def scratch(self, teacher: Cell, options: dict[str, Any], epochs: float) -> None:
        """The shape of a student with random weights, trained as long."""
        name = "from scratch"
        cell = self.cell(f"{name}, start", teacher=teacher.fingerprint, options=options)
        if not (cell.run / "config.json").is_file():
            model: Any = AutoModelForSequenceClassification.from_pretrained(teacher.run / "model")
            tokenizer = AutoTokenizer.from_pretrained(teacher.run / "model")
            torch.manual_seed(0)
            start = AutoModelForSequenceClassification.from_config(made_linear(model, options).config)

            def write(folder: Path) -> None:
                start.save_pretrained(folder)
                tokenizer.save_pretrained(folder)

            cell.path.mkdir(parents=True, exist_ok=True)
            write_folder(cell.run, write)
        self.train(name, cell.run, cell.fingerprint, epochs=epochs, learning_rate=self.scale.teacher_rate)


def about_rows(labels: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Which rows are right, in a short string, and the share of the commonest label."""
    bits = "".join("01"[int(one)] for one in labels == predicted)
    commonest = max(Counter(labels.tolist()).values()) / len(labels)
    return {"correct": {"rows": len(labels), "hex": f"{int(bits, 2):x}"}, "commonest": commonest}


def _start(scale: Table2Scale, context: Context) -> Path:
    """The teacher without attention dropout, for which PyTorch has no fused kernel on CPUs."""
    assert scale.teacher is not None
    source = Path(figure1.encoder(scale.teacher, context))
    target = context.folder / "start" / f"{source.name}-{figure1.weights_of(str(source))[:12]}"
    if not source.is_dir():
        return source

    def write(folder: Path) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = json.dumps(config | {"attention_probs_dropout_prob": 0.0}, indent=1)
        (folder / "config.json").write_text(text, encoding="utf-8")

    if not target.is_dir():
        write_folder(target, write)
    return target


def run(scale: Scale, context: Context) -> dict[str, Any]:
    """Run what has not run."""
    size = scale.table2
    if size.encoders:
        figure3.train(list(dict.fromkeys(size.encoders.values())), scale.figure3, context)
    start = _start(size, context) if size.teacher is not None else None
    found = {}
    for name in size.tasks:
        task = _Task(name, size, context)
        epochs = size.tasks[name].get("student_epochs", size.tasks[name].get("epochs", 1.0))
        for label, pretrained in size.encoders.items():
            cell = figure3.cell_of(pretrained, scale.figure3, context)
            task.train(label, cell.run / "model", cell.fingerprint, learning_rate=size.teacher_rate)
        if start is not None:
            identity = figure1.weights_of(str(start))
            teacher = task.train("teacher", start, identity, learning_rate=size.teacher_rate)
            students = size.students_of(name)
            for label, options in students.items():
                cell = task.convert(label, teacher, options)
                ways: dict[str, str | None] = {"distilled": str(teacher.run / "model")}
                if options.get("projection_init") == "random":
                    ways = {"fine-tuned": None, **ways}  # the naive way; and CALD's (arXiv 2410.06846)
                for way, taught_by in ways.items() if epochs else ():
                    task.train(
                        f"{label}, {way}",
                        cell.run,
                        cell.fingerprint,
                        teacher=taught_by,
                        epochs=epochs,
                        learning_rate=size.student_rate,
                    )
            if name in size.scratch:
                task.scratch(teacher, next(iter(students.values())), epochs)
        found[name] = task.cells
    if BOOKS not in size.tasks:
        context.notes.append("test rows are those of --data, not always those of the paper; see its README")
    if size.teacher is not None:
        context.notes.append(f"not pretrained as in the paper: {size.teacher} is fine-tuned and then made linear")
    return {"cells": found, "sizes": size.tasks}


def evidence(results: dict[str, Any]) -> list[claims.Evidence]:
    """Claims (a) to (d)."""
    return claims.of_table2(results["cells"], results["sizes"])


def published_name(name: str) -> str:
    """The row of the paper's table that is nearest to one of ours."""
    plain = name.removesuffix(", converted").removesuffix(", distilled").removesuffix(", fine-tuned")
    plain = plain.removeprefix("naive, ").removeprefix("slots only, ").removeprefix("linear, none, ")
    for prefix, suffix in (
        ("linear, key_value, ", ", shared kv"),
        ("linear, layerwise, ", ", shared kv, shared layer"),
    ):
        if plain.startswith(prefix):
            plain = plain.removeprefix(prefix) + suffix
    return "RoBERTa-base" if plain == "teacher" else plain


def compare(results: dict[str, Any]) -> Table:
    """Accuracies, ours beside published."""
    rows = []
    for task, cells in results["cells"].items():
        for name, cell in cells.items():
            value, theirs = cell["metrics"]["accuracy"], published.accuracy(published_name(name), task)
            rows.append(
                (
                    f"{task}: {name}",
                    f"{100 * value['value']:.1f}",
                    f"{100 * value['low']:.1f} to {100 * value['high']:.1f}",
                    "-" if theirs is None else f"{100 * theirs:.1f}",
                    "-" if theirs is None else published_name(name),
                )
            )
    head = ("task and model", "accuracy, %", "95% interval", "published, %", "of the paper's model")
    return Table(caption="Accuracy on the test rows", head=head, rows=rows)


def blocks(results: dict[str, Any]) -> list[Block]:
    """A chart for each task."""
    found: list[Block] = []
    for task, cells in results["cells"].items():
        values = {name: cell["metrics"]["accuracy"] for name, cell in cells.items()}
        bars = [
            ("transformer" if name in ("teacher", "RoBERTa-base") else "linformer", plots.plain(name), value["value"])
            for name, value in values.items()
        ]
        rows = [
            (name, value["value"], value["low"], value["high"], published.accuracy(published_name(name), task))
            for name, value in values.items()
        ]
        best = max(values, key=lambda name: values[name]["value"])
        found.append(
            Chart(
                name=f"accuracy-{task}",
                picture=plots.plot_passages(bars, [(one["low"], one["high"]) for one in values.values()], "accuracy"),
                alt=f"Bars of accuracy on {task}; the highest is {best} with {values[best]['value']:.1%}.",
                caption=f"{task}: accuracy on the test rows; the lines are 95% intervals.",
                head=("model", "accuracy", "low", "high", "published"),
                rows=rows,
            )
        )
    return found
