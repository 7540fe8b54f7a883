"""A scoring run, and what is said in the end."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from linformers.scoring.networks import hash_model
from linformers.scoring.plan import Tonight
from linformers.scoring.queue import write_queue
from linformers.scoring.runs import Outcome, check_totals, describe_output, describe_totals, run_job
from linformers.scoring.scores import ScoreJob
from linformers.scoring.settings import ScoreSettings
from linformers.scoring.work import Job

CALIBRATION = "calibration.json"


def run_score(settings: ScoreSettings, console: Console) -> dict[str, Any]:
    """Score everything that is new, or what an earlier start has left; returns what ``results.json`` holds.

    Raises:
        ValueError: an option, a model or an output folder that cannot be used, an option that has changed, or (with
            all scores written) no row was scored, or too many were rejected.
        OSError: an input that is not there, or cannot be read now.
    """
    queued: list[tuple[Path, int]] = []

    def conclude(job: Job, tonight: Tonight) -> None:
        if settings.queue and tonight.fresh:
            queued.append(write_queue(job, tonight.fresh, tonight.plan.run))

    outcome = run_job(ScoreJob, settings, hash_model(Path(settings.model)), console, conclude)
    for line in _conclude(settings, outcome, queued):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    check_totals(outcome)
    return outcome.results


def thresholds(given: Sequence[str], options: Mapping[str, Any]) -> dict[str, float]:
    """The thresholds of a queue: ``LABEL=P``, or the folder of a calibration, which has both.

    Args:
        given: What was given for ``--queue``.
        options: Those of the scoring run, which must read as the calibration did.

    Raises:
        ValueError: It is neither, or the calibration is of another model or another way of reading.
    """
    found: dict[str, float] = {}
    for text in given:
        path = Path(text) / CALIBRATION
        if path.is_file():
            facts = json.loads(path.read_text(encoding="utf-8"))
            _check_calibration(text, facts, options)
            found[facts["target"]] = facts["threshold"]
            continue
        label, _, least = text.rpartition("=")
        try:
            found[label] = float(least)
        except ValueError as error:
            raise ValueError(
                f"queue={text!r} must be LABEL=P, for instance spam=0.9, or the output folder of linformers calibrate"
            ) from error
    return found


def _check_calibration(folder: str, facts: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    if facts["model"]["sha256"] != hash_model(Path(options["model"])):
        raise ValueError(
            f"queue={folder!r} is a calibration of another model ({facts['model']['name']}); calibrate again"
        )
    for name in ("max_length", "long", "overlap", "pool", "dtype"):
        before, now = facts["reading"].get(name, 0), options[name]
        if before != now:
            raise ValueError(
                f"{name}={now!r} is not {before!r}, with which queue={folder!r} was calibrated; give the same, or "
                "calibrate again"
            )


def _conclude(settings: ScoreSettings, outcome: Outcome, queued: list[tuple[Path, int]]) -> Iterator[str]:
    new = outcome.new
    yield from describe_totals(outcome)
    if new.more["long"]:
        what = "cut off" if settings.long == "truncate" else f"read in pieces ({settings.pool} of them)"
        yield f"{new.more['long']:,} documents were longer than the model reads at once, and {what}"
    if new.more["entities"]:
        yield f"{new.more['entities']:,} entities, each with its label, characters and text"
    for path, rows in queued:
        flagged = new.more["flagged"]
        most = f" (the surest {rows:,})" if rows < flagged else ""
        yield f"{flagged:,} flagged for review{most}, the surest first: {path}, and .parquet beside it"
    yield from describe_output(outcome)
    yield f"next: linformers report {settings.output}"
