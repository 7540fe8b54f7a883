"""Cells: what is measured once for the same recipe, machine, versions and code, and then kept."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from linformers.commands.benchmark import Plan, measure_plan
from linformers.files.folders import write_file
from linformers.measure.results import MEASURED, identity
from linformers.report.document import slug

# The files of the package that decide what is learned.
LEARNED = ("attention/*.py", "models/*.py", "convert/*.py", "training/*.py", "classification/*.py", "data/*.py")
SPECTRUM = ("attention/*.py", "models/*.py", "analysis/spectrum*.py")


class Cell:
    """A folder for one thing that is measured.

    Args:
        folder: Folder of all cells.
        name: for people.
        identity: what must be the same for it to be used again.
    """

    def __init__(self, folder: Path, name: str, identity: Mapping[str, Any]) -> None:
        self.identity: dict[str, Any] = dict(identity)
        text = json.dumps(self.identity, sort_keys=True)
        self.fingerprint: str = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.path: Path = folder / f"{slug(name)}-{self.fingerprint}"

    @property
    def run(self) -> Path:
        """A folder for a command of ours, which goes on by itself."""
        return self.path / "run"

    @property
    def found(self) -> dict[str, Any] | None:
        """What was kept; None where nothing was, or it is damaged."""
        try:
            return json.loads((self.path / "cell.json").read_text(encoding="utf-8"))["found"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Write it down in one step."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"identity": self.identity, "found": found}, indent=1) + "\n"
        write_file(self.path / "cell.json", content, intact="cells before it are kept")
        return json.loads(content)["found"]


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where and how a target is run.

    Args:
        scale: name of it.
        folder: Folder of the results of all targets; cells lie in ``cells`` below.
        data: folder of the data sets; None = none.
        device: ``cpu`` or ``cuda``.
        console: where to print.
        notes: what a reader of the results must know; targets add to it.
    """

    scale: str
    folder: Path
    data: Path | None
    device: str
    console: Console
    notes: list[str] = field(default_factory=list)
    _places: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)

    def cell(self, name: str, options: Mapping[str, Any], code: Sequence[str] = LEARNED) -> Cell:
        """A cell on this machine, with these versions and this code."""
        patterns = tuple(code)
        if patterns not in self._places:
            self._places[patterns] = identity(self.device, {}, patterns)
        return Cell(self.folder / "cells", name, {**self._places[patterns], "options": dict(options)})

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def need(self, target: str, files: Sequence[str]) -> list[Path]:
        """Files of --data.

        Raises:
            FileNotFoundError: there is no --data, or one of them is not there.
        """
        if self.data is None:
            raise FileNotFoundError(
                f"{target} at scale {self.scale} needs --data, a folder with {', '.join(files)}; --scale smoke does "
                "without"
            )
        missing = [name for name in files if not list(self.data.glob(name))]
        if missing:
            raise FileNotFoundError(f"{target} at scale {self.scale}: --data {self.data} lacks {', '.join(missing)}")
        return [path for name in files for path in sorted(self.data.glob(name))]


def measured(plan: Plan, context: Context) -> list[dict[str, Any]]:
    """Rows of a benchmark; cells of equal settings are shared between targets."""
    options = {"settings": plan.settings.model_dump() | {"pass_limit": None}, **plan.options}
    cell = context.cell("time", options, MEASURED)
    cell.path.mkdir(parents=True, exist_ok=True)
    return measure_plan(plan, cell.run, context.console)


def stop_if(code: int) -> None:
    """Leave with the exit code of a run of ours that was stopped by a signal and has written a checkpoint.

    Raises:
        KeyboardInterrupt: by Ctrl-C.
        SystemExit: by SIGTERM.
    """
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise SystemExit(code)
