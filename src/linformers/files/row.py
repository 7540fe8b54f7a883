"""What a file is read as: rows, good and bad, each with where it stands and where the next one starts."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from linformers.files.records import Record, checked, of_value

Id = int | str | None
# What a reader yields: line, ids, and bytes or a value that should be text; or line and the reason of a reject.
Found = tuple[int, tuple[Id, ...], Any] | Record

# A file that unpacks to so many times its size is taken for a bomb; nothing is one below the second number of bytes.
BOMB_RATIO, BOMB_BYTES = 500, 64 * 2**20


@dataclass(frozen=True)
class Columns:
    """What is read of a row: the column of the text, and those to carry over with their types (int64 or string)."""

    text: str
    ids: dict[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, the text first."""
        return self.text, *self.ids


class Place(NamedTuple):
    """Where in a file reading goes on: rows before it, and bytes and lines where it has lines."""

    row: int = 0
    offset: int = 0
    line: int = 0


START = Place()


class Row(NamedTuple):
    """A row, or (``count`` > 1) a stretch of rows that cannot be read.

    Args:
        line: where it stands: a line, or a row of Parquet, from 1.
        ids: values of the columns to carry over.
        text: None = rejected.
        reason: why.
        value: the beginning of what is wrong.
        count: of rows.
        after: where the next row starts.
        position: how far the file has been read, as a share.
    """

    line: int
    ids: tuple[Id, ...]
    text: str | None
    reason: str
    value: str
    count: int
    after: Place
    position: float


def make_row(found: Found, after: Place, position: float) -> Row:
    """Check the text."""
    if isinstance(found, Record):
        return Row(found.line, (), None, found.reason, found.value, 1, after, position)
    line, ids, value = found
    record = checked(line, value, 0.0) if isinstance(value, bytes) else of_value(line, {"text": value}, "text", 0.0)
    return Row(record.line, ids, record.text, record.reason, record.value, 1, after, position)


def broken(reason: str, start: Place, count: int = 1, line: int | None = None, position: float = 1.0) -> Row:
    """Rows that cannot be read; where nobody knows how many there are, they count as one."""
    after = Place(start.row + count, start.offset, start.line)
    return Row(line or start.row + 1, (), None, reason, "", count, after, position)


def too_large(line: int, limit: int) -> Record:
    """A row above the limit."""
    return Record(line, None, f"too large: above {limit:,} bytes")


def check_columns(there: list[str], names: tuple[str, ...]) -> None:
    """Refuse a file without the columns.

    Raises:
        ValueError: one is not there, or not once.
    """
    for name in names:
        if there.count(name) != 1:
            raise ValueError(f"wrong columns: {name!r} is there {there.count(name)} times in {', '.join(there)[:200]}")


def to_id(name: str, kind: str, value: Any) -> Id:
    """A value to carry over, as its column's type.

    Raises:
        ValueError: it does not fit.
    """
    if value is None:
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if kind == "int64":
        try:
            number = int(value) if isinstance(value, int | str) and not isinstance(value, bool) else None
        except ValueError:
            number = None
        if number is None or not -(2**63) <= number < 2**63:
            raise ValueError(f"wrong type: {name!r} holds {type(value).__name__} where int64 is expected")
        return number
    text = json.dumps(value, default=str) if isinstance(value, dict | list | bool) else str(value)
    return text.encode("utf-8", "replace").decode("utf-8")
