"""The folder of a pretraining run: what may be in it, and that one run at a time writes to it."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from linformers.training.checkpoints import reports_full_disk
from linformers.training.recipe import Recipe, load_recipe

RECIPE, RUN, RESULTS, MODEL = "recipe.yaml", "run.json", "results.json", "model"


@dataclass(frozen=True)
class Folder:
    """The folder of a run.

    It holds ``tokenizer``; from when training begins ``recipe.yaml``, ``run.json``, ``checkpoints``, ``best`` and
    ``logs``; at the end ``model`` and ``results.json``.
    """

    path: Path

    @property
    def begun(self) -> bool:
        """Whether training has begun; what is there before that is left over and made anew."""
        return (self.path / RECIPE).is_file()

    @property
    def results(self) -> dict[str, Any] | None:
        """Results of a finished run."""
        try:
            return json.loads((self.path / RESULTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def check(self, recipe: Recipe) -> None:
        """Refuse a folder of something else.

        Raises:
            ValueError: it is a file, holds other files, or a run of another recipe.
        """
        name = f"output.folder={str(self.path)!r}"
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{name} is a file; name a folder")
        if self.begun:
            changed = load_recipe(self.path / RECIPE).differences(recipe)
            if changed:
                more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
                raise ValueError(
                    f"{name} holds a run of another recipe: {'; '.join(changed[:3])}{more}. Name another folder, or "
                    "undo the change to go on with that run"
                )
        elif self.path.is_dir():
            ours = ("tokenizer", ".lock", ".unfinished-tokenizer", ".old-tokenizer", f".{RECIPE}", RUN, f".{RUN}")
            others = sorted(entry.name for entry in self.path.iterdir() if entry.name not in ours)
            if others:
                raise ValueError(f"{name} holds other files ({', '.join(others[:3])}); name a new folder")

    def write(self, name: str, text: str) -> None:
        """Replace a file in one step."""
        unfinished = self.path / f".{name}"
        with reports_full_disk(self.path / name, unfinished, ""):
            unfinished.write_text(text, encoding="utf-8")
            os.replace(unfinished, self.path / name)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other runs out of a folder, and take it away if training never begins in it.

    Raises:
        ValueError: another run is in it.
    """
    made = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / ".lock")  # the system lets go of it when a process dies, however it dies
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"another run is writing to output.folder={str(path)!r} now; wait, or name another") from error
    try:
        yield
    finally:
        lock.release()
        (path / ".lock").unlink(missing_ok=True)
        if made and not (path / RECIPE).exists():  # failed before training began: as if nothing had happened
            shutil.rmtree(path, ignore_errors=True)


def git_commit() -> str | None:
    """Commit of the working directory, with ``+`` where files differ from it; None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() + "+" * bool(changes.stdout.strip()) if commit.returncode == 0 else None
