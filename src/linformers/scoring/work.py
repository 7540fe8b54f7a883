"""What a run does with documents, for one process or many: scores (`scores.py`) or vectors (`vectors.py`)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import pyarrow as pa

from linformers.files.inputs import Input
from linformers.files.reading import find_columns
from linformers.files.rows import Wanted
from linformers.scoring.settings import Files, Format
from linformers.scoring.units import SCORED, Done, Unit, find_done, read_units, write_unit


@runtime_checkable
class Encoded(Protocol):
    """What a model is to read of a unit."""

    @property
    def count(self) -> int:
        """Tokens of it."""
        ...


class Reader(ABC):
    """A model that reads units, in every process of every engine."""

    @abstractmethod
    def encode(self, unit: Unit) -> Encoded:
        """Tokens of a unit; texts without any are rejected, and texts are let go."""

    @abstractmethod
    def read(self, job: Any, unit: Unit, encoded: Any, seen: Callable[[int], None]) -> tuple[pa.Table, dict[str, int]]:
        """The rows of a unit's shard, and counts of what was read."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a manifest should say of the model."""


@dataclass(frozen=True)
class Job(ABC):
    """What is to be done.

    Args:
        settings: The run.
        files: What it reads.
        wanted: What it reads of a row.
        measured: What was measured before the first row was read, and holds for all of them.
    """

    NAME: ClassVar[str]  # of the command
    SHARDS: ClassVar[str]  # folder of the shards
    DOING: ClassVar[str]
    DONE: ClassVar[str] = SCORED
    COLUMNS: ClassVar[Sequence[str]]  # that a shard may get beside the ids
    COUNTS: ClassVar[Sequence[str]]

    settings: Any  # Files, and what the job needs
    files: list[Input]
    wanted: Wanted
    measured: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def columns(cls, settings: Any, files: Sequence[Input]) -> Wanted:
        """The columns to read of the files."""
        return find_columns(files, settings.text, settings.id)

    @abstractmethod
    def open(self) -> Reader:
        """The model."""

    @abstractmethod
    def prepare(self, reader: Any) -> dict[str, Any]:
        """Check options against the model before anything is written, and measure what all rows depend on."""

    @property
    def format(self) -> Format:
        """Format of the shards."""
        return "parquet"

    @property
    def unit_bytes(self) -> int | None:
        """Text of a unit, about; None = as always."""
        return None

    @property
    def shards(self) -> Path:
        """Folder of all shards."""
        return Path(self.settings.output) / self.SHARDS

    def done(self, file: Input) -> Done:
        """What is done of a file."""
        return find_done(self.shards / file.key, self.format)

    def units(self, file: Input, done: Done) -> Iterator[Unit]:
        """The units of a file that are not done."""
        settings: Files = self.settings
        return read_units(file, self.wanted, settings, done, self.unit_bytes)


def do_unit(job: Job, reader: Reader, unit: Unit, encoded: Encoded, seen: Callable[[int], None]) -> None:
    """Read a unit and write what comes of it."""
    table, counts = reader.read(job, unit, encoded, seen)
    write_unit(job.shards, unit, table, job.format, counts, job.DONE)


def leave_out(unit: Unit, empty: Sequence[int]) -> None:
    """Reject texts without a token, and let all texts go: they are needed no more."""
    for place in empty:
        unit.reject(unit.lines[place], "empty: the tokenizer finds no token", unit.texts[place])
    gone = set(empty)
    unit.texts, unit.pairs = [], []
    unit.lines = [line for place, line in enumerate(unit.lines) if place not in gone]
    unit.ids = [[value for place, value in enumerate(column) if place not in gone] for column in unit.ids]


def id_columns(wanted: Wanted, unit: Unit) -> dict[str, pa.Array]:
    """What names the good rows of a unit: the columns that are carried over, or file and row."""
    if not wanted.carried:
        file = pa.array([unit.file] * len(unit.lines), pa.string())
        return {"file": file, "row": pa.array(unit.lines, pa.int64())}
    return {
        name: pa.array(values, pa.int64() if kind == "int64" else pa.string())
        for (name, kind), values in zip(wanted.carried.items(), unit.ids, strict=True)
    }
