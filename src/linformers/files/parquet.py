"""Rows of Parquet, from any row on; what its metadata promise and its pages do not hold is rejected."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from linformers.files.inputs import Unavailable
from linformers.files.rows import (
    BOMB_BYTES,
    BOMB_RATIO,
    Place,
    Reject,
    Row,
    Wanted,
    broken,
    check_columns,
    make_row,
    too_large,
)

ROWS, BYTES = 256, 16 * 2**20  # read at once, at most


def holds_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def rows_of_parquet(stream: BinaryIO, wanted: Wanted, limit: int, start: Place) -> Iterator[Row]:
    """See ``read_rows``."""
    try:
        meta = pq.read_metadata(stream)
        schema = meta.schema.to_arrow_schema()
        groups = [meta.row_group(number).num_rows for number in range(meta.num_row_groups)]
        rows = sum(groups)
        if rows != meta.num_rows or min(groups, default=0) < 0:
            raise ValueError(f"damaged: {meta.num_rows:,} rows, of which its row groups hold {rows:,}")
    except Unavailable:
        raise
    except Exception as error:  # whatever the library comes up with for a damaged file
        yield broken(f"unreadable: {error}", start)
        return
    try:
        check_columns(schema.names, wanted)
        texts = [name for name, kind in wanted.columns if kind in ("text", "part")]
        for name in texts:
            if not holds_text(schema.field(name).type):
                raise ValueError(f"wrong type: {name!r} holds {schema.field(name).type}")
        # Dictionaries stay dictionaries: one text that stands for millions of rows is in memory once.
        file = pq.ParquetFile(stream, metadata=meta, read_dictionary=texts, buffer_size=2**20)
    except Unavailable:
        raise
    except Exception as error:
        if rows > start.row:
            yield broken(str(error), start, rows - start.row)
        return
    end = 0
    for number, count in enumerate(groups):
        before, end = end, end + count
        row = max(before, start.row)
        if row >= end:
            continue
        try:
            for found in _row_group(file, number, wanted, limit, row - before):
                if row == end:
                    raise ValueError("damaged: more rows than it says")
                row += 1
                made = found._replace(line=row) if isinstance(found, Reject) else (row, found)
                yield make_row(made, wanted, Place(row), row / rows)
            if row < end:
                raise ValueError("damaged: fewer rows than it says")
        except Unavailable:
            raise
        except Exception as error:
            if row < end:
                yield broken(f"unreadable: {error}", Place(row), end - row, position=end / rows)


def _row_group(
    file: pq.ParquetFile, number: int, wanted: Wanted, limit: int, skipped: int
) -> Iterator[Reject | tuple[Any, ...]]:
    group = file.metadata.row_group(number)
    chunks = [group.column(place) for place in range(group.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in wanted.names]
    size = sum(chunk.total_uncompressed_size for chunk in chunks)
    if size > max(BOMB_BYTES, BOMB_RATIO * sum(chunk.total_compressed_size for chunk in chunks)):
        raise ValueError(f"it unpacks to more than {BOMB_RATIO} times its size: is it a bomb?")
    at_once = min(max(BYTES * group.num_rows // max(size, 1), 1), ROWS)
    for batch in file.iter_batches(at_once, row_groups=[number], columns=list(wanted.names), use_threads=False):
        if skipped >= batch.num_rows:
            skipped -= batch.num_rows
            continue
        batch, skipped = batch.slice(skipped), 0
        columns = [
            _texts(batch.column(name), limit) if kind in ("text", "part") else _values(batch.column(name))
            for name, kind in wanted.columns
        ]
        for cells in zip(*columns, strict=True):
            yield next((cell for cell in cells if isinstance(cell, Reject)), cells)


def _values(column: Any) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if holds_text(column.type):
        column = pc.cast(column, pa.large_binary())  # converting text stops at the first invalid UTF-8
    return column.to_pylist()


def _texts(column: Any, limit: int) -> Iterator[bytes | None | Reject]:
    """Texts as bytes, for the same reason; what is too large is not even converted."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    values = pc.cast(column.dictionary, pa.large_binary())
    sizes = pc.binary_length(values).to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
    for place in column.indices.to_pylist():
        if place is None or sizes[place] is None:
            yield None
        elif sizes[place] > limit:
            yield too_large(0, limit)
        else:
            yield values[place].as_py()
