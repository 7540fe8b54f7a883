"""A run over documents: plan it, read what is not read yet, and count everything again."""

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
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
from linformers.files.run_folder import RESULTS, Folder
from linformers.files.settings import differences
from linformers.scoring.settings import Files
from linformers.scoring.units import Done, Totals, Unit, check_units
from linformers.scoring.work import Encoded, Job, Reader, do_unit

PLAN, REJECTS = "plan.json", "rejects.jsonl"
MEASURED = "measured"
SAID_FORMS = 1000  # files whose form is found before the run


def run_job(kind: type[Job], settings: Files, digest: str, console: Console) -> tuple[dict[str, Any], Totals]:
    """Read everything, or what an earlier start has left.

    Args:
        kind: What is done with documents.
        settings: The run, and what the job needs.
        digest: Hash of the model.
        console: where to print.

    Returns:
        What ``results.json`` holds, and what all units add up to.

    Raises:
        ValueError: an option, a model or an output folder that cannot be used, or an input or option that has changed.
        OSError: an input that is not there, or cannot be read now.
    """
    started = time.perf_counter()
    folder = Folder(Path(settings.output), option="output", plan=PLAN, before=())
    _check_links(folder.path, kind.SHARDS)
    files, unread = find_inputs(settings.input, settings.form), find_passed_over(settings.input)
    say = lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False)  # noqa: E731
    for line in (*describe_forms(files[:SAID_FORMS]), *describe_passed_over(unread)):
        say(line)
    model = {"name": name_of(settings.model), "sha256": digest}  # type: ignore[attr-defined]
    try:
        wanted = kind.columns(settings, files)
        if wanted.pair is not None or wanted.more:
            say(f"columns read: {' + '.join(wanted.texts)}{'' if wanted.pair is None else f', {wanted.pair}'}")
        if taken := sorted({*settings.id} & {*kind.COLUMNS}):
            raise ValueError(f"id={taken[0]!r} is a name that the {kind.SHARDS} have; rename the column")
        plan = {
            "format": 1,
            "model": model,
            "options": settings.deciding,
            "columns": asdict(wanted),
            "inputs": {file.path: [file.bytes, file.stamp] for file in files},
        }
        with folder.locked():
            if settings.restart and folder.begun:
                _forget(folder.path, kind.SHARDS)
            measured = _check_plan(folder, json.loads(json.dumps(plan)))
            job = kind(settings, files, wanted, measured)
            job, facts = _do_rest(job, folder, plan, console)
            totals = check_units(job.shards, files, job.format, folder.path / REJECTS, job.DONE, job.COUNTS, unread)
            seconds = time.perf_counter() - started
            results = {**_results(job, model, totals, facts, seconds), "files_not_read": unread}
            folder.write(RESULTS, json.dumps(results, indent=1) + "\n")
    except Unavailable as error:
        raise OSError(str(error)) from error
    return results, totals


def describe_totals(job: type[Job], settings: Files, totals: Totals) -> Iterator[str]:
    """What is said in the end of every run: rows in are rows done and rows rejected, and why these were."""
    yield f"{totals.rows:,} rows in = {totals.done:,} {job.DONE} + {totals.rejected:,} rejected"
    if totals.rejected:
        reasons = ", ".join(f"{name} {number:,}" for name, number in sorted(totals.reasons.items()))
        yield f"rejected, each named in {settings.output}/{REJECTS}: {reasons}"


def check_totals(job: type[Job], settings: Files, totals: Totals) -> None:
    """Refuse to end well where nothing, or too little, was done; what was done stays.

    Raises:
        ValueError: Nothing was done.
        TooManyRejects: More is rejected than is allowed.
    """
    rejects = Path(settings.output) / REJECTS
    with rejects.open(encoding="utf-8") as lines:
        entry = json.loads(next(lines, "{}"))
    first = f"{entry['file']}:{entry['row']}: {entry['reason']}" if entry else ""
    if not totals.done:
        why = f"all {totals.rejected:,} rows were rejected. The first is {first}; all are in {rejects}"
        raise ValueError(f"nothing was {job.DONE}: {why if totals.rejected else 'the files hold no row'}")
    if totals.rejected > settings.max_reject_share * totals.rows:
        raise TooManyRejects(too_many(totals.rejected, totals.rows, settings.max_reject_share, first, rejects))


def _check_links(output: Path, shards: str) -> None:
    """Refuse to write through links, which lead somewhere else."""
    for path in (output / PLAN, output / RESULTS, output / REJECTS, *[output / shards, *(output / shards).glob("*")]):
        if path.is_symlink():
            raise ValueError(f"{path} is a link; {shards} are written to plain files and folders only: take it away")


def _forget(output: Path, shards: str) -> None:
    """Take away an earlier run; its plan last, so that a kill does not leave half of it to a folder without one."""
    shutil.rmtree(output / shards, ignore_errors=True)
    for name in (REJECTS, RESULTS, PLAN):
        (output / name).unlink(missing_ok=True)


def _check_plan(folder: Folder, plan: dict[str, Any]) -> dict[str, Any]:
    """Refuse another run's folder; returns what the run has measured."""
    kept: dict[str, Any] = {}

    def compare(path: Path) -> list[str]:
        before = json.loads(path.read_text(encoding="utf-8"))
        kept.update(before.pop(MEASURED, {}))
        return differences(before, plan)

    try:
        folder.check(compare)
    except ValueError as error:
        raise ValueError(f"{error}{', or start anew with --restart' if folder.begun else ''}") from error
    return kept


def _do_rest(job: Job, folder: Folder, plan: dict[str, Any], console: Console) -> tuple[Job, dict[str, Any]]:
    """Do what is not done; returns the job as it was done, and what is known of the model."""
    found = [(file, job.done(file)) for file in job.files]
    left = [(file, done) for file, done in found if not done.complete]
    if not left and folder.results is not None:
        return job, folder.results["model"]
    begun = sum(max(file.bytes, 1) * done.share for file, done in found)
    begun /= sum(max(file.bytes, 1) for file in job.files)
    if begun:
        console.print(f"Going on: {begun:.0%} is done.", highlight=False)
    if job.settings.engine == "ray":
        from linformers.scoring.cluster import load_ray, run_on_ray

        load_ray()
    reader = job.open()
    if not folder.begun:
        job = replace(job, measured=job.prepare(reader))
        folder.write(PLAN, json.dumps({**plan, **({MEASURED: job.measured} if job.measured else {})}, indent=1) + "\n")
    progress, facts = RunProgress(console, job, begun), reader.describe()
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
        begun: the share that was done before.
    """

    def __init__(self, console: Console, job: Job, begun: float) -> None:
        super().__init__(console, job.DOING, unit="tokens")
        self.doing = job.DOING
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
        self.title = f"{self.doing}, {self.documents:,} documents, {rate:,.1f} documents/s"
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
