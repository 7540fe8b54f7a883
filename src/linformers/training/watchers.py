"""What watches a training run: live progress, and TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from linformers.files.progress import ReadProgress
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
    """Shows the step, the training loss, tokens per second and the time left; see ``ReadProgress``.

    Args:
        console: Where to print.
        title: Name of the run.
        per_step: Number of tokens that one optimiser step reads.
        unit: What it counts instead of tokens.
    """

    progress: ReadProgress
    per_step: int

    def __init__(self, console: Console, title: str, per_step: int, *, unit: str = "tokens") -> None:
        self.progress, self.per_step = ReadProgress(console, title, unit=unit), per_step
        self.loss = ""  # until the first log

    def begin(self, history: History, steps: int) -> None:
        """Start the clock, and the bar."""
        self.steps = steps
        self.progress.first = history.step / steps
        self.progress.__enter__()

    def log(self, step: int, entry: Mapping[str, float]) -> None:
        """Remember the latest training loss."""
        self.loss: str = f"loss {entry['loss']:.3f}, "

    def step(self, history: History) -> None:
        """Show the state when it is time."""
        self.progress.note = f"step {history.step}/{self.steps}, {self.loss}"
        self.progress.reached(history.step / self.steps)
        self.progress.add(self.per_step)

    def end(self) -> None:
        """Take the bar away, also after a failure."""
        self.progress.__exit__()


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
