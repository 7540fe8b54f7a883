"""Units of work: consecutive rows of one file, which become one shard of whatever is made of them.

A unit is done when its note is there: ``_FIRST-LAST.json`` beside the shard ``FIRST-LAST.parquet`` (readers of data
sets pass over names with ``_`` before them). The note is written after the shard, and both appear in one step, so a
kill at any moment leaves units that are done and units that are not, and nothing between. Where a file is cut into
units depends on its rows and the options alone: every start and every engine makes the same ones.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from linformers.files.folders import remove_leftovers, write_file
from linformers.files.inputs import Input
from linformers.files.reading import read_rows
from linformers.files.rejects import NOT_READ, SHOWN, printable
from linformers.files.rows import START, Place, Row, Wanted
from linformers.scoring.settings import Files, Format

INTACT = "what is done so far is intact"  # when the disk is full
SCORED = "scored"
UNIT_BYTES = 32 * 2**20  # of text: what bounds memory where documents are long


@dataclass(kw_only=True)
class Unit:
    """Rows of a file that are read together.

    Args:
        file: where they come from.
        key: folder of the shard.
        first: number of the first row of the file that is in it, from 1.
        last: likewise; below ``first`` where a file has no rows.
        lines: Lines of the good rows.
        ids: Ids of the good rows, by column.
        texts: Texts of the good rows.
        pairs: Their second texts, if there are any.
        rejects: the others.
        after: where the next unit starts.
        final: whether the file ends here.
        begin: how far the file was read before it, as a share.
        end: likewise, after it.
    """

    file: str
    key: str
    first: int
    last: int = 0
    lines: list[int] = field(default_factory=list)
    ids: list[list[Any]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    after: Place = START
    final: bool = False
    begin: float = 0.0
    end: float = 0.0

    def reject(self, line: int, reason: str, value: str = "", count: int = 1, ids: Mapping[str, Any] = {}) -> None:
        """Note rows that cannot be used, with their ids where they are known."""
        entry: dict[str, Any] = {"file": self.file, "row": line, **ids}
        entry |= {"reason": _plain(reason), "value": _plain(value)}
        self.rejects.append(entry | ({"rows": count} if count > 1 else {}))

    @property
    def name(self) -> str:
        """The range of its rows."""
        return f"{self.first:012}-{self.last:012}"


def _plain(text: str) -> str:
    return printable(text)[:SHOWN]


def read_units(
    file: Input, wanted: Wanted, settings: Files, done: "Done", unit_bytes: int | None = None
) -> Iterator[Unit]:
    """The units of a file that are still to be done.

    Args:
        file: The file.
        wanted: What is read of a row.
        settings: The run.
        done: What is done of the file.
        unit_bytes: Text of a unit, about; None = ``UNIT_BYTES``.

    Raises:
        Unavailable: see ``read_rows``.
    """
    if done.complete:
        return
    rows = read_rows(file, wanted, documents=settings.documents, limit_bytes=settings.limit_bytes, start=done.place)
    start, begin, row = done.place, done.share, next(rows, None)
    while True:
        unit = Unit(file=file.name, key=file.key, first=start.row + 1, after=start, begin=begin)
        unit.ids = [[] for _ in wanted.carried]
        size = 0
        while (
            row is not None and unit.after.row - start.row < settings.shard_rows and size < (unit_bytes or UNIT_BYTES)
        ):
            size += _add(unit, row, wanted)
            row = next(rows, None)
        unit.last, unit.final = unit.after.row, row is None
        unit.end = 1.0 if unit.final else unit.end
        if unit.first not in done.firsts:
            yield unit
        if unit.final:
            return
        start, begin = unit.after, unit.end


def _add(unit: Unit, row: Row, wanted: Wanted) -> int:
    """Take a row in, and say how large it is."""
    unit.after, unit.end = row.after, row.position
    if row.text is None:
        ids = dict(zip(wanted.names[len(wanted.texts) :], row.carried, strict=False))
        known = {name: ids[name] for name in wanted.carried if ids.get(name) is not None}
        unit.reject(row.line, row.reason, row.value, row.count, known)
        return len(row.value)
    unit.lines.append(row.line)
    unit.texts.append(row.text)
    unit.pairs += [] if wanted.pair is None else [row.carried[0]]
    for column, value in zip(unit.ids, row.carried[len(row.carried) - len(wanted.carried) :], strict=True):
        column.append(value)
    return len(row.text)


@dataclass(frozen=True)
class Done:
    """What is done of a file.

    Args:
        firsts: the first row of each unit that is.
        place: behind the units that follow each other from the first row on.
        share: Share of the file that they are.
        complete: whether they reach its end.
    """

    firsts: frozenset[int]
    place: Place
    share: float
    complete: bool


def read_notes(folder: Path, shard_format: Format) -> Iterator[dict[str, Any]]:
    """Notes of the units that are done, in order; a shard of another size than its note says is not."""
    for path in sorted(folder.glob("_*.json")):
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            whole = (folder / f"{path.stem[1:]}.{shard_format}").stat().st_size == note["bytes"]
        except (OSError, ValueError, KeyError):  # then it is done again
            continue
        if whole:
            yield note


def find_done(folder: Path, shard_format: Format) -> Done:
    """What is done of a file, by the notes in its folder."""
    firsts, place, share, complete = set(), START, 0.0, False
    for note in read_notes(folder, shard_format):
        firsts.add(note["first"])
        if note["first"] == place.row + 1 and not complete:
            place, share, complete = Place(*note["after"]), note["end"], note["final"]
    return Done(frozenset(firsts), place, share, complete)


def write_unit(
    folder: Path,
    unit: Unit,
    table: pa.Table,
    shard_format: Format,
    counts: dict[str, int],
    done: str = SCORED,
) -> None:
    """Write the shard of a unit, then its note; after that the unit is done.

    Args:
        folder: Folder of all shards.
        unit: what was read.
        table: what came of it; ``vectors`` of the counts, if it is there, else as many rows as were read.
        shard_format: Format of the shard.
        counts: what else the note should hold.
        done: What has become of the good rows, by which the note names their number.

    Raises:
        DiskFullError: no space is left; what is done stays done.
    """
    folder = folder / unit.key
    folder.mkdir(parents=True, exist_ok=True)
    rows = unit.last - unit.first + 1
    facts = {
        "file": unit.file,
        "first": unit.first,
        "last": unit.last,
        "rows": rows,
        done: len(unit.lines),
        "rejected": sum(entry.get("rows", 1) for entry in unit.rejects),
        **counts,
    }
    if facts[done] + facts["rejected"] != rows or table.num_rows != facts.get("vectors", facts[done]):
        raise RuntimeError(f"{unit.file}, rows {unit.first} to {unit.last}: {facts} do not add up")
    path = folder / f"{unit.name}.{shard_format}"

    def shard(target: Path) -> None:
        if shard_format == "parquet":
            pq.write_table(table.replace_schema_metadata({"linformers": json.dumps(facts)}), target)
            return
        with target.open("w", encoding="utf-8") as lines:
            for row in table.to_pylist():
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")

    write_file(path, shard, intact=INTACT, shared=True)
    note = {**facts, "bytes": path.stat().st_size, "after": unit.after, "end": unit.end, "final": unit.final}
    note["rejects"] = sorted(unit.rejects, key=lambda entry: entry["row"])
    write_file(folder / f"_{unit.name}.json", json.dumps(note), intact=INTACT, shared=True)


@dataclass(kw_only=True)
class Totals:
    """What all units add up to.

    Args:
        rows: Rows that were read.
        done: How many of them are good.
        rejected: The others.
        shards: Shards that they are in.
        more: What else the notes count.
        reasons: Rejected rows by kind of reason.
    """

    rows: int = 0
    done: int = 0
    rejected: int = 0
    shards: int = 0
    more: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Totals") -> None:
        """Count what another has counted."""
        self.rows, self.done = self.rows + other.rows, self.done + other.done
        self.rejected, self.shards = self.rejected + other.rejected, self.shards + other.shards
        for mine, theirs in ((self.more, other.more), (self.reasons, other.reasons)):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count

    def as_dict(self, done: str = SCORED) -> dict[str, Any]:
        """For a file of results; ``done`` is the word for good rows."""
        first = {"rows": self.rows, done: self.done, "rejected": self.rejected}
        return {**first, **self.more, "shards": self.shards, "reasons": self.reasons}


def check_units(
    folder: Path,
    files: list[Input],
    shard_format: Format,
    rejects: Path,
    done: str = SCORED,
    counts: Sequence[str] = (),
    unread: Sequence[str] = (),
    fresh: int | None = None,
) -> tuple[Totals, Totals]:
    """Count what is there again, row by row, and gather the rejects of all units into one file.

    Args:
        folder: Folder of all shards.
        files: What was to be read.
        shard_format: Format of the shards.
        rejects: Where the rejects go.
        done: The word for good rows in the notes.
        counts: What else is added up.
        unread: Files that no reader takes; they are named among the rejects, and count as no rows.
        fresh: How many files, from the first, are this run's; None = all.

    Returns:
        What all files add up to, and what this run's do.

    Raises:
        ValueError: rows of a file are missing or there twice; the message names them.
    """
    totals, new = Totals(more=dict.fromkeys(counts, 0)), Totals(more=dict.fromkeys(counts, 0))

    def gather(target: Path) -> None:
        with target.open("w", encoding="utf-8") as lines:
            for place, file in enumerate(files):
                of_file = Totals(more=dict.fromkeys(counts, 0))
                _check_file(folder / file.key, file, shard_format, of_file, done, lines.write)
                for counted in (totals, new) if fresh is None or place < fresh else (totals,):
                    counted.add(of_file)
            for name in map(_plain, unread):
                lines.write(json.dumps({"file": name, "row": 0, "reason": NOT_READ, "value": ""}) + "\n")

    write_file(rejects, gather, intact=INTACT)
    if totals.rows != totals.done + totals.rejected:
        raise ValueError(f"{totals.rows:,} rows in are not {totals.done:,} {done} and {totals.rejected:,} rejected")
    return totals, new


def _check_file(
    folder: Path, file: Input, shard_format: Format, totals: Totals, done: str, write: Callable[[str], object]
) -> None:
    remove_leftovers(folder)
    row, final = 1, False
    for note in read_notes(folder, shard_format):
        path = folder / f"{note['first']:012}-{note['last']:012}.{shard_format}"
        if note["first"] != row or final:
            break
        expected = note.get("vectors", note[done])
        if (found := _count_rows(path)) != expected:
            raise ValueError(
                f"{path} holds {found:,} rows in place of {expected:,}; take it away and run the same command again"
            )
        row, final = note["last"] + 1, note["final"]
        totals.rows += note["rows"]
        totals.done += note[done]
        totals.rejected += note["rejected"]
        for name in totals.more:
            totals.more[name] += note[name]
        totals.shards += 1
        for entry in note["rejects"]:
            kind = entry["reason"].split(":")[0]
            totals.reasons[kind] = totals.reasons.get(kind, 0) + entry.get("rows", 1)
            write(json.dumps(entry, ensure_ascii=False) + "\n")
    else:
        if final:
            return
    raise ValueError(f"{file.name}: {folder} has no shard of row {row:,}, or more than one; run the same command again")


def _count_rows(shard: Path) -> int:
    if shard.suffix == ".parquet":
        return pq.read_metadata(shard).num_rows
    with shard.open("rb") as lines:
        return sum(block.count(b"\n") for block in iter(lambda: lines.read(2**20), b""))
