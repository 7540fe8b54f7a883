"""Live progress of a training run: a bar in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


def clock(seconds: float | int) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class TrainProgress(TrainerCallback):
    """Shows the step, the training loss, tokens per second and the time left.

    Args:
        console: where to print. A terminal gets a bar that moves; anything else a line every ``every`` seconds.
        title: name of the run.
        tokens_per_step: tokens that one optimiser step reads.
        every: seconds between plain lines.
        unit: what it counts instead of tokens.
    """

    def __init__(
        self, console: Console, title: str, tokens_per_step: int, *, every: float = 10.0, unit: str = "tokens"
    ) -> None:
        self.unit = unit
        self.console, self.title, self.tokens_per_step, self.every = console, title, tokens_per_step, every
        self.loss: float | None = None  # until the first log
        self.bar: Progress | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Start the clock, and the bar."""
        self.started = self.spoke = time.perf_counter()
        self.first = state.global_step  # above 0 where a run goes on from a checkpoint
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
            self.task = bar.add_task(self.title, total=state.max_steps, status="")
            bar.start()
            self.bar = bar

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Remember the latest training loss."""
        self.loss = (logs or {}).get("loss", self.loss)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Move the bar, or say a line when it is time."""
        now = time.perf_counter()
        done = max(1, state.global_step - self.first)
        rate = done * self.tokens_per_step / (now - self.started)
        status = ("" if self.loss is None else f"loss {self.loss:.3f}, ") + f"{rate:,.0f} {self.unit}/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step, status=status)
        elif now - self.spoke >= self.every:
            self.spoke = now
            left = (now - self.started) / done * (state.max_steps - state.global_step)
            self.console.print(
                f"{self.title}: step {state.global_step}/{state.max_steps}, {status}, {clock(left)} left",
                highlight=False,
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Take the bar away."""
        self.stop()

    def stop(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def __enter__(self) -> "TrainProgress":
        return self

    def __exit__(self, *exception: object) -> None:
        """Free the terminal also after a failure, when Trainer calls nothing."""
        self.stop()
