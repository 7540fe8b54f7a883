"""What every file is read as: rows, good and bad, each with where it stands and where the next one starts.

A row has no text where the cell is missing, empty or blank, or holds one of the words that programs write for nothing
(``NOTHING``). Several text columns are joined by ``JOINT``, without those that hold none.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from linformers.checks import closest

TEXT_COLUMNS = ("text", "content", "document", "body", "article", "passage", "sentence", "review", "abstract")

NOTHING = frozenset({"nan", "NaN", "None", "null", "NULL", "<NA>", "#N/A"})
JOINT = "\n\n"  # a blank line

# A file that unpacks to so many times its size is taken for a bomb; nothing is one below the second number of bytes.
BOMB_RATIO, BOMB_BYTES = 500, 64 * 2**20

CellKind = Literal["text", "part", "int64", "string", "any"]


@dataclass(frozen=True)
class Wanted:
    """What is read of a row.

    Args:
        text: Column of the text.
        carried: Other columns, each with what it is read as: ``text`` is checked like the text itself, ``int64`` and
            ``string`` are converted, ``any`` is left as the file has it.
        more: More columns of the text, joined to it by ``JOINT``.
        pair: Column of a second text, whose value comes before those carried over.
    """

    text: str
    carried: dict[str, CellKind] = field(default_factory=dict)
    more: tuple[str, ...] = ()
    pair: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of the text."""
        return self.text, *self.more

    @property
    def columns(self) -> tuple[tuple[str, CellKind], ...]:
        """All columns with what they are read as, those of the text first."""
        kind: CellKind = "part" if self.more else "text"
        pair: tuple[tuple[str, CellKind], ...] = () if self.pair is None else ((self.pair, "text"),)
        return *((name, kind) for name in self.texts), *pair, *self.carried.items()

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, those of the text first."""
        return *self.texts, *(() if self.pair is None else (self.pair,)), *self.carried


@dataclass(frozen=True)
class Structured(Wanted):
    """What is read of a row whose first column holds a list, or what else is no text; `Row.text` has it as it is."""

    @property
    def columns(self) -> tuple[tuple[str, CellKind], ...]:
        """All columns, each as the file has it."""
        return tuple((name, "any") for name in self.names)


class Place(NamedTuple):
    """Where in a file reading goes on: rows before it, and bytes and lines where it has lines."""

    row: int = 0
    offset: int = 0
    line: int = 0


START = Place()


class Row(NamedTuple):
    """A row, or (``count`` > 1) a stretch of rows that cannot be read.

    Args:
        line: Where it stands: a line, or a row of Parquet, from 1.
        text: Its text; None = rejected.
        carried: Values of the other columns; of a rejected row those that are sound, the others None.
        reason: Why it is rejected.
        value: The beginning of what is wrong.
        count: How many rows it stands for.
        after: Where the next row starts.
        position: How far the file has been read, as a share.
        unreadable: Whether the file is at fault and not the row.
    """

    line: int
    text: str | None
    carried: tuple[Any, ...] = ()
    reason: str = ""
    value: str = ""
    count: int = 1
    after: Place = START
    position: float = 0.0
    unreadable: bool = False


class Reject(NamedTuple):
    """A line (or row) that holds no usable row, and why."""

    line: int
    reason: str
    value: str = ""


# What readers of a format yield: a reject, or line and values as the file has them (text may be bytes).
Found = Reject | tuple[int, Sequence[Any]]


class BadCell(ValueError):
    """A value that is not what its column should hold."""

    reason: str
    value: str
    line: int

    def __init__(self, reason: str, value: str = "", line: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.value, self.line = reason, value, line


def make_row(found: Found, wanted: Wanted, after: Place = START, position: float = 0.0) -> Row:
    """Check and convert the values of a row."""
    if isinstance(found, Reject):
        return Row(found.line, None, (), found.reason, found.value, after=after, position=position)
    (line, values), texts = found, len(wanted.texts)
    pairs = list(zip(wanted.columns, values, strict=True))
    try:
        cells = [to_cell(*one) for one in pairs]
        text = cells[0] if texts == 1 else JOINT.join(filter(None, cells[:texts]))
        if not text:
            raise BadCell(f"empty: no text in {' or '.join(map(repr, wanted.texts))}")
        return Row(line, text, tuple(cells[texts:]), after=after, position=position)
    except BadCell as error:
        sound = tuple(_sound(*one) for one in pairs[texts:])
        return Row(line + error.line, None, sound, error.reason, error.value, after=after, position=position)


def _sound(column: tuple[str, CellKind], value: Any) -> Any:
    try:
        return to_cell(column, value)
    except BadCell:
        return None


def broken(reason: str, start: Place, count: int = 1, line: int | None = None, position: float = 1.0) -> Row:
    """Rows that cannot be read; where nobody knows how many there are, they count as one."""
    after = Place(start.row + count, start.offset, start.line)
    return Row(line or start.row + 1, None, (), reason, "", count, after, position, unreadable=True)


def too_large(line: int, limit: int) -> Reject:
    """A row above the limit."""
    return Reject(line, f"too large: above {limit:,} bytes")


def of_fields(line: int, fields: dict[str, Any], wanted: Wanted) -> Found:
    """The values of a row that has names for them."""
    missing = next((name for name in wanted.names if name not in fields), None)
    if missing is not None:
        return Reject(line, f"missing field: {missing!r}", f"fields: {', '.join(fields)}")
    return line, [fields[name] for name in wanted.names]


def to_cell(column: tuple[str, CellKind], value: Any) -> Any:
    """A value as its column should hold it.

    Raises:
        BadCell: It is something else.
    """
    name, kind = column
    if kind == "text":
        return _to_text(name, value)
    if kind == "part":
        return "" if _no_text(value) else _to_text(name, value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if kind == "any" or value is None:
        return value
    if kind == "int64":
        try:
            number = int(value) if isinstance(value, int | str) and not isinstance(value, bool) else None
        except ValueError:
            number = None
        if number is None or not -(2**63) <= number < 2**63:
            raise BadCell(f"wrong type: {name!r} holds {type(value).__name__} where int64 is expected", str(value))
        return number
    return _encodable(json.dumps(value, default=str) if isinstance(value, dict | list | bool) else str(value))


def _to_text(name: str, value: Any) -> str:
    if value is None:
        raise BadCell(f"empty: no text in {name!r}", "null")
    if isinstance(value, bytes):
        value = decoded(value)
    if not isinstance(value, str):
        raise BadCell(f"wrong type: {name!r} holds {type(value).__name__}", repr(value))
    if _no_text(value):
        said = f" but {value.strip()!r}, which stands for none" if value.strip() else ""
        raise BadCell(f"empty: no text in {name!r}{said}", value)
    return _encodable(value)


def _no_text(value: Any) -> bool:
    """Whether a cell holds no text; see the rule above."""
    if isinstance(value, bytes | str):
        value = value.strip()
        return not value or (
            len(value) < 6 and (value if isinstance(value, str) else value.decode("latin-1")) in NOTHING
        )
    return value is None or value != value  # NaN differs from itself


def _encodable(text: str) -> str:
    """JSON may spell half a surrogate pair, which is no character and cannot be encoded."""
    return text.encode("utf-8", "replace").decode("utf-8")


def decoded(data: bytes) -> str:
    """Bytes as text.

    Raises:
        BadCell: They are not UTF-8; its ``line`` counts from that of the first byte.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        around = data[max(0, error.start - 20) : error.start + 20].decode("utf-8", "backslashreplace")
        reason = f"invalid UTF-8: byte 0x{data[error.start]:02x} ({error.reason})"
        raise BadCell(reason, around, data.count(b"\n", 0, error.start)) from error


