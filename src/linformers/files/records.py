"""One reader for each file format: a file in, its records out, good and bad, each with its line or row.

The readers hold one record (Parquet: one batch of rows) in memory. They raise ``ValueError`` for what is wrong with a
whole file (a missing column, a damaged archive) and hand out a record with a reason for what is wrong with one record.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from linformers.files.sources import Source, file_format

TEXT_COLUMNS = ("text", "content", "document", "body", "article", "passage", "sentence", "review", "abstract")
LONGEST_RECORD = 256 * 2**20  # bytes; what bounds the memory of a file without line ends
PARQUET_BATCH = 256  # rows


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a file: its first line (or row, from 1), and its text or the reason why it has none.

    ``position`` is how far the file has been read, as a share between 0 and 1.
    """

    line: int
    text: str | None
    reason: str = ""
    value: str = ""
    position: float = 0.0


def read_records(path: Path, source: Source) -> Iterator[Record]:
    """Records of one file, by the format its name tells.

    Raises:
        ValueError: the file as a whole cannot be read; the message names the file, the line and the remedy.
    """
    found = file_format(path)
    if found is None:
        raise ValueError(f"cannot tell the format of {path}")
    kind, compression = found
    if kind == "parquet":
        yield from _read_parquet(path, source)
        return
    with open_lines(path, compression) as lines:
        reader = {"text": _read_text, "jsonl": _read_jsonl, "csv": _read_csv}[kind]
        yield from reader(lines, source)


@contextmanager
def open_lines(path: Path, compression: str | None) -> Iterator["Lines"]:
    """The lines of a file, compressed or not."""
    size = max(1, path.stat().st_size)
    with path.open("rb") as raw:
        stream = raw if compression is None else io.BufferedReader(pa.CompressedInputStream(raw, compression))  # type: ignore[arg-type]
        yield Lines(stream, path, lambda: raw.tell() / size)


class Lines:
    """Lines of a file as bytes with their line ends, counted from 1; a byte-order mark at the start is dropped.

    A line above the limit is handed out as None, after reading over it.
    """

    def __init__(self, stream: BinaryIO, path: Path, position: Callable[[], float]) -> None:
        self.stream, self.path, self.position = stream, path, position
        self.number = 0

    def __iter__(self) -> Iterator[bytes | None]:
        while True:
            with naming(self.path, self.number + 1):
                line = self.stream.readline(LONGEST_RECORD)
                too_long = len(line) == LONGEST_RECORD and not line.endswith(b"\n")
                while too_long and (rest := self.stream.readline(LONGEST_RECORD)) and not rest.endswith(b"\n"):
                    pass
            if not line:
                return
            self.number += 1
            if self.number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            yield None if too_long else line


@contextmanager
def naming(path: Path, line: int) -> Iterator[None]:
    """Give errors of decompression and of Arrow the name of the file."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}:{line}: the file is damaged ({error}); replace it or take it away") from error


def checked(line: int, data: bytes, position: float) -> Record:
    """A record of these bytes, which may be empty or not UTF-8."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        around = data[max(0, error.start - 20) : error.start + 20].decode("utf-8", "backslashreplace")
        reason = f"invalid UTF-8: byte 0x{data[error.start]:02x} ({error.reason})"
        return Record(line, None, reason, around, position)
    return of_text(line, text, position)


def of_text(line: int, text: str, position: float) -> Record:
    """A record of this text, which may be blank."""
    if not text.strip():
        return Record(line, None, "empty", text, position)
    return Record(line, text, position=position)


def too_long(line: int, position: float) -> Record:
    """A record above the limit."""
    return Record(line, None, f"too long: above {LONGEST_RECORD // 2**20} MiB", "", position)


def _read_text(lines: Lines, source: Source) -> Iterator[Record]:
    if source.documents == "line":
        for line in lines:
            if line is None:
                yield too_long(lines.number, lines.position())
            elif line.strip():  # blank lines stand between documents
                yield checked(lines.number, line.rstrip(b"\r\n"), lines.position())
        return
    whole = source.documents == "file"
    first, size, held = 1, 0, []  # lines of the document so far
    for line in lines:
        if not whole and line is not None and not line.strip():
            if size:
                yield _joined(first, size, held, lines)
            first, size, held = lines.number + 1, 0, []
            continue
        size += LONGEST_RECORD + 1 if line is None else len(line)
        if size > LONGEST_RECORD:
            held.clear()
        else:
            held.append(line)
    if size or whole:
        yield _joined(first, size, held, lines)


def _joined(first: int, size: int, held: list[bytes], lines: Lines) -> Record:
    if size > LONGEST_RECORD:
        return too_long(first, lines.position())
    return checked(first, b"".join(held), lines.position())


def _read_jsonl(lines: Lines, source: Source) -> Iterator[Record]:
    column = source.text_column
    for found in json_objects(lines):
        if isinstance(found, Record):
            yield found
            continue
        number, fields = found
        if column is None:
            column = choose_column([name for name, value in fields.items() if isinstance(value, str)], lines.path)
        yield of_value(number, fields, column, lines.position())


