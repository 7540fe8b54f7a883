"""The folder of a run: what may be in it, that one run at a time writes to it, and what can be gone on from."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from linformers.files.checkpoints import Checkpoints
from linformers.files.environment import command_line
from linformers.files.folders import check_no_file, damage, reports_full_disk
from linformers.files.rejects import TooManyRejects

RECIPE, RUN, RESULTS, MODEL = "recipe.yaml", "run.json", "results.json", "model"


@dataclass(frozen=True)
class Folder:
    """The folder of a run.

    It holds what was made before training (``tokenizer``); from when training begins ``recipe.yaml``, ``run.json``,
    ``checkpoints``, ``best`` and ``logs``; at the end ``model`` and ``results.json``.

    Args:
        path: of the folder.
        option: what the user calls it.
        plan: name of the file that decides the run and marks its beginning.
        before: what may be there before training begins.
    """

    path: Path
    option: str = "output.folder"
    plan: str = RECIPE
    before: tuple[str, ...] = ("tokenizer", ".unfinished-tokenizer", ".old-tokenizer")

    @property
    def begun(self) -> bool:
        """Whether training has begun; what is there before that is left over and made anew."""
        return (self.path / self.plan).is_file()

    @property
    def results(self) -> dict[str, Any] | None:
        """Results of a finished run."""
        try:
            return json.loads((self.path / RESULTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def check(self, differences: Callable[[Path], list[str]]) -> None:
        """Refuse a folder of something else.

        Args:
            differences: what another run's plan, at this path, has that is different.

        Raises:
            ValueError: it is a file, holds other files, or another run.
        """
        name = f"{self.option}={str(self.path)!r}"
        check_no_file(self.path, self.option)
        if self.begun:
            changed = differences(self.path / self.plan)
            if changed:
                more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
                raise ValueError(
                    f"{name} holds another run: {'; '.join(changed[:3])}{more}. Name another folder, or "
                    "undo the change to go on with that run"
                )
        elif self.path.is_dir():
            ours = (*self.before, ".lock", f".{self.plan}", RUN, f".{RUN}")
            others = sorted(entry.name for entry in self.path.iterdir() if entry.name not in ours)
            if others:
                raise ValueError(f"{name} holds other files ({', '.join(others[:3])}); name a new folder")

    def write(self, name: str, text: str) -> None:
        """Replace a file in one step."""
        unfinished = self.path / f".{name}"
        with reports_full_disk(self.path / name, unfinished, ""):
            unfinished.write_text(text, encoding="utf-8")
            os.replace(unfinished, self.path / name)

    def begin_or_continue(self, kind: str, plan: str, fingerprint: str, **facts: Any) -> None:
        """Write down a run that begins; of one that has begun, check that it reads the same text.

        Args:
            kind: the command.
            plan: content of the plan; once it is there, the run has begun.
            fingerprint: changes with the text that is read.
            facts: what else ``run.json`` should hold.

        Raises:
            ValueError: the text has changed.
        """
        if self.begun:
            before = json.loads((self.path / RUN).read_text(encoding="utf-8"))["data_fingerprint"]
            if before != fingerprint:
                raise ValueError(
                    f"the data of this run have changed since it began in {self.path}; restore them, or name another "
                    f"{self.option}"
                )
            return
        run = {
            "kind": kind,
            "command": command_line(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "git_commit": git_commit(),
            "data_fingerprint": fingerprint,
            **facts,
        }
        self.write(RUN, json.dumps(run, indent=1) + "\n")
        self.write(self.plan, plan)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder, and take it away if training never begins in it.

        Raises:
            ValueError: another run is in it, or it is a file.
        """
        check_no_file(self.path, self.option)
        made = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")  # the system lets go of it when a process dies, however it dies
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"another run is writing to {self.option}={str(self.path)!r} now; wait, or name another"
            ) from error
        try:
            yield
        except TooManyRejects:
            made = False  # its message names the file that lists them
            raise
        finally:
            lock.release()
            (self.path / ".lock").unlink(missing_ok=True)
            if made and not self.begun:  # failed before training began: as if nothing had happened
                shutil.rmtree(self.path, ignore_errors=True)


def warn(console: Console, text: str) -> None:
    """Print a warning."""
    console.print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True)


def newest_checkpoint(checkpoints: Checkpoints, console: Console) -> str | None:
    """The checkpoint to go on from, said aloud."""
    checkpoint = checkpoints.newest_whole(lambda text: warn(console, text))
    if checkpoint is None:
        return None
    console.print(f"Going on from {checkpoint}.", highlight=False, soft_wrap=True)
    return str(checkpoint)


def best_weights(best: Path, last: Path, console: Console) -> Path:
    """The folder of the best weights; the last checkpoint where that is damaged."""
    wrong = damage(best)
    if wrong is None:
        return best
    warn(console, f"{best} is damaged ({wrong}); the last weights take its place")
    return last


def git_commit() -> str | None:
    """Commit of the working directory, with ``+`` where files differ from it; None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() + "+" * bool(changes.stdout.strip()) if commit.returncode == 0 else None
