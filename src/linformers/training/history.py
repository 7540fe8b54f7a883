"""How far a run is and what happened on the way: what a checkpoint holds beside weights and optimiser."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

STATE = "state.json"
FORMAT = 2  # 1 was written beside the history of transformers' Trainer


@dataclass(kw_only=True)
class History:
    """A run up to some step.

    Args:
        step: Optimiser steps done.
        seconds: Time spent on them, over all starts of the run.
        log: Step, and training loss (a mean since the entry before), learning rate and gradient norm.
        evaluations: Step and metrics of every evaluation.
        unlogged: Sum of the training losses since the last entry.
    """

    step: int = 0
    seconds: float = 0.0
    log: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    unlogged: float = 0.0

    @property
    def logged(self) -> int:
        """Step of the last entry."""
        return self.log[-1][0] if self.log else 0

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Step and training loss of every entry."""
        return [(step, entry["loss"]) for step, entry in self.log]

    def evaluations_since_best(self, metric: str, sign: int) -> int:
        """Evaluations after the best one; ``sign`` is 1 where more of the metric is better, -1 where less is."""
        values = [sign * metrics[metric] for _, metrics in self.evaluations]
        return len(values) - 1 - values.index(max(values)) if values else 0

    def write(self, folder: Path) -> None:
        """Write it into the folder of a checkpoint."""
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1)
        (folder / STATE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "History":
        """That of a checkpoint.

        Raises:
            ValueError: it is of another version of the package.
        """
        found = json.loads((folder / STATE).read_text(encoding="utf-8"))
        written = found.pop("format", 1)
        if written != FORMAT:
            raise ValueError(
                f"{folder} is a checkpoint of format {written}, of another version of linformers; this one goes on "
                f"from format {FORMAT}. Finish the run with that version, or start it anew in another folder"
            )
        found["log"], found["evaluations"] = ([(step, x) for step, x in found[name]] for name in ("log", "evaluations"))
        return cls(**found)
