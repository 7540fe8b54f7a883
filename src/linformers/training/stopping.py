"""Reasons to stop before the last step: a signal, or an evaluation that gets no better."""

import signal
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from linformers.training.processes import Layout

STOPPED_BY: dict[int, int] = {signal.SIGTERM: 143, signal.SIGINT: 130}


def say_stopped(number: int, step: int, console: Console) -> int:
    """Say that a signal has stopped the run; the exit code."""
    console.print(
        f"{signal.Signals(number).name}: stopped after step {step}, with a checkpoint. The same command goes on from "
        "it.",
        highlight=False,
        soft_wrap=True,
    )
    return STOPPED_BY[number]


def evaluations_since_best(log: Sequence[Mapping[str, Any]], metric: str = "loss", sign: int = -1) -> int:
    """Evaluations after the best one, from Trainer's history (which checkpoints hold).

    Args:
        log: the history.
        metric: what decides.
        sign: 1 where more is better, -1 where less is.
    """
    values = [sign * entry[f"eval_{metric}"] for entry in log if f"eval_{metric}" in entry]
    return len(values) - 1 - values.index(max(values)) if values else 0


def is_over(state: TrainerState, steps: int, patience: int | None, metric: str = "loss", sign: int = -1) -> bool:
    """Whether a run is at its end."""
    since = evaluations_since_best(state.log_history, metric, sign)
    return state.global_step >= steps or (patience is not None and since >= patience)


class StopEarly(TrainerCallback):
    """Stops when ``patience`` evaluations in a row were no better than the best; nothing to save, see ``is_over``."""

    def __init__(self, steps: int, patience: int, metric: str = "loss", sign: int = -1) -> None:
        self.end = (steps, patience, metric, sign)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Stop, and leave a checkpoint."""
        if is_over(state, *self.end):
            control.should_training_stop = control.should_save = True


class StopOnSignal(TrainerCallback):
    """On SIGTERM or Ctrl-C, finishes the step, writes a checkpoint and stops.

    Launchers pass signals on, so that a process may get the same one twice: only a Ctrl-C that comes ``PATIENCE``
    seconds after another ends the run at once (which costs no more than a kill).

    Attributes:
        received: the signal, or None.
    """

    PATIENCE = 3.0

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.received: int | None = None
        self._when = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopOnSignal":
        """Listen."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT == self.received and now - self._when > self.PATIENCE:
            raise KeyboardInterrupt
        self.received, self._when = number, now if self.received != number else self._when

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Stop all processes at the same step: the signal may reach one of them a step before another."""
        terminated = self.layout.any(self.received == signal.SIGTERM, args.device)
        interrupted = self.layout.any(self.received == signal.SIGINT, args.device)
        if terminated or interrupted:
            self.received = signal.SIGTERM if terminated else signal.SIGINT
            control.should_save = control.should_training_stop = True
