"""A scoring run, and what is said in the end."""

from pathlib import Path
from typing import Any

from rich.console import Console

from linformers.files.run_folder import RESULTS
from linformers.scoring.networks import hash_model
from linformers.scoring.runs import check_totals, describe_totals, run_job
from linformers.scoring.scores import ScoreJob
from linformers.scoring.settings import ScoreSettings
from linformers.scoring.units import Totals


def run_score(settings: ScoreSettings, console: Console) -> dict[str, Any]:
    """Score everything, or what an earlier start has left; returns what ``results.json`` holds.

    Raises:
        ValueError: an option, a model or an output folder that cannot be used, an input or option that has changed, or
            (with all scores written) no row was scored, or too many were rejected.
        OSError: an input that is not there, or cannot be read now.
    """
    results, totals = run_job(ScoreJob, settings, hash_model(Path(settings.model)), console)
    _conclude(settings, totals, console)
    check_totals(ScoreJob, settings, totals)
    return results


def _conclude(settings: ScoreSettings, totals: Totals, console: Console) -> None:
    shards, output = f"{settings.output}/{ScoreJob.SHARDS}", settings.output
    say = lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False)  # noqa: E731
    for line in describe_totals(ScoreJob, settings, totals):
        say(line)
    if totals.more["long"]:
        what = "cut off" if settings.long == "truncate" else f"read in pieces ({settings.pool} of them)"
        say(f"{totals.more['long']:,} documents were longer than the model reads at once, and {what}")
    if settings.threshold:
        say(f"{totals.more['flagged']:,} flagged for review")
    say(f"{totals.shards:,} shards in {shards}; counts, options and versions in {output}/{RESULTS}")
    if settings.format == "parquet":
        look = f"import pyarrow.parquet as pq; print(pq.read_table('{shards}').slice(0, 10).to_pandas())"
        say(f'next: python -c "{look}"')
    else:
        say(f"next: head -n 5 {shards}/*/*.jsonl")
