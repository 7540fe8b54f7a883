"""What all commands that train do: refuse, tidy, prepare, go on where the run stopped, train, publish, conclude."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from transformers import PreTrainedModel

from linformers.files.checkpoints import Checkpoints
from linformers.files.environment import describe_environment
from linformers.files.folders import write_folder
from linformers.files.run_folder import MODEL, RESULTS, RUN, Folder, best_weights, newest_checkpoint
from linformers.training import tensors
from linformers.training.engine import Batches, Engine, Objective
from linformers.training.history import History
from linformers.training.processes import Layout
from linformers.training.recipe import TrainingRecipe
from linformers.training.stopping import StopOnSignal, say_stopped
from linformers.training.watchers import TrainProgress, Watcher


@dataclass(kw_only=True)
class Prepared:
    """What a command gives to the engine.

    Args:
        model: What is trained.
        training: How long, how fast, and on what.
        objective: What is learned.
        batches: What it is learned from.
        fingerprint: Changes with the data.
        says: What the user is told of it.
        per_step: Number of tokens of a step, or of another ``unit``.
        unit: What the progress counts.
        measure_start: See ``Engine``.
        watchers: What watches the run, beside the progress.
    """

    model: PreTrainedModel
    training: TrainingRecipe
    objective: Objective
    batches: Batches
    fingerprint: str
    says: str
    per_step: int
    unit: str = "tokens"
    measure_start: bool = False
    watchers: Sequence[Watcher] = ()


class Job(ABC):
    """A run of a command on this process.

    Args:
        folder: Folder of the run.
        plan: Content of the file that decides the run.
        differences: What the plan of another run, at a path, has that is different.
        layout: This process among the others.
        console: Where to print.
        keep_checkpoints: Number of checkpoints to keep.

    Raises:
        ValueError: The folder holds something else.
    """

    folder: Folder
    path: Path
    plan: str
    layout: Layout

    kind: ClassVar[str]
    title: ClassVar[str] = "training"

    def __init__(
        self,
        folder: Folder,
        plan: str,
        differences: Callable[[Path], list[str]],
        layout: Layout,
        console: Console | None,
        keep_checkpoints: int = 2,
    ) -> None:
        folder.check(differences)
        self.folder, self.path, self.plan, self.layout = folder, folder.path, plan, layout
        self.console: Console = Console(quiet=True) if layout.rank > 0 else console or Console()
        self.checkpoints: Checkpoints = Checkpoints(self.path / "checkpoints", keep=keep_checkpoints)

    def run(self) -> int:
        """Begin the run, or go on with it.

        Returns:
            0, or 143 or 130 after SIGTERM or Ctrl-C, when a checkpoint has been written.

        Raises:
            ValueError: Something in the settings, the data or the folder does not do; nothing has been changed.
            DiskFullError: No space left; the last checkpoint is intact.
        """
        if self.folder.results is not None:
            self.say(f"{self.path} is finished already.")
            self.conclude(self.folder.results)
            return 0
        with self.folder.locked() if self.layout.rank == 0 else nullcontext():
            return self._run()

    def _run(self) -> int:
        self.layout.from_first(self.tidy)
        prepared = self.prepare()
        self.layout.from_first(lambda: self._begin_or_continue(prepared.fingerprint))
        checkpoint = self.layout.from_first(lambda: newest_checkpoint(self.checkpoints, self.console))
        parameters = prepared.model.num_parameters()
        self.say(f"[bold]{self.path}[/bold]: {parameters:,} parameters, {prepared.says}")
        with StopOnSignal(self.layout) as signals:
            history = Engine(
                prepared.model,
                prepared.objective,
                prepared.training,
                prepared.batches,
                layout=self.layout,
                checkpoints=self.checkpoints,
                checkpoint=checkpoint,
                best=self.path / "best",
                measure_start=prepared.measure_start,
                signals=signals,
                watchers=[
                    TrainProgress(self.console, self.title, prepared.per_step, unit=prepared.unit),
                    *prepared.watchers,
                ],
            ).train()
        if signals.received is not None:
            return say_stopped(signals.received, history.step, self.console)
        results = self.layout.from_first(lambda: self._publish(history, {"parameters": parameters}))
        self.conclude(results)
        return 0

    def _begin_or_continue(self, fingerprint: str) -> None:
        facts = {"processes": self.layout.world, "environment": describe_environment(self.layout.device)}
        self.folder.begin_or_continue(self.kind, self.plan, fingerprint, **facts)

    def _publish(self, history: History, facts: dict[str, Any]) -> dict[str, Any]:
        last = self.checkpoints.path(history.step)
        best = best_weights(self.path / "best", last, self.console)
        step = History.read(best).step
        results = {
            "kind": self.kind,
            "format": 1,
            "steps": history.step,
            "seconds": round(history.seconds, 3),
            **facts,
            "best": {"step": step, **dict(history.evaluations).get(step, {})},
            "evaluations": history.evaluations,
            "losses": history.losses,
            "environment": describe_environment(self.layout.device),
        }
        results |= self.results(results, best)

        def write(target: Path) -> None:
            self.write_model(target, results, best)
            for name in (self.folder.plan, RUN):
                shutil.copyfile(self.path / name, target / name)

        write_folder(self.path / MODEL, write, intact=f"{last} is intact")
        self.folder.write(RESULTS, json.dumps(results, indent=1) + "\n")
        return results

    def say(self, text: str) -> None:
        """Print a line, however long."""
        self.console.print(text, highlight=False, soft_wrap=True)

    # --- what each command does its own way

    def tidy(self) -> None:
        """Remove what a run that was killed has left half done."""
        self.checkpoints.tidy()

    @abstractmethod
    def prepare(self) -> Prepared:
        """Read the data and load the model; all processes call it."""

    @abstractmethod
    def results(self, found: dict[str, Any], best: Path) -> dict[str, Any]:
        """What ``results.json`` is to hold beside what is ``found`` of every run; ``best`` holds the weights."""

    @abstractmethod
    def write_model(self, target: Path, results: dict[str, Any], best: Path) -> None:
        """Fill the folder of the model that users load, with its card."""

    @abstractmethod
    def conclude(self, results: dict[str, Any]) -> None:
        """Say what came out, where it is, and what to do next."""


def copy_weights(best: Path, target: Path) -> None:
    """Copy weights and configuration, as they are."""
    for name in (tensors.WEIGHTS, "config.json"):
        shutil.copyfile(best / name, target / name)
