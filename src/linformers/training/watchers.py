"""What watches a training run: live progress, and TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from linformers.training.history import History


class Watcher:
    """Is told what happens in a run; of itself, does nothing."""

    def begin(self, history: History, steps: int) -> None:
        """The run begins, or goes on; it is to have ``steps`` steps."""

    def log(self, step: int, entry: Mapping[str, float]) -> None:
        """The training loss since the last entry, the learning rate and the gradient norm are known."""

    def step(self, history: History) -> None:
        """A step has been taken."""

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Held-out items have been measured."""

    def end(self) -> None:
        """The run ends, in whatever way."""


class TrainProgress(Watcher):
    """Shows the step, the training loss, tokens per second and the time left.

    Args:
        console: Where to print. A terminal gets a bar that moves; anything else a line every ``every`` seconds.
        title: Name of the run.
        per_step: Number of tokens that one optimiser step reads.
        every: Seconds between plain lines.
        unit: What it counts instead of tokens.
    """

    def __init__(
        self, console: Console, title: str, per_step: int, *, every: float = 10.0, unit: str = "tokens"
    ) -> None:
        self.console, self.title, self.per_step, self.every, self.unit = console, title, per_step, every, unit
        self.loss: float | None = None  # until the first log
        self.bar: Progress | None = None

    def begin(self, history: History, steps: int) -> None:
        """Start the clock, and the bar."""
        self.started = self.spoke = time.perf_counter()
        self.first, self.steps = history.step, steps  # the first is above 0 where a run goes on from a checkpoint
        if self.console.is_terminal:
            bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(compact=True),
                console=self.console,
                transient=True,
            )
            self.task = bar.add_task(self.title, total=steps, status="")
            bar.start()
            self.bar = bar

    def log(self, step: int, entry: Mapping[str, float]) -> None:
        """Remember the latest training loss."""
        self.loss = entry["loss"]

    def step(self, history: History) -> None:
        """Move the bar, or say a line when it is time."""
        now = time.perf_counter()
        done = history.step - self.first
        rate = done * self.per_step / (now - self.started)
        status = ("" if self.loss is None else f"loss {self.loss:.3f}, ") + f"{rate:,.0f} {self.unit}/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=history.step, status=status)
        elif now - self.spoke >= self.every:
            self.spoke = now
            left = clock((now - self.started) / done * (self.steps - history.step))
            self.console.print(
                f"{self.title}: step {history.step}/{self.steps}, {status}, {left} left", highlight=False
            )

    def end(self) -> None:
        """Take the bar away, also after a failure."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class TensorBoard(Watcher):
    """Writes the curves of a run where TensorBoard reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def begin(self, history: History, steps: int) -> None:
        """Open a file; what was logged after the checkpoint is logged again, and viewers drop what came before."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder), purge_step=history.step + 1 if history.step else None)

    def log(self, step: int, entry: Mapping[str, float]) -> None:
        """Write the training loss and what is beside it."""
        self._write("train", step, entry)

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics."""
        self._write("eval", step, metrics)

    def _write(self, part: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{part}/{name}", value, step)
        self.writer.flush()

    def end(self) -> None:
        """Close the file."""
        if self.writer is not None:
            self.writer.close()


def clock(seconds: float | int) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
