"""Rows of JSON lines, CSV, TSV, CoNLL and text, from any row on."""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from linformers.files.forms import Form, Transcoded, find_form, unpacked
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

ARRAY_BYTES = 256 * 2**20  # of a JSON array, which is read whole
REPLAYS = 100  # of what an open quotation mark swallows, in a file


class Lines:
    """Lines as UTF-8 with their line ends; one above the limit is None. A byte-order mark at the start is dropped.

    Attributes:
        number: Lines read so far.
        offset: Bytes read so far, after decompression and as UTF-8.
    """

    number: int
    offset: int
    limit: int
    raw: BinaryIO
    size: int
    packed: bool
    form: Form
    stream: Any

    def __init__(self, stream: BinaryIO, file: Input, limit: int) -> None:
        self.number, self.offset, self.limit, self.form = 0, 0, limit, find_form(file)
        self.raw, self.size, self.packed = stream, max(file.bytes, 1), file.compression is not None
        self.stream = unpacked(stream, file.compression)
        if self.form.encoding != "utf-8":
            self.stream, self.packed = io.BufferedReader(Transcoded(self.stream, self.form.encoding or "")), True
        self.waiting: list[bytes] = []  # lines that were put back, the last one first

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> bytes | None:
        if self.waiting:
            line = self.waiting.pop()
            self.number, self.offset = self.number + 1, self.offset + len(line)
            return line
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

    def put_back(self, lines: list[bytes]) -> None:
        """Take the last lines to be read once more."""
        self.waiting += reversed(lines)
        self.number, self.offset = self.number - len(lines), self.offset - sum(map(len, lines))

    def whole(self, limit: int) -> bytes | None:
        """All that is left; None above a limit."""
        parts, size = [], 0
        while size <= limit and (part := self._read(2**20)):
            parts.append(part)
            size += len(part)
        return b"".join(parts).removeprefix(b"\xef\xbb\xbf") if size <= limit else None

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
        return min((self.raw.tell() if self.packed else self.offset) / self.size, 1.0)


def rows_of_lines(
    stream: BinaryIO, file: Input, wanted: Wanted, documents: DocumentUnit, limit: int, start: Place
) -> Iterator[Row]:
    """See ``read_rows``."""
    row, line = start.row, start.line
    try:
        lines = Lines(stream, file, limit)
        if file.kind == "text":
            found = _texts(lines, wanted, start, documents)
        elif file.kind == "conll":
            found = _conll_rows(lines, wanted, start)
        elif lines.form.array:
            found = _json_array(lines, wanted, start)
        elif file.kind in ("json", "jsonl"):
            found = _json_objects(lines, wanted, start)
        else:
            found = _csv_records(lines, wanted, start)
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


