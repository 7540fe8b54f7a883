"""The rows of one file, good and bad, from any row on: each has a text or the reason why it has none.

Nothing that a file may hold stops a run: what is wrong with a row costs that row, and what is wrong with the file costs
what cannot be read of it. Memory holds a row (Parquet: some), and rows have a limit.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing

import pyarrow as pa
import pyarrow.parquet as pq

from linformers.checks import closest
from linformers.files.inputs import Input, Unavailable
from linformers.files.lines import CountedLines, open_csv, rows_of_lines
from linformers.files.parquet import holds_text, rows_of_parquet
from linformers.files.records import TEXT_COLUMNS, names
from linformers.files.row import START, Columns, Place, Row, broken
from linformers.files.sources import DocumentUnit

PEEKED_LINES, PEEKED_BYTES = 100, 2**24  # in which an object or a header is looked for


def read_rows(
    file: Input, columns: Columns, *, documents: DocumentUnit, limit_bytes: int, start: Place = START
) -> Iterator[Row]:
    """Rows of a file from a place on.

    Args:
        file: to read.
        columns: what to read of it.
        documents: what a document is in a text file.
        limit_bytes: a larger row is rejected.
        start: a place that an earlier reading gave.

    Raises:
        Unavailable: the file has changed, or its store does not answer.
    """
    if file.refused:
        yield broken(file.refused, start)
        return
    try:
        stream = file.open()
    except OSError as error:
        yield broken(f"unreadable: {error.strerror or error}", start)
        return
    with closing(stream):
        if file.kind == "parquet":
            yield from rows_of_parquet(stream, columns, limit_bytes, start)
        else:
            yield from rows_of_lines(stream, file, columns, documents, limit_bytes, start)


def find_columns(files: Sequence[Input], text: str | None, ids: Sequence[str]) -> Columns:
    """The columns to read of all files, by those of the first that can be read.

    Raises:
        ValueError: a column is not there, or the text's cannot be told.
        Unavailable: a store does not answer.
    """
    for file in files:
        there = {} if file.refused else _peek(file)
        if not there:
            continue
        texts = [name for name, kind in there.items() if kind == "text"]
        found = text or next((name for name in TEXT_COLUMNS if name in texts), texts[0] if len(texts) == 1 else None)
        if found is None:
            raise ValueError(f"{file.name}: cannot tell which column holds the text; give --text ({names(texts)})")
        for option, name in (("text", found), *(("id", name) for name in ids)):
            if name not in there:
                hint = closest(name, there)
                raise ValueError(f"{file.name}: {option}={name!r} is no column of it; {names(list(there))}.{hint}")
        return Columns(found, {name: "int64" if there[name] == "int" else "string" for name in ids})
    if (text or ids) and all(file.kind == "text" for file in files):
        raise ValueError(f"{files[0].name} is text, which has no columns; leave out --text and --id")
    return Columns(text or "text", dict.fromkeys(ids, "string"))


def _peek(file: Input) -> dict[str, str]:
    """The columns of a file, each ``text``, ``int`` or ``other``; nothing where there are none or none can be read."""
    try:
        with closing(file.open()) as stream:
            if file.kind == "parquet":
                schema = pq.ParquetFile(stream).schema_arrow
                return {field.name: _kind(field.type) for field in schema}
            lines = CountedLines(stream, file, PEEKED_BYTES)
            if file.kind == "csv":
                return dict.fromkeys(open_csv(lines)[2], "text")
            for line, _ in zip(lines, range(PEEKED_LINES if file.kind == "jsonl" else 0), strict=False):
                try:
                    fields = json.loads(line or b"")
                except (ValueError, RecursionError):
                    continue
                if isinstance(fields, dict):
                    kinds = {str: "text", type(None): "text", int: "int"}
                    return {name: kinds.get(type(value), "other") for name, value in fields.items()}
    except Unavailable:
        raise
    except Exception:  # what is wrong with the file will stand among the rejects
        pass
    return {}


def _kind(kind: pa.DataType) -> str:
    return "int" if pa.types.is_integer(kind) else "text" if holds_text(kind) else "other"
