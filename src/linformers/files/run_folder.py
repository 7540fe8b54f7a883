"""The folder of a run: what may be in it, that one run at a time writes to it, and what can be gone on from."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from linformers.files.checkpoints import Checkpoints
from linformers.files.environment import command_line
from linformers.files.folders import (
    OLD,
    UNFINISHED,
    check_no_file,
    damage,
    remove_leftovers,
    reports_full_disk,
    write_file,
)
from linformers.files.rejects import TooManyRejects

RECIPE, RUN, RESULTS, MODEL = "recipe.yaml", "run.json", "results.json", "model"
LOCK = ".lock"


@dataclass(frozen=True)
class Folder:
    """The folder of a run: one run at a time writes to it, and what is not the run's is left alone.

    A run that trains makes ``tokenizer`` before training; from when training begins ``recipe.yaml``, ``run.json``,
    ``checkpoints``, ``best`` and ``logs``; at the end ``model`` and ``results.json``.

    Args:
        path: The folder.
        option: What the user calls it.
        plan: Name of the file (or folder) that decides the run and marks its beginning.
        before: Names that may be there before the run begins.
    """

    path: Path
    option: str = "output.folder"
    plan: str = RECIPE
    before: tuple[str, ...] = ("tokenizer",)

    @property
    def name(self) -> str:
        """The folder in messages."""
        return f"{self.option}={str(self.path)!r}"

    @property
    def begun(self) -> bool:
        """Whether the run has begun; what is there before that is left over and made anew."""
        return (self.path / self.plan).exists()

    @property
    def results(self) -> dict[str, Any] | None:
        """Results of a finished run."""
        try:
            found = json.loads((self.path / RESULTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def check(self, differences: Callable[[Path], list[str]]) -> None:
        """Refuse a folder of something else.

        Args:
            differences: What another run's plan, at this path, has that is different.

        Raises:
            ValueError: It is a file, holds other files, or another run.
        """
        check_no_file(self.path, self.option)
        if self.begun:
            changed = differences(self.path / self.plan)
            if changed:
                more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
                raise ValueError(
                    f"{self.name} holds another run: {'; '.join(changed[:3])}{more}. Name another folder, or "
                    "undo the change to go on with that run"
                )
        elif self.path.is_dir():
            ours = (*self.before, LOCK, RUN)
            entries = sorted(entry.name for entry in self.path.iterdir())
            others = [name for name in entries if name not in ours and not name.startswith((UNFINISHED, OLD))]
            if others:
                raise ValueError(f"{self.name} holds other files ({', '.join(others[:3])}); name a new folder")

    def write(self, name: str, content: str) -> None:
        """Replace a file in one step."""
        write_file(self.path / name, content)

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
        """Keep other runs out of the folder, and take it away if the run never begins in it.

        Raises:
            ValueError: Another run is in it, or it is a file, or cannot be written to.
        """
        check_no_file(self.path, self.option)
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        lock = FileLock(self.path / LOCK)  # the system lets go of it when a process dies, however it dies
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another run is writing to {self.name} now; wait, or name another") from error
        except OSError as error:
            raise ValueError(f"{self.name} cannot be written to ({error.strerror}); name another") from error
        try:
            remove_leftovers(self.path)
            yield
        except TooManyRejects:
            made = []  # its message names the file that lists them
            raise
        finally:
            lock.release()
            (self.path / LOCK).unlink(missing_ok=True)
            if made and not self.begun:  # failed before the run began: as if nothing had happened
                shutil.rmtree(self.path, ignore_errors=True)
                with suppress(OSError):  # something else lies in one of them by now
                    for parent in made[1:]:
                        parent.rmdir()

    @contextmanager
    def staged(self, free_bytes: int) -> Iterator[Path]:
        """A folder whose files replace those of the run one by one, its results last, when the block ends well.

        Args:
            free_bytes: Space on the disk that the run needs.

        Raises:
            OSError: Too little space, or none left; what was there before is unchanged.
        """
        free = shutil.disk_usage(self.path).free
        if free < free_bytes:
            raise OSError(
                f"only {free / 1e6:,.0f} MB are free where {self.name} lies, and the run needs up to "
                f"{free_bytes / 1e6:,.0f} MB; free some space or name another folder"
            )
        staging = self.path / f"{UNFINISHED}files"
        try:
            with reports_full_disk(self.path, "what was there before is unchanged"):
                staging.mkdir()
                yield staging
                files = [file for file in staging.rglob("*") if file.is_file()]
                for file in sorted(files, key=lambda file: (file == staging / RESULTS, file)):
                    target = self.path / file.relative_to(staging)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(file, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def warn(console: Console, text: str) -> None:
    """Print a warning."""
    console.print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True)


def newest_checkpoint(checkpoints: Checkpoints, console: Console) -> Path | None:
    """The checkpoint to go on from, said aloud."""
    checkpoint = checkpoints.newest_whole(lambda text: warn(console, text))
    if checkpoint is None:
        return None
    console.print(f"Going on from {checkpoint}.", highlight=False, soft_wrap=True)
    return checkpoint


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