def check_columns(there: Sequence[str], wanted: Wanted) -> None:
    """Refuse a file without the columns.

    Raises:
        ValueError: One is not there, or not once.
    """
    for name in wanted.names:
        if there.count(name) != 1:
            raise ValueError(f"wrong columns: {name!r} is there {there.count(name)} times in {', '.join(there)[:200]}")


def choose_column(
    option: str,
    asked: str | None,
    usual: Sequence[str],
    there: Sequence[str],
    where: object,
    what: str,
    candidates: Sequence[str] | None = None,
) -> str:
    """The column that is asked for, else one with a usual name, else the only candidate.

    Args:
        option: Name of the option by which it is asked for.
        asked: What was asked for.
        usual: Names to look for, the best first.
        there: All columns.
        where: What has these columns.
        what: What the column holds, for the message.
        candidates: Columns that may be taken unasked; None = only those with a usual name.

    Raises:
        ValueError: It is not there, or cannot be told.
    """
    if asked is not None:
        if asked not in there:
            raise ValueError(
                f"{where}: {option.lstrip('-')}={asked!r} is no column of it; {names(there)}.{closest(asked, there)}"
            )
        return asked
    found = next((name for name in usual if name in (there if candidates is None else candidates)), None)
    if found is None and candidates is not None and len(candidates) == 1:
        found = candidates[0]
    if found is None:
        shown = there if candidates is None else candidates
        raise ValueError(f"{where}: cannot tell which column holds the {what}; give {option} ({names(shown)})")
    return found


def names(columns: Sequence[str]) -> str:
    """The columns there are, as part of a message."""
    return f"columns: {', '.join(columns)}" if columns else "there is no such column"
