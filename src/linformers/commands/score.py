"""A scoring run: plan it, score what is not scored yet, count everything again, and say where it is."""

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from linformers.convert.load import name_of
from linformers.data.tokenise import Tokens
from linformers.files.environment import command_line, describe_environment
from linformers.files.forms import describe_forms
from linformers.files.inputs import Input, Unavailable, find_inputs, find_passed_over
from linformers.files.progress import ReadProgress
from linformers.files.rejects import TooManyRejects, describe_passed_over, too_many
from linformers.files.run_folder import RESULTS, Folder
from linformers.files.settings import differences
from linformers.scoring.columns import TrainedInputs, columns_to_score
from linformers.scoring.networks import Network, hash_model
from linformers.scoring.scorer import Scorer
from linformers.scoring.settings import ScoreSettings
from linformers.scoring.units import Done, Totals, Unit, check_units
from linformers.scoring.work import SCORED, SHARDS, Job, encode_unit, score_unit

PLAN, REJECTS = "plan.json", "rejects.jsonl"
SAID_FORMS = 1000  # files whose form is found before the run


def run_score(settings: ScoreSettings, console: Console) -> dict[str, Any]:
    """Score everything, or what an earlier start has left; returns what ``results.json`` holds.

    Raises:
        ValueError: an option, a model or an output folder that cannot be used, an input or option that has changed, or
            (with all scores written) no row was scored, or too many were rejected.
        OSError: an input that is not there, or cannot be read now.
    """
    started = time.perf_counter()
    folder = Folder(Path(settings.output), option="output", plan=PLAN, before=())
    _check_links(folder.path)
    files, unread = find_inputs(settings.input, settings.form), find_passed_over(settings.input)
    for line in (*describe_forms(files[:SAID_FORMS]), *describe_passed_over(unread)):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    model = {"name": name_of(settings.model), "sha256": hash_model(Path(settings.model))}
    try:
        trained = TrainedInputs.of_folder(settings.model)
        wanted = columns_to_score(trained, files, settings.text, settings.pair, settings.id)
        if wanted.pair is not None or wanted.more:
            read = " + ".join(wanted.texts) + ("" if wanted.pair is None else f", {wanted.pair}")
            console.print(f"columns read: {read}", highlight=False, soft_wrap=True, markup=False)
        if taken := sorted({*settings.id} & {*SCORED}):
            raise ValueError(f"id={taken[0]!r} is a name that the scores have; rename the column")
        plan = {
            "format": 1,
            "model": model,
            "options": settings.deciding,
            "columns": asdict(wanted),
            "inputs": {file.path: [file.bytes, file.stamp] for file in files},
        }
        with folder.locked():
            if settings.restart and folder.begun:
                _forget(folder.path)
            _check_plan(folder, json.loads(json.dumps(plan)))
            job = Job(settings, files, wanted)
            facts = _score_rest(job, folder, plan, console)
            totals = check_units(job.shards, files, settings.format, folder.path / REJECTS, unread)
            seconds = time.perf_counter() - started
            results = {**_results(job, model, totals, facts, seconds), "files_not_read": unread}
            folder.write(RESULTS, json.dumps(results, indent=1) + "\n")
    except Unavailable as error:
        raise OSError(str(error)) from error
    _conclude(job, totals, console)
    _check_rejects(folder.path / REJECTS, totals, settings.max_reject_share)
    return results


def _check_rejects(rejects: Path, totals: Totals, most: float) -> None:
    """Refuse to end well where nothing, or too little, was scored; what was stays.

    Raises:
        ValueError: Nothing was scored.
        TooManyRejects: More is rejected than is allowed.
    """
    with rejects.open(encoding="utf-8") as lines:
        entry = json.loads(next(lines, "{}"))
    first = f"{entry['file']}:{entry['row']}: {entry['reason']}" if entry else ""
    if not totals.scored:
        why = f"all {totals.rejected:,} rows were rejected. The first is {first}; all are in {rejects}"
        raise ValueError(f"nothing was scored: {why if totals.rejected else 'the files hold no row'}")
    if totals.rejected > most * totals.rows:
        raise TooManyRejects(too_many(totals.rejected, totals.rows, most, first, rejects))


def _check_links(output: Path) -> None:
    """Refuse to write through links, which lead somewhere else."""
    for path in (output / PLAN, output / RESULTS, output / REJECTS, *[output / SHARDS, *(output / SHARDS).glob("*")]):
        if path.is_symlink():
            raise ValueError(f"{path} is a link; scores are written to plain files and folders only: take it away")


def _forget(output: Path) -> None:
    """Take away an earlier run; its plan last, so that a kill does not leave half of it to a folder without one."""
    shutil.rmtree(output / SHARDS, ignore_errors=True)
    for name in (REJECTS, RESULTS, PLAN):
        (output / name).unlink(missing_ok=True)


def _check_plan(folder: Folder, plan: dict[str, Any]) -> None:
    try:
        folder.check(lambda path: differences(json.loads(path.read_text(encoding="utf-8")), plan))
    except ValueError as error:
        raise ValueError(f"{error}{', or start anew with --restart' if folder.begun else ''}") from error