def json_objects(lines: Lines) -> Iterator[Record | tuple[int, dict[str, Any]]]:
    """Line and fields of each object of a JSON-lines file; a line that holds none is a record with the reason."""
    for line in lines:
        number, position = lines.number, lines.position()
        if line is None:
            yield too_long(number, position)
            continue
        raw = checked(number, line.rstrip(b"\r\n"), position)
        if raw.text is None:
            yield raw
            continue
        try:
            # NaN and Infinity are no JSON, but many writers emit them, and only the text matters here.
            fields = json.loads(raw.text)
        except (json.JSONDecodeError, RecursionError) as error:
            at = f" (column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
            what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            yield Record(number, None, f"wrong JSON: {what}{at}", raw.text, position)
            continue
        if not isinstance(fields, dict):
            reason = f"wrong type: {type(fields).__name__} where one object a line is expected"
            yield Record(number, None, reason, raw.text, position)
            continue
        yield number, fields


def of_value(line: int, fields: dict[str, Any], column: str, position: float) -> Record:
    """A record of one field, which may be missing or no text."""
    if column not in fields:
        return Record(line, None, f"missing field: {column!r}", f"fields: {', '.join(fields)}", position)
    value = fields[column]
    if value is None:
        return Record(line, None, "empty", "null", position)
    if not isinstance(value, str):
        return Record(line, None, f"wrong type: {column!r} holds {type(value).__name__}", repr(value), position)
    # JSON may spell half a surrogate pair, which is no character and cannot be encoded.
    return of_text(line, value.encode("utf-8", "replace").decode("utf-8"), position)


def _read_csv(lines: Lines, source: Source) -> Iterator[Record]:
    header, rows = csv_rows(lines)
    if not header:
        yield Record(1, None, "empty", "")
        return
    column = source.text_column or choose_column(header, lines.path)
    if column not in header:
        raise ValueError(no_column(lines.path, column, header))
    where = header.index(column)
    for found in rows:
        if isinstance(found, Record):
            yield found
        else:
            first, row = found
            yield checked(first, row[where].encode("utf-8", "surrogateescape"), lines.position())


def csv_rows(lines: Lines, *, quoted: bool = True) -> tuple[list[str], Iterator[Record | tuple[int, list[str]]]]:
    """The header of a CSV or TSV file, and line and fields of each row; a row that does not fit is a record.

    Args:
        lines: of the file.
        quoted: whether a quotation mark opens a quoted field; GLUE's files have them as plain text.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_RECORD))

    def decoded() -> Iterator[str]:
        for line in lines:
            if line is None:
                raise ValueError(
                    f"{lines.path}:{lines.number}: a line above {LONGEST_RECORD // 2**20} MiB; is it really CSV?"
                )
            # Invalid bytes pass as lone surrogates, so that the row they are in can be rejected and the next one read.
            yield line.decode("utf-8", "surrogateescape")

    delimiter = "\t" if ".tsv" in [suffix.lower() for suffix in lines.path.suffixes] else ","
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    rows = csv.reader(decoded(), strict=True, delimiter=delimiter, quoting=quoting)
    try:
        header = next(rows, None)
    except csv.Error as error:
        raise ValueError(f"{lines.path}:1: the header is wrong CSV ({error})") from error

    def rest(width: int) -> Iterator[Record | tuple[int, list[str]]]:
        while True:
            first = lines.number + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Record(first, None, f"wrong CSV: {error}", "", lines.position())
                continue
            if len(row) != width:
                reason = "empty" if not row else f"wrong CSV: {len(row)} fields where the header has {width}"
                yield Record(first, None, reason, delimiter.join(row), lines.position())
            else:
                yield first, row

    return header or [], rest(len(header or []))


def _read_parquet(path: Path, source: Source) -> Iterator[Record]:
    with naming(path, 1):
        file = pq.ParquetFile(path)
    with file:
        schema = file.schema_arrow
        texts = [field.name for field in schema if _holds_text(field.type)]
        column = source.text_column or choose_column(texts, path)
        if column not in schema.names:
            raise ValueError(no_column(path, column, schema.names))
        if column not in texts:
            raise ValueError(f"{path}: column {column!r} holds {schema.field(column).type}, not text; {names(texts)}")
        row, rows = 0, max(1, file.metadata.num_rows)
        batches = file.iter_batches(batch_size=PARQUET_BATCH, columns=[column], use_threads=False)
        while True:
            with naming(path, row + 1):
                batch = next(batches, None)
                if batch is None:
                    return
                values = batch.column(0)
                if pa.types.is_dictionary(values.type):
                    values = values.dictionary_decode()
                # As bytes, because converting a column stops at the first invalid UTF-8.
                values = pc.cast(values, pa.large_binary()).to_pylist()
            for value in values:
                row += 1
                yield Record(row, None, "empty", "null") if value is None else checked(row, value, row / rows)


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def choose_column(columns: list[str], where: object) -> str:
    """The column that holds the text: a usual name, or the only column there is.

    Raises:
        ValueError: none has a usual name.
    """
    for name in TEXT_COLUMNS:
        if name in columns:
            return name
    if len(columns) == 1:
        return columns[0]
    raise ValueError(f"{where}: cannot tell which column holds the text; set text_column ({names(columns)})")


def no_column(where: object, column: str, columns: list[str]) -> str:
    """The message for a column that is not there."""
    return f"{where}: text_column={column!r} is not there; {names(columns)}"


def names(columns: list[str]) -> str:
    """The columns there are, as part of a message."""
    return f"columns: {', '.join(columns)}" if columns else "there is no text column"