def read_array(lines: Lines) -> list[Any]:
    """The elements of a JSON array; one object is the only element.

    Raises:
        ValueError: It is neither, or too large.
    """
    data = lines.whole(ARRAY_BYTES)
    if data is None:
        raise ValueError(f"a JSON array of more than {ARRAY_BYTES:,} bytes; write one object a line (.jsonl) instead")
    try:
        found = json.loads(decoded(data))
    except RecursionError as error:
        raise ValueError("wrong JSON: nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"wrong JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    if not isinstance(found, list | dict):
        raise ValueError("wrong JSON: text after the array")
    return [found] if isinstance(found, dict) else found


def _json_array(lines: Lines, wanted: Wanted, start: Place) -> Iterator[Found]:
    for number, fields in enumerate(read_array(lines)[start.row :], start=start.row + 1):
        if isinstance(fields, dict):
            yield of_fields(number, fields, wanted)
        else:
            yield Reject(number, f"wrong type: {type(fields).__name__} where an object is expected", str(fields))


class _TooLarge(Exception):
    """A row of CSV is above the limit."""


class _Decoded:
    """Lines as text; after an error the next line can still be read, which a generator would not allow."""

    def __init__(self, lines: Lines) -> None:
        self.lines, self.size, self.held = lines, 0, []

    def __iter__(self) -> "_Decoded":
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.size += 0 if line is None else len(line)
        if line is None or self.size > self.lines.limit:  # quoted fields run over lines
            raise _TooLarge
        self.held.append(line)
        # Invalid bytes pass as lone surrogates, so that the row they are in can be rejected and the next one read.
        return line.decode("utf-8", "surrogateescape")

    def begin(self) -> int:
        """Begin a row; returns the number of its first line."""
        self.size, self.held = 0, []
        return self.lines.number + 1

    def swallowed(self) -> list[bytes]:
        """The lines that a quotation mark in the first line of the row swallows, if they are rows by themselves.

        They are not where one holds a quotation mark inside a field, which may close the field of the first line. The
        last one may open a field.
        """
        after = self.held[1:]
        rows = csv.reader((line.decode("utf-8", "surrogateescape") for line in after), **self.lines.form.csv)
        try:
            whole = not any('"' in field for fields in rows for field in fields)
        except csv.Error as error:
            whole = "end of data" in str(error)
        return after if whole else []


def open_csv(lines: Lines) -> tuple[_Decoded, Any, list[str]]:
    """A CSV file behind its header, in the form of its lines.

    Raises:
        ValueError: The header is none.
    """
    csv.field_size_limit(2**31 - 1)  # ours is the limit of the lines, after which the next row can be read
    for _ in range(lines.form.skipped):
        next(lines, None)
    found = _Decoded(lines)
    rows = csv.reader(found, **lines.form.csv)
    try:
        return found, rows, next(rows, [])
    except (csv.Error, _TooLarge) as error:
        raise ValueError(f"the header is wrong CSV: {str(error) or 'too large'}") from error


def _csv_records(lines: Lines, wanted: Wanted, start: Place) -> Iterator[Found]:
    found, rows, header = open_csv(lines)
    if not header:
        return
    check_columns(header, wanted)
    places, replays = [header.index(name) for name in wanted.names], 0
    if start.offset:
        lines.go_to(start)
    while True:
        first = found.begin()
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            swallowed = found.swallowed() if replays < REPLAYS else []
            if swallowed:
                replays += 1
                lines.put_back(swallowed)
                yield Reject(first, "wrong CSV: a quotation mark that opens in this line is not closed", _shown(found))
            elif len(found.held) > 1:
                end = first + len(found.held) - 1
                yield Reject(first, f"wrong CSV: {error} (a quoted field runs on to line {end:,})", _shown(found))
            else:
                yield Reject(first, f"wrong CSV: {error}", _shown(found))
        except _TooLarge:
            reject = too_large(first, lines.limit)
            if len(found.held) > 1:
                reject = reject._replace(reason=f"{reject.reason}; is the quotation mark that opens there closed?")
            yield reject
        else:
            if len(fields) == len(header):
                yield first, [fields[place].encode("utf-8", "surrogateescape") for place in places]
            else:
                what = f"wrong CSV: {len(fields)} fields where the header has {len(header)}" if fields else "empty"
                yield Reject(first, what, (lines.form.delimiter or "").join(fields))


def _shown(found: _Decoded) -> str:
    return found.held[0].decode("utf-8", "backslashreplace").rstrip() if found.held else ""


CONLL_COLUMNS = {"text": "text", "tokens": "other", "tags": "other"}  # with their kinds, see ``peek``
DOCUMENT_START = "-DOCSTART-"  # CoNLL-2003's line between documents, which is no word


BLANKS = re.compile(r"[ \t]+")  # a no-break space is part of a word
TAG = re.compile(r"O|[BIESLU]-.+")


def _is_comment(text: str) -> bool:
    """Whether a line above the words of a row is one of CoNLL-U's or MultiCoNER's, not the word "#" and its tag."""
    fields = BLANKS.split(text)
    if not text.startswith("# ") or len(fields) == 2:
        return fields in (["#", "newdoc"], ["#", "newpar"])
    return fields[2:3] == ["="] or not TAG.fullmatch(fields[-1])


def _conll_rows(lines: Lines, wanted: Wanted, start: Place) -> Iterator[Found]:
    """What stands between blank lines: a word and its tag a line, the first and the last field of it."""
    check_columns(list(CONLL_COLUMNS), wanted)
    lines.go_to(start)
    first, size, words, tags, wrong = 0, 0, [], [], None
    for line in _and_blank(lines):
        if line is not None and line.strip() and not line.startswith(DOCUMENT_START.encode()):
            first, size = first or lines.number, size + len(line)
            if size > lines.limit:
                wrong = wrong or too_large(first, lines.limit)
                continue
            try:
                text = decoded(line.rstrip(b"\r\n"))
            except BadCell as error:
                wrong = wrong or Reject(lines.number, error.reason, error.value)
                continue
            if not words and _is_comment(text.rstrip()):
                first, size = 0, 0
                continue
            fields = text.split("\t") if "\t" in text else BLANKS.split(text.strip(" "))
            if len(fields) < 2:
                wrong = wrong or Reject(lines.number, "wrong CoNLL: a word without a tag", text)
            words.append(fields[0])
            tags.append(fields[-1].strip())
        elif line is None:
            first = first or lines.number
            wrong = wrong or too_large(first, lines.limit)
        elif first:
            row = {"text": " ".join(words), "tokens": words, "tags": tags}
            yield wrong or of_fields(first, row, wanted)
            first, size, words, tags, wrong = 0, 0, [], [], None


def _and_blank(lines: Lines) -> Iterator[bytes | None]:
    """All lines, and a blank one that ends the last row."""
    yield from lines
    yield b""


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
