"""A run over documents: plan it, read what is not read yet, and count everything again."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from linformers.convert.load import name_of
from linformers.files.environment import command_line, describe_environment
from linformers.files.forms import describe_forms
from linformers.files.inputs import Input, Unavailable, find_inputs, find_passed_over
from linformers.files.progress import ReadProgress
from linformers.files.rejects import TooManyRejects, describe_passed_over, too_many
from linformers.files.rows import Wanted
from linformers.files.run_folder import RESULTS, Folder
from linformers.files.sources import file_format
from linformers.scoring.gather import RUNS, gather
from linformers.scoring.plan import PLAN, Plan, Tonight, plan_run
from linformers.scoring.settings import Files
from linformers.scoring.units import Done, Totals, Unit, check_units
from linformers.scoring.work import Encoded, Job, Reader, do_unit

REJECTS = "rejects.jsonl"
MEASURED = "measured"
SAID_FORMS = 1000  # files whose form is found before the run


@dataclass(frozen=True)
class Outcome:
    """What a start has come to.

    Args:
        results: What ``results.json`` holds.
        job: What was done.
        tonight: The files of this run and of those before it.
        totals: What all units of the folder add up to.
        new: What those of this run add up to.
        gathered: Path of the file with all rows of this run; None where it has none, or too many.
    """

    results: dict[str, Any]
    job: Job
    tonight: Tonight
    totals: Totals
    new: Totals
    gathered: Path | None


def run_job(
    kind: type[Job],
    settings: Files,
    digest: str,
    console: Console,
    conclude: Callable[[Job, Tonight], object] = lambda *_: None,
) -> Outcome:
    """Read everything that is new, or what an earlier start has left.

    Args:
        kind: What is done with documents.
        settings: The run, and what the job needs.
        digest: Hash of the model.
        console: where to print.
        conclude: Called when all shards are written and before the run has ended.

    Raises:
        ValueError: an option, a model or an output folder that cannot be used, or an option that has changed.
        OSError: an input that is not there, or cannot be read now.
    """
    started = time.perf_counter()
    folder = Folder(Path(settings.output), option="output", plan=PLAN, before=())
    _check_links(folder.path, kind.SHARDS)
    found, unread = _find(settings, folder), find_passed_over(settings.input)
    say = lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False)  # noqa: E731
    for line in describe_passed_over(unread):
        say(line)
    model = {"name": name_of(settings.model), "sha256": digest}  # type: ignore[attr-defined]
    try:
        if taken := sorted({*settings.id} & {*kind.COLUMNS}):
            raise ValueError(f"id={taken[0]!r} is a name that the {kind.SHARDS} have; rename the column")
        with folder.locked():
            if settings.restart and folder.begun:
                _forget(folder.path, kind.SHARDS)
            before = _plan_of(folder)
            wanted = kind.columns(settings, found) if found or before is None else _wanted_of(before)
            if wanted.pair is not None or wanted.more:
                say(f"columns read: {' + '.join(wanted.texts)}{'' if wanted.pair is None else f', {wanted.pair}'}")
            fixed = {"model": model, "options": settings.deciding, "columns": asdict(wanted)}
            _check_plan(folder, before, fixed)
            job = kind(settings, found, wanted, before.measured if before else {})
            ended = before is not None and (folder.results or {}).get("run") == before.run
            tonight = plan_run(before, fixed, found, ended, lambda file: job.done(file).complete)
            for line in _describe_files(kind, tonight):
                say(line)
            job, facts = _do_rest(replace(job, files=tonight.files), folder, tonight, console)
            fresh = len(tonight.fresh)
            totals, new = check_units(
                job.shards, job.files, job.format, folder.path / REJECTS, job.DONE, job.COUNTS, unread, fresh
            )
            gathered = gather(job, tonight.fresh, tonight.plan.run, new.more.get("vectors", new.done))
            conclude(job, tonight)
            seconds = time.perf_counter() - started
            results = {**_results(job, model, totals, facts, seconds), "files_not_read": unread}
            results |= {"run": tonight.plan.run, "new": {"files": fresh, "counts": new.as_dict(job.DONE)}}
            folder.write(RESULTS, json.dumps(results, indent=1) + "\n")
    except Unavailable as error:
        raise OSError(str(error)) from error
    return Outcome(results, job, tonight, totals, new, gathered)


def _find(settings: Files, folder: Folder) -> list[Input]:
    """The files; of a folder that was read before there may be none now."""
    named = settings.input
    if folder.begun:
        named = [path for path in named if not Path(path).is_dir() or any(map(file_format, Path(path).rglob("*")))]
    return find_inputs(named, settings.form)


def _describe_files(job: type[Job], tonight: Tonight) -> Iterator[str]:
    yield from describe_forms(tonight.fresh[:SAID_FORMS])
    fresh, changed = len(tonight.fresh), tonight.changed
    if tonight.nothing_new:
        yield f"Nothing new: all that is there was {job.DONE} before."
    elif tonight.plan.run > 1:
        replaced = f", changed {changed:,} (read anew, in place of what was there)" if changed else ""
        before = len(tonight.files) - fresh
        yield f"Run {tonight.plan.run}: new files {fresh - changed:,}{replaced}, files of before {before:,}."
    if tonight.gone:
        yield f"Files that are no longer there: {tonight.gone:,}; what was {job.DONE} of them stays."
    for name in tonight.lost:
        yield f"{name} went before it was read to its end; its rows are taken away."


def describe_totals(outcome: Outcome) -> Iterator[str]:
    """What is said in the end of every run: rows in are rows done and rows rejected, and why these were."""
    job, new, totals = outcome.job, outcome.new, outcome.totals
    output = job.settings.output
    yield f"{new.rows:,} rows in = {new.done:,} {job.DONE} + {new.rejected:,} rejected"
    if outcome.tonight.plan.run > 1:
        yield f"with all runs before: {totals.rows:,} = {totals.done:,} {job.DONE} + {totals.rejected:,} rejected"
    if new.reasons:
        reasons = ", ".join(f"{name} {number:,}" for name, number in sorted(new.reasons.items()))
        yield f"rejected, each named in {output}/{REJECTS}: {reasons}"


def describe_output(outcome: Outcome) -> Iterator[str]:
    """Where everything is."""
    job, output = outcome.job, outcome.job.settings.output
    if outcome.gathered is not None:
        yield f"all {job.SHARDS} of this run: {outcome.gathered}"
    shards = f"{output}/{job.SHARDS}"
    yield f"{outcome.totals.shards:,} shards in {shards}; counts, options and versions in {output}/{RESULTS}"


def check_totals(outcome: Outcome) -> None:
    """Refuse to end well where nothing, or too little, of a run was done; what was done stays.

    Raises:
        ValueError: Nothing was done.
        TooManyRejects: More is rejected than is allowed.
    """
    settings, new = outcome.job.settings, outcome.new
    rejects = Path(settings.output) / REJECTS
    with rejects.open(encoding="utf-8") as lines:
        entry = json.loads(next(lines, "{}"))
    first = f"{entry['file']}:{entry['row']}: {entry['reason']}" if entry else ""
    if not new.done and outcome.tonight.fresh:
        why = f"all {new.rejected:,} rows were rejected. The first is {first}; all are in {rejects}"
        raise ValueError(f"nothing was {outcome.job.DONE}: {why if new.rejected else 'the files hold no row'}")
    if new.rejected > settings.max_reject_share * new.rows:
        raise TooManyRejects(too_many(new.rejected, new.rows, settings.max_reject_share, first, rejects))


def _check_links(output: Path, shards: str) -> None:
    """Refuse to write through links, which lead somewhere else."""
    for path in (output / PLAN, output / RESULTS, output / REJECTS, *[output / shards, *(output / shards).glob("*")]):
        if path.is_symlink():
            raise ValueError(f"{path} is a link; {shards} are written to plain files and folders only: take it away")


def _forget(output: Path, shards: str) -> None:
    """Take away what the folder holds; its plan last, so that a kill leaves no half without one."""
    for name in (shards, RUNS):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in (REJECTS, RESULTS, PLAN):
        (output / name).unlink(missing_ok=True)


def _plan_of(folder: Folder) -> Plan | None:
    try:
        return Plan.read(folder.path / PLAN) if folder.begun else None
    except ValueError as error:
        raise ValueError(f"{error}; start anew with --restart") from error


def _wanted_of(plan: Plan) -> Wanted:
    columns = plan.fixed["columns"]
    return Wanted(**{**columns, "more": tuple(columns["more"])})


def _check_plan(folder: Folder, before: Plan | None, fixed: dict[str, Any]) -> None:
    """Refuse a folder of something else."""
    try:
        folder.check(lambda _: before.differences(fixed) if before else [])
    except ValueError as error:
        raise ValueError(f"{error}{', or start anew with --restart' if folder.begun else ''}") from error


def _do_rest(job: Job, folder: Folder, tonight: Tonight, console: Console) -> tuple[Job, dict[str, Any]]:
    """Do what is not done; returns the job as it was done, and what is known of the model."""
    found = [(file, job.done(file)) for file in job.files]
    left = [(file, done) for file, done in found if not done.complete]
    plan = tonight.plan
    if not left and folder.results is not None:
        _keep(job, folder, plan)
        return job, folder.results["model"]
    of_run = {file.key for file in tonight.fresh} | {file.key for file, _ in left}
    concerned = [(file, done) for file, done in found if file.key in of_run]
    begun = sum(max(file.bytes, 1) * done.share for file, done in concerned)
    begun /= sum(max(file.bytes, 1) for file, _ in concerned) or 1
    if begun:
        console.print(f"Going on: {begun:.0%} is done.", highlight=False)
    if job.settings.engine == "ray":
        from linformers.scoring.cluster import load_ray, run_on_ray

        load_ray()
    reader = job.open()
    if not folder.begun:
        job = replace(job, measured=job.prepare(reader))
        plan = replace(plan, measured=dict(job.measured))
    _keep(job, folder, plan)
    progress, facts = RunProgress(console, job, [file for file, _ in concerned], begun), reader.describe()
    if not left:
        return job, facts
    if job.settings.engine == "ray":
        del reader  # workers have one each
        run_on_ray(job, left, progress)
        return job, facts
    with progress:
        for unit, encoded in one_ahead(_encoded(job, left, reader)):
            progress.begin(unit.file, unit.end - unit.begin, encoded.count)
            do_unit(job, reader, unit, encoded, progress.add)
            progress.end(len(unit.lines))
    return job, facts


def _keep(job: Job, folder: Folder, plan: Plan) -> None:
    """Write the plan, then take away the shards of files that are not in it: of versions that have been replaced."""
    content = plan.as_json()
    if not folder.begun or (folder.path / PLAN).read_text(encoding="utf-8") != content:
        folder.write(PLAN, content)
    keys = {file.key for file in job.files}
    for shards in job.shards.glob("*"):
        if re.search("-[0-9a-f]{16}$", shards.name) and shards.name not in keys:
            shutil.rmtree(shards)


def _encoded(job: Job, left: list[tuple[Input, Done]], reader: Reader) -> Iterator[tuple[Unit, Encoded]]:
    for file, done in left:
        for unit in job.units(file, done):
            yield unit, reader.encode(unit)


def one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each made by another thread while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        item = pool.submit(next, items, None)
        while (found := item.result()) is not None:
            item = pool.submit(next, items, None)
            yield found


class RunProgress(ReadProgress):
    """Shows the share that is done, documents and tokens a second, and the time left.

    Args:
        console: where to print.
        job: what is done.
        files: What is read.
        begun: the share that was done before.
    """

    done: float
    documents: int

    def __init__(self, console: Console, job: Job, files: Sequence[Input], begun: float) -> None:
        super().__init__(console, job.DOING, unit="tokens")
        self.doing: str = job.DOING
        sizes = {file.name: max(file.bytes, 1) for file in files}
        left = sum(sizes.values()) * max(1 - begun, 1e-9)
        self.weights: dict[str, float] = {name: size / left for name, size in sizes.items()}
        self.done, self.weight, self.documents = 0.0, 0.0, 0

    def begin(self, file: str, share: float, tokens: int) -> None:
        """Begin a unit: a share of a file, with so many tokens."""
        self.weight: float = share * self.weights[file]
        self.per_token: float = self.weight / max(tokens, 1)
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
        self.title: str = f"{self.doing}, {self.documents:,} documents, {rate:,.1f} documents/s"
        if self.bar is not None:
            self.bar.update(self.task, description=self.title)


def _results(job: Job, model: dict[str, Any], totals: Totals, facts: dict[str, Any], seconds: float) -> dict[str, Any]:
    settings = job.settings
    return {
        "kind": f"linformers {job.NAME}",
        "format": 1,
        "command": command_line(),
        "model": {**facts, **model},
        "options": settings.deciding,
        **({MEASURED: job.measured} if job.measured else {}),
        "engine": settings.engine,
        "files": len(job.files),
        "counts": totals.as_dict(job.DONE),
        "seconds": round(seconds, 1),
        "environment": describe_environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
    }