def _score_rest(job: Job, folder: Folder, plan: dict[str, Any], console: Console) -> dict[str, Any]:
    """Score what is not done; returns what is known of the model."""
    settings = job.settings
    found = [(file, job.done(file)) for file in job.files]
    left = [(file, done) for file, done in found if not done.complete]
    if not left and folder.results is not None:
        return folder.results["model"]
    begun = sum(max(file.bytes, 1) * done.share for file, done in found)
    begun /= sum(max(file.bytes, 1) for file in job.files)
    if begun:
        console.print(f"Going on: {begun:.0%} is done.", highlight=False)
    progress = ScoreProgress(console, job, begun)

    def ready(network: Network) -> None:
        unknown = [label for label in settings.threshold if label not in network.labels]
        if unknown:
            there = f"it has {', '.join(network.labels)}" if network.labels else "it is no classifier"
            raise ValueError(f"threshold={unknown[0]!r} is no label of the model: {there}")
        if not folder.begun:
            folder.write(PLAN, json.dumps(plan, indent=1) + "\n")

    if settings.engine == "ray":
        from linformers.scoring.cluster import score_on_ray

        return score_on_ray(job, left, progress, ready)
    scorer = Scorer(settings)
    ready(scorer.network)
    with progress:
        for unit, tokens in one_ahead(_encoded(job, left, scorer)):
            progress.begin(unit.file, unit.end - unit.begin, sum(map(len, tokens.windows)))
            score_unit(job, scorer, unit, tokens, progress.add)
            progress.end(len(unit.lines))
    return scorer.network.describe()


def _encoded(job: Job, left: list[tuple[Input, Done]], scorer: Scorer) -> Iterator[tuple[Unit, Tokens]]:
    for file, done in left:
        for unit in job.units(file, done):
            yield unit, encode_unit(scorer, unit)


def one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each made by another thread while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        item = pool.submit(next, items, None)
        while (found := item.result()) is not None:
            item = pool.submit(next, items, None)
            yield found


class ScoreProgress(ReadProgress):
    """Shows the share that is done, documents and tokens a second, and the time left.

    Args:
        console: where to print.
        job: what is done.
        begun: the share that was done before.
    """

    def __init__(self, console: Console, job: Job, begun: float) -> None:
        super().__init__(console, "scoring", unit="tokens")
        sizes = {file.name: max(file.bytes, 1) for file in job.files}
        left = sum(sizes.values()) * max(1 - begun, 1e-9)
        self.weights = {name: size / left for name, size in sizes.items()}
        self.done, self.weight, self.documents = 0.0, 0.0, 0

    def begin(self, file: str, share: float, tokens: int) -> None:
        """Begin a unit: a share of a file, with so many tokens."""
        self.weight = share * self.weights[file]
        self.per_token = self.weight / max(tokens, 1)
        self.reached(self.done)

    def add(self, count: int) -> None:
        """Count tokens of the unit."""
        self.reached(min(self.share + count * self.per_token, 1.0))
        super().add(count)

    def end(self, documents: int) -> None:
        """Count the unit."""
        self.done += self.weight
        self.documents += documents
        rate = self.documents / max(time.perf_counter() - self.started, 1e-9)
        self.title = f"scoring, {self.documents:,} documents, {rate:,.1f} documents/s"
        if self.bar is not None:
            self.bar.update(self.task, description=self.title)


def _results(job: Job, model: dict[str, Any], totals: Totals, facts: dict[str, Any], seconds: float) -> dict[str, Any]:
    settings = job.settings
    return {
        "kind": "linformers score",
        "format": 1,
        "command": command_line(),
        "model": {**facts, **model},
        "options": settings.deciding,
        "engine": settings.engine,
        "files": len(job.files),
        "counts": asdict(totals),
        "seconds": round(seconds, 1),
        "environment": describe_environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
    }


def _conclude(job: Job, totals: Totals, console: Console) -> None:
    settings, output = job.settings, job.settings.output
    say = lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False)  # noqa: E731
    say(f"{totals.rows:,} rows in = {totals.scored:,} scored + {totals.rejected:,} rejected")
    if totals.rejected:
        reasons = ", ".join(f"{name} {number:,}" for name, number in sorted(totals.reasons.items()))
        say(f"rejected, each named in {output}/{REJECTS}: {reasons}")
    if totals.long:
        what = "cut off" if settings.long == "truncate" else f"read in pieces ({settings.pool} of them)"
        say(f"{totals.long:,} documents were longer than the model reads at once, and {what}")
    if settings.threshold:
        say(f"{totals.flagged:,} flagged for review")
    say(f"{totals.shards:,} shards in {output}/{SHARDS}; counts, options and versions in {output}/{RESULTS}")
    if settings.format == "parquet":
        look = f"import pyarrow.parquet as pq; print(pq.read_table('{output}/{SHARDS}').slice(0, 10).to_pandas())"
        say(f'next: python -c "{look}"')
    else:
        say(f"next: head -n 5 {output}/{SHARDS}/*/*.jsonl")
