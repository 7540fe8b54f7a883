"""A signal that ends a run before its last step, with a checkpoint."""

import signal
import time
from types import FrameType
from typing import Any

from rich.console import Console

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


class StopOnSignal:
    """Listens for SIGTERM and Ctrl-C, upon which a run is to finish its step, write a checkpoint and stop.

    Launchers pass signals on, so that a process may get the same one twice: only a Ctrl-C that comes ``PATIENCE``
    seconds after another ends the run at once (which costs no more than a kill).

    Attributes:
        received: The signal, or None.
    """

    PATIENCE = 3.0

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.received: int | None = None
        self._when = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopOnSignal":
        """Listen."""
        for number in STOPPED_BY:
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

    def received_by_any(self) -> bool:
        """Whether any process has received one: all must stop at the same step, and it may reach one of them later."""
        counts = self.layout.total(*(float(self.received == number) for number in STOPPED_BY))
        for number, count in zip(STOPPED_BY, counts, strict=True):
            if count:
                self.received = number
                return True
        return False
