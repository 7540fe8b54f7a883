"""Progress of long work: a bar in a terminal, plain lines elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

BAR_EVERY, PLAIN_EVERY = 0.2, 10.0  # seconds between two states of the bar, and between plain lines


class ReadProgress:
    """Shows how much has been read, how much a second and the time left.

    Args:
        console: where to print; None prints nothing. A terminal gets a bar that moves, anything else plain lines.
        title: what is read.
        unit: what `add` counts.

    Attributes:
        first: share that was done before, and took none of the time.
        note: what to say beside it.
    """

    console: Console | None
    title: str
    unit: str
    first: float
    count: int
    note: str
    started: float

    def __init__(self, console: Console | None, title: str, *, unit: str = "tokens") -> None:
        self.console, self.title, self.unit = console, title, unit
        self.first, self.share, self.count, self.note = 0.0, 0.0, 0, ""
        self.bar: Progress | None = None

    def __enter__(self) -> "ReadProgress":
        self.started = self.spoke = time.perf_counter()
        if self.console is not None and self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TaskProgressColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(compact=True),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task: TaskID = self.bar.add_task(self.title, total=1.0, status="")
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def say(self, text: str) -> None:
        """Print a line above it."""
        if self.console is not None:
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def reached(self, share: float) -> None:
        """Say what share of the bytes has been read."""
        self.share: float = share

    def add(self, count: int) -> None:
        """Count what has been read, and show the state when it is time."""
        self.count += count
        now = time.perf_counter()
        if self.console is None or now - self.spoke < (BAR_EVERY if self.bar else PLAIN_EVERY):
            return
        self.spoke: float = now
        seconds = now - self.started
        status = f"{self.note}{self.count:,} {self.unit}, {self.count / seconds:,.0f} {self.unit}/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=self.share, status=status)
            return
        left = clock(seconds * (1 - self.share) / (self.share - self.first)) if self.share > self.first else "?"
        self.console.print(f"{self.title}: {self.share:.0%}, {status}, {left} left", highlight=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
