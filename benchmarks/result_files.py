"""How the benchmarks write their tables: CSV under a header that says where and how they were measured."""

import csv
import datetime
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from linformers.files.environment import describe_environment


def write_csv(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    console: Console,
    *,
    notes: Sequence[str] = (),
    device: str = "cpu",
    packages: Sequence[str] = ("linformers", "torch", "transformers"),
) -> None:
    """Write rows of equal keys, floats to four digits, after the machine, the versions, the command and ``notes``."""
    machine = describe_environment(torch.device(device))
    place = f"{machine['processor']}, {machine['cores']} cores, {torch.backends.cpu.get_cpu_capability()}"
    if device != "cpu":
        place += f", {machine['device']}"
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    command = " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.write(f"# {place}; {machine['system']}; Python {machine['python']}; {versions}\n")
        file.write(f"# {datetime.date.today()}: {command}\n")
        file.writelines(f"# {note}\n" for note in notes)
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    console.print(f"written: {os.path.relpath(path)}")
