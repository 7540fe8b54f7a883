"""Rows of JSON lines, CSV, TSV and text, from any row on."""

import csv
import io
import json
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa

from linformers.files.inputs import Input
from linformers.files.rows import (
    BOMB_BYTES,
    BOMB_RATIO,
    BadCell,
    Found,
    Place,
    Reject,
    Row,
    Wanted,
    broken,
    check_columns,
    decoded,
    make_row,
    of_fields,
    too_large,
)
from linformers.files.sources import DocumentUnit

DELIMITERS = {"csv": ",", "tsv": "\t"}


class Lines:
    """Lines as bytes with their line ends; one above the limit is None. A byte-order mark at the start is dropped.

    Attributes:
        number: Lines read so far.
        offset: Bytes read so far, after decompression.
    """

    def __init__(self, stream: BinaryIO, file: Input, limit: int) -> None:
        self.number, self.offset, self.limit = 0, 0, limit
        self.raw, self.size, self.packed = stream, max(file.bytes, 1), file.compression is not None
        packed: Any = partial(pa.CompressedInputStream, stream, file.compression)
        self.stream = io.BufferedReader(packed()) if self.packed else stream

    def __iter__(self) -> "Lines":
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

    @property
    def position(self) -> float:
        """How far the file has been read, as a share."""
        return min(self.raw.tell() / self.size, 1.0)


def rows_of_lines(
    stream: BinaryIO, file: Input, wanted: Wanted, documents: DocumentUnit, limit: int, start: Place, *, quoted: bool
) -> Iterator[Row]:
    """See ``read_rows``."""
    row, line = start.row, start.line
    try:
        lines = Lines(stream, file, limit)
        if file.kind == "text":
            found = _texts(lines, wanted, start, documents)
        elif file.kind == "jsonl":
            found = _json_objects(lines, wanted, start)
        else:
            found = _csv_records(lines, wanted, start, DELIMITERS[file.kind], quoted)
        for one in found:
            row, line = row + 1, lines.number
            yield make_row(one, wanted, Place(row, lines.offset, line), lines.position)
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error) if isinstance(error, ValueError) else f"damaged: {error}"
        yield broken(f"unreadable from here on: {reason}", Place(row), line=line + 1)


def _json_objects(lines: Lines, wanted: Wanted, start: Place) -> Iterator[Found]:
    lines.go_to(start)
    for line in lines:
        if line is None:
            yield too_large(lines.number, lines.limit)
            continue
        fields = json_object(lines.number, line)
        yield fields if isinstance(fields, Reject) else of_fields(lines.number, fields, wanted)


def json_object(number: int, line: bytes) -> Reject | dict[str, Any]:
    """The object on a line, or why there is none."""
    try:
        text = decoded(line.rstrip(b"\r\n"))
    except BadCell as error:
        return Reject(number, error.reason, error.value)
    if not text.strip():
        return Reject(number, "empty", text)
    try:
        # NaN and Infinity are no JSON, but many writers emit them.
        fields = json.loads(text)
    except RecursionError:
        return Reject(number, "wrong JSON: nested too deeply", text)
    except ValueError as error:  # also of a number with thousands of digits
        at = f" (column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        return Reject(number, f"wrong JSON: {getattr(error, 'msg', error)}{at}", text)
    if not isinstance(fields, dict):
        return Reject(number, f"wrong type: {type(fields).__name__} where one object a line is expected", text)
    return fields


class _TooLarge(Exception):
    """A row of CSV is above the limit."""


class _Decoded:
    """Lines as text; after an error the next line can still be read, which a generator would not allow."""

    def __init__(self, lines: Lines) -> None:
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


def open_csv(lines: Lines, delimiter: str, *, quoted: bool) -> tuple[_Decoded, Any, list[str]]:
    """A CSV file behind its header.

    Args:
        lines: Lines of the file.
        delimiter: What stands between fields.
        quoted: Whether a quotation mark opens a quoted field; GLUE's files have them as plain text.

    Raises:
        ValueError: The header is none.
    """
    csv.field_size_limit(2**31 - 1)  # ours is the limit of the lines, after which the next row can be read
    found = _Decoded(lines)
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    rows = csv.reader(found, strict=True, delimiter=delimiter, quoting=quoting)
    try:
        return found, rows, next(rows, [])
    except (csv.Error, _TooLarge) as error:
        raise ValueError(f"the header is wrong CSV: {str(error) or 'too large'}") from error


def _csv_records(lines: Lines, wanted: Wanted, start: Place, delimiter: str, quoted: bool) -> Iterator[Found]:
    found, rows, header = open_csv(lines, delimiter, quoted=quoted)
    if not header:
        return
    check_columns(header, wanted)
    places = [header.index(name) for name in wanted.names]
    if start.offset:
        lines.go_to(start)
    while True:
        first, found.size = lines.number + 1, 0
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Reject(first, f"wrong CSV: {error}")
        except _TooLarge:
            yield too_large(first, lines.limit)
        else:
            if len(fields) == len(header):
                yield first, [fields[place].encode("utf-8", "surrogateescape") for place in places]
            else:
                what = f"wrong CSV: {len(fields)} fields where the header has {len(header)}" if fields else "empty"
                yield Reject(first, what, delimiter.join(fields))


def _texts(lines: Lines, wanted: Wanted, start: Place, documents: DocumentUnit) -> Iterator[Found]:
    check_columns([wanted.text], wanted)
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
    if size > limit:
        return too_large(first, limit)
    text = b"".join(held).rstrip(b"\r\n")
    return (first, (text,)) if text.strip() else Reject(first, "empty")
