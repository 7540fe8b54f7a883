"""What a folder of scores or vectors holds and is to hold: options that stay, and files, each with the run it came in.

A run is one night's work: it begins with files that are new or have changed since the one before it, and ends when all
of them are done. A start of the command goes on with a run that has not ended, whatever has come in meanwhile.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from linformers.files.inputs import Input
from linformers.files.settings import differences

PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """What a folder holds, and is to hold.

    Args:
        fixed: What no start may change: model, options, columns.
        inputs: Bytes and stamp of each file, by its identity, and the number of the run it came in.
        run: Number of the last run, from 1.
        measured: What was measured before the first row was read, and holds for all of them.
    """

    fixed: dict[str, Any]
    inputs: dict[str, tuple[int, str, int]]
    run: int = 1
    measured: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """The plan of a file.

        Raises:
            ValueError: It is damaged, or of an earlier version.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["fixed"]["format"] != 2:
                raise ValueError(f"format {found['fixed']['format']}")
            inputs = {name: tuple(entry) for name, entry in found.pop("inputs").items()}
            return cls(inputs=inputs, **found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged, or of another version ({error})") from error

    def as_json(self) -> str:
        """The content of its file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def differences(self, fixed: dict[str, Any]) -> list[str]:
        """What is not as it was."""
        return differences(self.fixed, json.loads(json.dumps({**fixed, "format": 2})))


@dataclass(frozen=True)
class Tonight:
    """What a start finds.

    Args:
        plan: What the folder is to hold.
        files: Its files, those of this run first.
        fresh: Those of this run.
        changed: How many of them take the place of an earlier version.
        gone: Files that are no longer there, whose rows stay.
        lost: Names of files that went before they were read to their end, whose rows are taken away.
        nothing_new: Whether the run before it had ended, and nothing has come.
    """

    plan: Plan
    files: list[Input]
    fresh: list[Input]
    changed: int = 0
    gone: int = 0
    lost: tuple[str, ...] = ()
    nothing_new: bool = False


def plan_run(
    before: Plan | None,
    fixed: dict[str, Any],
    found: Sequence[Input],
    ended: bool,
    complete: Callable[[Input], bool],
) -> Tonight:
    """What is to be done.

    Args:
        before: The plan of earlier starts.
        fixed: What no start may change.
        found: The files that are there.
        ended: Whether the last run has ended.
        complete: Whether a file was read to its end.
    """
    fixed = {**fixed, "format": 2}
    if before is None:
        return Tonight(Plan(fixed, {file.identity: (file.bytes, file.stamp, 1) for file in found}), [*found], [*found])
    fresh = {file.identity for file in found if before.inputs.get(file.identity, ())[:2] != (file.bytes, file.stamp)}
    here = {file.identity for file in found}
    away = [Input(name, size, stamp) for name, (size, stamp, _) in before.inputs.items() if name not in here]
    gone = [file for file in away if complete(file)]
    run = before.run + 1 if ended and fresh else before.run
    inputs = {
        file.identity: (file.bytes, file.stamp, run if file.identity in fresh else before.inputs[file.identity][2])
        for file in (*found, *gone)
    }
    files = sorted((*found, *gone), key=lambda file: inputs[file.identity][2] < run)
    return Tonight(
        Plan(fixed, inputs, run, before.measured),
        files,
        [file for file in files if inputs[file.identity][2] == run],
        changed=len(fresh & before.inputs.keys()),
        gone=len(gone),
        lost=tuple(file.name for file in away if file not in gone),
        nothing_new=ended and not fresh,
    )
