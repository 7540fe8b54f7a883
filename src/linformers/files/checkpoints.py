"""The checkpoints of a run: written whole or not at all, checked before they are used."""

import re
from collections.abc import Callable
from pathlib import Path

from linformers.files.folders import damage, remove_folder, remove_leftovers, write_folder


class Checkpoints:
    """The numbered checkpoints of a run, newest first.

    Args:
        folder: that holds ``checkpoint-<step>`` folders.
        keep: how many to keep; 2 or more, so that damage to the newest is no loss of the run.
    """

    folder: Path
    keep: int

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def path(self, step: int) -> Path:
        """The folder of a step."""
        return self.folder / f"checkpoint-{step}"

    def steps(self) -> list[int]:
        """Steps that have a folder, whole or not, newest first."""
        if not self.folder.is_dir():
            return []
        found = (re.fullmatch(r"checkpoint-(\d+)", path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def newest_whole(self, report: Callable[[str], None]) -> Path | None:
        """The newest checkpoint that can be trusted; damaged ones are reported.

        Raises:
            ValueError: there are checkpoints, but none is whole.
        """
        steps = self.steps()
        for step in steps:
            wrong = damage(self.path(step))
            if wrong is None:
                return self.path(step)
            report(f"{self.path(step)} is damaged ({wrong}); it is not used")
        if steps:
            raise ValueError(
                f"all {len(steps)} checkpoints in {self.folder} are damaged; move the folder away to start anew"
            )
        return None

    def write(self, step: int, write: Callable[[Path], None]) -> Path:
        """Write the checkpoint of a step, then remove the oldest ones beyond ``keep``.

        Raises:
            DiskFullError: no space left; the checkpoints before this one are intact.
        """
        write_folder(self.path(step), write, intact=self.intact(step))
        for old in self.steps()[self.keep :]:
            remove_folder(self.path(old))
        return self.path(step)

    def intact(self, step: int | None = None) -> str:
        """What a message about a full disk can say; nothing where there is no checkpoint but that of ``step``."""
        before = [other for other in self.steps() if other != step]
        return f"the checkpoint of step {before[0]} is intact" if before else ""

    def tidy(self) -> None:
        """Remove what a killed run left half written or half removed."""
        remove_leftovers(self.folder)
