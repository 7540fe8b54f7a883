"""The rows of one file, good and bad, from any row on: each has a text or the reason why it has none.

Nothing that a file may hold stops the reading: what is wrong with a row costs that row, and what is wrong with the file
costs what cannot be read of it (or is an error, where the caller is strict). Memory holds a row (Parquet: some), and
rows have a limit.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from linformers.files.forms import USUAL, find_form
from linformers.files.inputs import Input, Unavailable
from linformers.files.lines import CONLL_COLUMNS, Lines, json_object, open_csv, read_array, rows_of_lines
from linformers.files.parquet import holds_text, rows_of_parquet
from linformers.files.rows import START, TEXT_COLUMNS, CellKind, Place, Row, Wanted, broken, choose_column
from linformers.files.sources import DocumentUnit

LIMIT_BYTES = 256 * 2**20  # of a row
PEEKED_LINES, PEEKED_BYTES = 100, 2**24  # in which fields or a header are looked for


def read_rows(
    file: Input,
    wanted: Wanted,
    *,
    documents: DocumentUnit = "file",
    limit_bytes: int = LIMIT_BYTES,
    start: Place = START,
) -> Iterator[Row]:
    """Rows of a file from a place on.

    Args:
        file: File to read.
        wanted: Columns to read of it.
        documents: What a document is in a text file.
        limit_bytes: Size of a row above which it is rejected.
        start: Place that an earlier reading gave.

    Raises:
        Unavailable: The file has changed, or its store does not answer.
    """
    if file.refused:
        yield broken(file.refused, start)
        return
    try:
        find_form(file)  # before the file is opened: of some stores both openings are one
        stream = file.open()
    except OSError as error:
        yield broken(f"unreadable: {error.strerror or error}", start)
        return
    with closing(stream):
        if file.kind == "parquet":
            yield from rows_of_parquet(stream, wanted, limit_bytes, start)
        else:
            yield from rows_of_lines(stream, file, wanted, documents, limit_bytes, start)


def read_sound_rows(file: Input, wanted: Wanted, *, documents: DocumentUnit = "file") -> Iterator[Row]:
    """Rows of a file that can be read to its end; see ``read_rows``.

    Raises:
        ValueError: It cannot: it is damaged, or lacks a column.
        OSError: It has just been changed.
    """
    try:
        for row in read_rows(file, wanted, documents=documents):
            if row.unreadable:
                what = f"the file cannot be read ({row.reason})"
                raise ValueError(f"{file.name}:{row.line}: {what}; repair it or take it away")
            yield row
    except Unavailable as error:
        raise OSError(str(error)) from error


def find_columns(
    files: Sequence[Input], text: str | Sequence[str] | None, carried: Sequence[str], option: str = "--text"
) -> Wanted:
    """The columns to read of all files, by those of the first that can be read.

    Args:
        files: Files to read.
        text: Column of the text, or columns; None = found by its usual name.
        carried: Columns to carry over, as whole numbers or as text.
        option: Name of the option for the column of the text.

    Raises:
        ValueError: A column is not there, or the text's cannot be told.
        Unavailable: A store does not answer.
    """
    first, *others = (text,) if text is None or isinstance(text, str) else text
    more = tuple(filter(None, others))
    for file in files:
        there = peek(file)
        if not there:
            continue
        texts = [name for name, kind in there.items() if kind == "text"]
        found = choose_column(option, first, TEXT_COLUMNS, list(there), file.name, "text", texts)
        for name in more:
            choose_column(option, name, (), list(there), file.name, "text")
        for name in carried:
            choose_column("id", name, (), list(there), file.name, "id")
        kinds: dict[str, CellKind] = {name: "int64" if there[name] == "int" else "string" for name in carried}
        return Wanted(found, kinds, more)
    if (text or carried) and files and all(file.kind == "text" for file in files):
        raise ValueError(f"{files[0].name} is text, which has no columns: leave out the names of columns")
    return Wanted(first or "text", dict.fromkeys(carried, "string"), more)


def peek(file: Input) -> dict[str, str]:
    """The columns of a file, each ``text``, ``int`` or ``other``; nothing where there are none or none can be read."""
    if file.refused:
        return {}
    try:
        find_form(file)
        with closing(file.open()) as stream:
            if file.kind == "parquet":
                return {field.name: _kind(field.type) for field in pq.ParquetFile(stream).schema_arrow}
            lines = Lines(stream, file, PEEKED_BYTES)
            if file.kind in USUAL:
                return dict.fromkeys(open_csv(lines)[2], "text")
            if file.kind == "conll":
                return dict(CONLL_COLUMNS)
            if lines.form.array:
                return _columns_of(read_array(Lines(stream, file, PEEKED_BYTES))[:PEEKED_LINES])
            return _columns_of(_json_objects(lines)) if file.kind in ("json", "jsonl") else {}
    except Unavailable:
        raise
    except Exception:  # what is wrong with the file shows when its rows are read
        pass
    return {}


def _json_objects(lines: Lines) -> Iterator[Any]:
    for line, _ in zip(lines, range(PEEKED_LINES), strict=False):
        yield None if line is None else json_object(lines.number, line)
        if lines.offset > PEEKED_BYTES:
            return


def _columns_of(objects: Iterable[Any]) -> dict[str, str]:
    """Fields of the first objects, by the first value of each."""
    first: dict[str, Any] = {}
    for fields in objects:
        if isinstance(fields, dict):
            first |= {name: value for name, value in fields.items() if first.get(name) is None}
    kinds = {str: "text", type(None): "text", int: "int"}
    return {name: kinds.get(type(value), "other") for name, value in first.items()}


def _kind(kind: pa.DataType) -> str:
    return "int" if pa.types.is_integer(kind) else "text" if holds_text(kind) else "other"
