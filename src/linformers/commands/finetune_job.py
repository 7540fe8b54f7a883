"""What all fine-tuning does alike: rows read and checked, encoded, and trained on for so many passes."""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from transformers import PreTrainedModel

from linformers.classification.data import count_cut
from linformers.classification.results import KIND
from linformers.classification.settings import PLAN, FinetuneSettings
from linformers.convert.load import longest_input
from linformers.data.tasks import TaskSources
from linformers.files.progress import ReadProgress
from linformers.files.rejects import Rejects
from linformers.files.run_folder import Folder
from linformers.training.job import Job
from linformers.training.processes import Layout, pick_device
from linformers.training.recipe import TrainingRecipe

REJECTS, SPLITS = "rejects.jsonl", "splits.json"


def sources_of(settings: FinetuneSettings) -> TaskSources:
    """Where the rows of a run come from."""
    named = {name: getattr(settings, name) for name in TaskSources.__dataclass_fields__}
    return TaskSources(**{**named, "kind": None if settings.kind in ("tags", "answers") else settings.kind})


class RowsJob(Job):
    """A fine-tuning run, of whatever rows.

    Attributes:
        task: The task with all its parts.
        parts: The same as the model reads them, by name.
        max_length: Tokens of the longest input.
        model: What is trained.
    """

    kind = KIND
    task: Any
    parts: dict[str, Any]
    max_length: int
    model: PreTrainedModel

    def __init__(self, settings: FinetuneSettings, console: Console | None) -> None:
        folder = Folder(Path(settings.output), option="output", plan=PLAN, before=(REJECTS, SPLITS))
        layout = Layout(device=pick_device(settings.device))
        super().__init__(folder, settings.as_json(), settings.differences, layout, console)
        self.settings = settings

    # --- data

    @abstractmethod
    def _task(self, rejects: Rejects, progress: ReadProgress) -> Any:
        """Read the rows, and make the task ready."""

    @abstractmethod
    def _notes(self, task: Any) -> Iterable[str]:
        """What a person should know of the task before it is trained on."""

    @abstractmethod
    def _part(self, name: str, seen: Callable[[int], None]) -> Any:
        """The rows of a part as the model reads them."""

    def _read(self) -> Any:
        """The task, with what is to be said of its rows."""
        (self.path / REJECTS).unlink(missing_ok=True)  # of a start that failed
        rejects = Rejects(path=self.path / REJECTS, max_share=self.settings.max_reject_share)
        with rejects, ReadProgress(self.console, "reading", unit="rows") as progress:
            task = self._task(rejects, progress)
        for line in rejects.notes():
            self.say(line)
        for name, part in task.parts.items():
            self.say(f"{name}: {len(part):,} rows ({part.source})")
        for line in self._notes(task):
            self.say(line)
        if task.reasons:
            counts = ", ".join(f"{count:,} {reason}" for reason, count in task.reasons.items())
            self.say(f"left out: {counts}; each with its reason in {rejects.path}")
            if rejects.first:
                self.say(f"the first reject: {rejects.first}")
        return task

    def _encode(self, title: str = "tokenising") -> dict[str, Any]:
        """All parts as the model reads them, and their fingerprint."""
        with ReadProgress(self.console, title, unit="rows") as progress:
            total = sum(map(len, self.task.parts.values()))

            def seen(rows: int) -> None:
                progress.reached((progress.count + rows) / total)
                progress.add(rows)

            parts = {name: self._part(name, seen) for name in self.task.parts}
        digest = hashlib.sha256(b"".join(part.fingerprint() for part in parts.values()))
        self.fingerprint = digest.hexdigest()[:16]
        return parts

    def _say_cut(self, sizes: np.ndarray) -> None:
        """Tell how many training texts are cut, and what would cut fewer."""
        part = self.task.train
        if not self.parts["train"].cut:
            return
        longer = [self.max_length * 2**power for power in range(1, 8)]
        found = count_cut(sizes, len(part), [self.max_length, *longer])
        text = f"{found[0]:,} of {len(part):,} training texts cut at {self.max_length:,} tokens"
        enough = next((place for place, count in enumerate(found) if count <= found[0] / 5), None)
        if enough:
            text += f"; --max-length {longer[enough - 1]} would cut {found[enough]:,}"
            most = longest_input(self.model)
            if longer[enough - 1] > most:
                convert = self._convert(longer[enough - 1], most)
                text += f" (this model reads {most:,}; {convert} makes a longer one of it)"
        else:
            text += f"; the longest has {sizes.max():,}: cut such texts into rows of their own"
        self.say(text)

    def _convert(self, length: int, most: int) -> str:
        """The command that makes a model of ``most`` tokens read ``length``."""
        return f"linformers convert --max-length {length}"

    # --- training

    def _training(self) -> TrainingRecipe:
        """How long to train, and how fast."""
        settings = self.settings
        per_epoch = math.ceil(len(self.parts["train"]) / settings.batch_size)
        steps = max(1, round(settings.epochs * per_epoch))
        return TrainingRecipe(
            steps=steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup_share=settings.warmup_share,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            beta2=0.999,
            evaluate_every=settings.evaluate_every or per_epoch,
            early_stopping=settings.early_stopping,
            save_every=settings.save_every,
            log_every=max(1, min(50, steps // 10)),
            seed=settings.seed,
        )
