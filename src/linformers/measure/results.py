"""The results of a benchmark on disk: written after every cell, taken up again by the next run, never mixed."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import torch

import linformers
from linformers.files.environment import command_line, describe_environment
from linformers.files.run_folder import RESULTS, Folder
from linformers.files.settings import differences
from linformers.measure.cell import Measurement

KIND = "linformers benchmark"
TABLE, PLOT = "results.csv", "plot.png"
LEFT_OUT = "left out"  # how the problem of a cell begins that would take too long; judged anew by every run
Row = dict[str, Any]  # the fields of a Measurement, and a problem where there was no measuring
COLUMNS = (*(field.name for field in fields(Measurement)), "problem")


MEASURED = ("attention/*.py", "models/*.py", "measure/cell.py", "measure/contenders.py")


def identity(device: str, options: Mapping[str, Any], code: Sequence[str] = MEASURED) -> dict[str, Any]:
    """What must be the same for two cells to stand in one table.

    Args:
        device: where they are measured.
        options: that decide them.
        code: patterns of the package's files that decide them.
    """
    environment = describe_environment(torch.device(device))
    environment.pop("load_average")
    versions = environment.pop("versions")
    # A version does not change with every change of the code that is measured.
    versions["linformers code"] = _hash_of_code(tuple(code))
    return {"machine": environment, "versions": versions, "options": json.loads(json.dumps(options))}


@cache  # what was imported is what counts, whatever is changed meanwhile
def _hash_of_code(patterns: tuple[str, ...]) -> str:
    folder, total = Path(linformers.__file__).parent, hashlib.sha256()
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            total.update(path.read_bytes())
    return total.hexdigest()[:12]


class Results:
    """The rows that a folder holds.

    Args:
        path: Path of the folder; made if missing.
        identity: Identity of the rows that are to be added.
    """

    folder: Folder
    identity: dict[str, Any]

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = Folder(path, option="--output", plan=RESULTS, before=()), dict(identity)
        self.rows: list[Row] = []
        self.notes: list[str] = []

    @contextmanager
    def opened(self) -> Iterator["Results"]:
        """Read what the folder holds, and keep others out of it.

        Raises:
            ValueError: it holds something else, or cells of another machine, of other versions or options.
        """
        self.folder.check(self._differences)
        with self.folder.locked():
            before = self.folder.results or {"cells": [], "notes": []}
            rows, self.notes = before["cells"], before["notes"]
            self.rows = [row for row in rows if not row["problem"].startswith(LEFT_OUT)]
            yield self

    def _differences(self, path: Path) -> list[str]:
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            if before["kind"] != KIND:
                return [f"it is of {before['kind']!r}"]
            return differences(before["identity"], self.identity)
        except (ValueError, KeyError, TypeError):
            return [f"{path} cannot be read"]

    def find(self, name: str, length: int) -> Row | None:
        """The row of a cell, if there is one."""
        return next((row for row in self.rows if (row["name"], row["length"]) == (name, length)), None)

    def measured(self, name: str) -> list[Row]:
        """The rows with times of one contender, shortest first."""
        rows = [row for row in self.rows if row["name"] == name and not row["problem"]]
        return sorted(rows, key=lambda row: row["length"])

    def add(self, cell: Measurement | None, name: str, length: int, problem: str = "") -> Row:
        """Add a cell, or say why there is none, and write the files."""
        values = dict.fromkeys(COLUMNS) | (asdict(cell) if cell is not None else {})
        self.rows.append({**values, "name": name, "length": length, "problem": problem})
        self.write()
        return self.rows[-1]

    def write(self) -> None:
        """Replace ``results.json`` and ``results.csv``."""
        content = {
            "kind": KIND,
            "format": 1,
            "command": command_line(),
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "identity": self.identity,
            "notes": self.notes,
            "cells": self.rows,
        }
        self.folder.write(RESULTS, json.dumps(content, indent=1) + "\n")
        self.folder.write(TABLE, self.as_csv())

    def as_csv(self) -> str:
        """The rows under a header that says what they are."""
        machine, versions, options = (self.identity[key] for key in ("machine", "versions", "options"))
        text = io.StringIO()
        for what in (machine, versions, options):
            text.write(f"# {', '.join(f'{key} {value}' for key, value in what.items())}\n")
        text.write(f"# {command_line()}\n")
        text.writelines(f"# {note}\n" for note in self.notes)
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{v:.4g}" if isinstance(v, float) else v for key, v in r.items()} for r in self.rows)
        return text.getvalue()
