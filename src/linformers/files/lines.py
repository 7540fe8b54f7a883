"""Rows of JSON lines, CSV and text, from any row on."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa

from linformers.files.inputs import Input
from linformers.files.records import Lines, Record, checked
from linformers.files.row import (
    BOMB_BYTES,
    BOMB_RATIO,
    Columns,
    Found,
    Place,
    Row,
    broken,
    check_columns,
    make_row,
    to_id,
    too_large,
)
from linformers.files.sources import DocumentUnit


class CountedLines(Lines):
    """Lines with a limit of their size, above which they are None, and how many bytes were read; see ``Lines``."""

    def __init__(self, stream: BinaryIO, file: Input, limit: int) -> None:
        self.offset, self.limit, self.packed = 0, limit, file.compression is not None
        self.raw, unpacked = stream, stream
        if self.packed:
            unpacked = io.BufferedReader(pa.CompressedInputStream(stream, file.compression))  # type: ignore[arg-type]
        size = max(file.bytes, 1)
        super().__init__(unpacked, Path(PurePosixPath(file.path).name), lambda: min(stream.tell() / size, 1.0))

    def __iter__(self) -> Iterator[bytes | None]:
        return self

    def __next__(self) -> bytes | None:
        line = self._read(self.limit + 1)
        if not line:
            raise StopIteration
        cut = len(line) > self.limit and not line.endswith(b"\n")
        while cut and (rest := self._read(2**20)) and not rest.endswith(b"\n"):
            pass
        self.number += 1
        if self.number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        return None if cut else line

    def _read(self, size: int) -> bytes:
        found = self.stream.readline(size)
        self.offset += len(found)
        if self.packed and self.offset > max(BOMB_BYTES, BOMB_RATIO * self.raw.tell()):
            raise ValueError(f"it unpacks to more than {BOMB_RATIO} times its size: is it a bomb?")
        return found

    def go_to(self, place: Place) -> None:
        """Leave out what is before a place."""
        if self.packed:
            while self.offset < place.offset and self._read(min(2**20, place.offset - self.offset)):
                pass
        else:
            self.stream.seek(place.offset)
        self.offset, self.number = place.offset, place.line


def rows_of_lines(
    stream: BinaryIO, file: Input, columns: Columns, documents: DocumentUnit, limit: int, start: Place
) -> Iterator[Row]:
    """See ``read_rows``."""
    row, line = start.row, start.line
    reader: Callable[[CountedLines, Columns, Place], Iterator[Found]] = {
        "jsonl": _json_objects,
        "csv": _csv_records,
        "text": lambda lines, _, place: _texts(lines, place, documents),
    }[file.kind]
    try:
        lines = CountedLines(stream, file, limit)
        for found in reader(lines, columns, start):
            row, line = row + 1, lines.number
            yield make_row(found, Place(row, lines.offset, line), lines.position())
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error) if isinstance(error, ValueError) else f"damaged: {error}"
        yield broken(f"unreadable from here on: {reason}", Place(row), line=line + 1)


def _json_objects(lines: CountedLines, columns: Columns, start: Place) -> Iterator[Found]:
    lines.go_to(start)
    for line in lines:
        if line is None:
            yield too_large(lines.number, lines.limit)
            continue
        raw = checked(lines.number, line.rstrip(b"\r\n"), 0.0)
        yield raw if raw.text is None else _json_fields(lines.number, raw.text, columns)


def _json_fields(line: int, text: str, columns: Columns) -> Found:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError also of numbers with thousands of digits
        what = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
        return Record(line, None, f"wrong JSON: {what}", text)
    if not isinstance(fields, dict):
        return Record(line, None, f"wrong type: {type(fields).__name__} where one object a line is expected", text)
    missing = next((name for name in columns.names if name not in fields), None)
    if missing is not None:
        return Record(line, None, f"missing field: {missing!r}", f"fields: {', '.join(fields)}")
    try:
        return line, tuple(to_id(name, kind, fields[name]) for name, kind in columns.ids.items()), fields[columns.text]
    except ValueError as error:
        return Record(line, None, str(error), text)


class _TooLarge(Exception):
    """A row of CSV is above the limit."""


class _Decoded:
    """Lines as text; after an error the next line can still be read, which a generator would not allow."""

    def __init__(self, lines: CountedLines) -> None:
        self.lines, self.size = lines, 0

    def __iter__(self) -> "_Decoded":
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.size += 0 if line is None else len(line)
        if line is None or self.size > self.lines.limit:  # quoted fields run over lines
            raise _TooLarge
        # Invalid bytes pass as lone surrogates, so that the row they are in can be rejected and the next one read.
        return line.decode("utf-8", "surrogateescape")


def open_csv(lines: CountedLines) -> tuple[_Decoded, Any, list[str]]:
    """A CSV file behind its header.

    Raises:
        ValueError: the header is none.
    """
    csv.field_size_limit(lines.limit)
    decoded = _Decoded(lines)
    rows = csv.reader(decoded, strict=True, delimiter="\t" if ".tsv" in lines.path.suffixes else ",")
    try:
        return decoded, rows, next(rows, [])
    except (csv.Error, _TooLarge) as error:
        raise ValueError(f"the header is wrong CSV: {str(error) or 'too large'}") from error


def _csv_records(lines: CountedLines, columns: Columns, start: Place) -> Iterator[Found]:
    decoded, rows, header = open_csv(lines)
    if not header:
        return
    check_columns(header, columns.names)
    if start.offset:
        lines.go_to(start)
    while True:
        first, decoded.size = lines.number + 1, 0
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(first, None, f"wrong CSV: {error}")
            continue
        except _TooLarge:
            yield too_large(first, lines.limit)
            continue
        if len(fields) != len(header):
            what = f"wrong CSV: {len(fields)} fields where the header has {len(header)}" if fields else "empty"
            yield Record(first, None, what, ",".join(fields))
            continue
        text, *values = (fields[header.index(name)].encode("utf-8", "surrogateescape") for name in columns.names)
        try:
            yield first, tuple(map(to_id, columns.ids, columns.ids.values(), values)), text
        except ValueError as error:
            yield Record(first, None, str(error), ",".join(fields))


def _texts(lines: CountedLines, start: Place, documents: DocumentUnit) -> Iterator[Found]:
    lines.go_to(start)
    first, size, held = start.line + 1, 0, []  # lines of the document so far
    for line in lines:
        ends = documents == "line"
        if documents != "file" and line is not None and not line.strip():
            ends = True  # blank lines stand between documents
        else:
            size += lines.limit + 1 if line is None else len(line)
            held = [] if line is None or size > lines.limit else held
            held.append(line)
        if ends and size:
            yield _joined(first, size, held, lines.limit)
        if ends:
            first, size, held = lines.number + 1, 0, []
    if size or documents == "file":
        yield _joined(first, size, held, lines.limit)


def _joined(first: int, size: int, held: list[Any], limit: int) -> Found:
    return too_large(first, limit) if size > limit else (first, (), b"".join(held).rstrip(b"\r\n"))
