"""Progress of reading a corpus: a bar in a terminal, plain lines elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

PLAIN_EVERY = 10.0  # seconds between plain lines


class ReadProgress:
    """Shows how much has been read, how much a second and the time left.

    Args:
        console: where to print; None prints nothing. A terminal gets a bar that moves, anything else plain lines.
        title: what is read.
        unit: what `add` counts.
    """

    def __init__(self, console: Console | None, title: str, *, unit: str = "tokens") -> None:
        self.console, self.title, self.unit = console, title, unit
        self.share, self.count = 0.0, 0
        self.started = self.spoke = time.perf_counter()
        self.bar: Progress | None = None

    def __enter__(self) -> "ReadProgress":
        if self.console is not None and self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TaskProgressColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(compact=True),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task(self.title, total=1.0, status="")
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def reached(self, share: float) -> None:
        """Say what share of the bytes has been read."""
        self.share = share

    def add(self, count: int) -> None:
        """Count what has been read, and show the state when it is time."""
        self.count += count
        now = time.perf_counter()
        if self.console is None or now - self.spoke < (0.2 if self.bar else PLAIN_EVERY):
            return
        self.spoke = now
        seconds = now - self.started
        status = f"{self.count:,} {self.unit}, {self.count / seconds:,.0f} {self.unit}/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=self.share, status=status)
            return
        left = seconds * (1 - self.share) / self.share if self.share > 0 else float("nan")
        minutes, second = divmod(round(left), 60) if left == left else (0, 0)
        self.console.print(
            f"{self.title}: {self.share:.0%}, {status}, {minutes}:{second:02} left", highlight=False, soft_wrap=True
        )
