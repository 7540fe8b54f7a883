"""Labelled examples out of JSONL, CSV and Parquet files, with the file and line that each comes from."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from linformers.checks import closest
from linformers.files.progress import ReadProgress
from linformers.files.records import (
    PARQUET_BATCH,
    TEXT_COLUMNS,
    Record,
    checked,
    csv_rows,
    json_objects,
    names,
    naming,
    of_value,
    open_lines,
)
from linformers.files.rejects import Rejects
from linformers.files.sources import file_format

PAIR_COLUMNS = (
    ("question", "sentence"),
    ("question1", "question2"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
LABEL_COLUMNS = ("label", "labels", "is_duplicate", "class", "category", "target", "score", "stars", "rating")
Values = tuple[Any, Any, Any]  # text, pair, label, as the file has them


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns; None = found by itself (a pair may be absent)."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None

    @property
    def names(self) -> tuple[str | None, str | None, str | None]:
        """In the order of ``Values``."""
        return self.text, self.pair, self.label


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text, or pair of texts, and where it stands (line, or row of a Parquet file, from 1)."""

    noun: ClassVar[str] = "text"  # what two of them have in common
    file: str
    line: int
    text: str
    pair: str | None
    label: Any

    @property
    def shown(self) -> str:
        """The file, without the folders of this machine."""
        return os.path.basename(self.file)

    @property
    def texts(self) -> tuple[str, ...]:
        """The text, or both texts of a pair."""
        return (self.text,) if self.pair is None else (self.text, self.pair)


def read_examples(
    path: Path, columns: Columns, rejects: Rejects, progress: ReadProgress | None = None, *, quoted: bool = True
) -> list[Example]:
    """The usable examples of a file; the others are rejected with the reason.

    Raises:
        ValueError: no such column, an unreadable file, or too many bad rows.
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the spelling")
    found = file_format(path)
    if found is None or found[0] == "text":
        raise ValueError(f"{path}: examples with labels come as .jsonl, .csv, .tsv or .parquet; convert the file")
    kind, compression = found
    chosen: list[Columns] = []

    def choose(there: list[str]) -> Columns:
        chosen.append(choose_columns(there, columns, path))
        return chosen[0]

    reached = progress.reached if progress is not None else lambda share: None
    rows = _rows(path, kind, compression, choose, quoted, reached)
    return collect(str(path), rows, lambda: chosen[0], rejects, progress)


def collect(
    file: str,
    rows: Iterable[Record | tuple[int, Values]],
    columns: Callable[[], Columns],
    rejects: Rejects,
    progress: ReadProgress | None,
) -> list[Example]:
    """The usable examples among rows, each with its line; the others are rejected."""
    examples = []
    for row in rows:
        made = row if isinstance(row, Record) else make_example(file, *row, columns())
        if isinstance(made, Record):
            rejects.reject(file, made.line, made.reason, made.value)
        else:
            examples.append(made)
            rejects.accept()
            if progress is not None:
                progress.add(1)
    return examples


def make_example(file: str, line: int, values: Values, columns: Columns) -> Example | Record:
    """An example, or a record with the reason why it is none."""
    texts: list[str | None] = [None, None]
    for place, name in enumerate((columns.text, columns.pair)):
        if name is None:
            continue
        value = values[place]
        text = checked(line, value, 0.0) if isinstance(value, bytes) else of_value(line, {name: value}, name, 0.0)
        if text.text is None:
            reason = f"empty: no text in {name!r}" if text.reason == "empty" else text.reason
            return Record(line, None, reason, text.value)
        texts[place] = text.text
    label = values[2]
    if label is None or label == "" or label != label:  # NaN differs from itself
        return Record(line, None, f"no label: {columns.label!r} is empty", str(texts[0]))
    assert texts[0] is not None
    return Example(file, line, texts[0], texts[1], label)


def choose_columns(there: list[str], asked: Columns, where: object) -> Columns:
    """The columns to read: those asked for, else by their usual names.

    Raises:
        ValueError: a column is not there, or cannot be told.
    """
    for option, name in (("text", asked.text), ("pair", asked.pair), ("label", asked.label)):
        if name is not None and name not in there:
            raise ValueError(f"{where}: {option}={name!r} is no column of it; {names(there)}.{closest(name, there)}")
    label = asked.label or next((name for name in LABEL_COLUMNS if name in there), None)
    if label is None:
        raise ValueError(f"{where}: cannot tell which column holds the label; give --label ({names(there)})")
    if asked.text is None and asked.pair is None:
        for text, pair in PAIR_COLUMNS:
            if text in there and pair in there:
                return Columns(text=text, pair=pair, label=label)
    others = [name for name in there if name not in (label, asked.pair)]
    text = asked.text or next((name for name in TEXT_COLUMNS if name in others), None)
    if text is None and len(others) == 1:
        text = others[0]
    if text is None:
        raise ValueError(f"{where}: cannot tell which column holds the text; give --text ({names(there)})")
    return Columns(text=text, pair=asked.pair, label=label)


def _rows(
    path: Path,
    kind: str,
    compression: str | None,
    choose: Callable[[list[str]], Columns],
    quoted: bool,
    reached: Callable[[float], None],
) -> Iterator[Record | tuple[int, Values]]:
    if kind == "parquet":
        yield from _parquet_rows(path, choose, reached)
        return
    with open_lines(path, compression) as lines:
        if kind == "csv":
            header, rows = csv_rows(lines, quoted=quoted)
            columns = choose(header)
            wanted = [None if name is None else header.index(name) for name in columns.names]
            for row in rows:
                reached(lines.position())
                if isinstance(row, Record):
                    yield row
                    continue
                first, fields = row
                text, pair, label = (None if place is None else fields[place] for place in wanted)
                # Bytes, as invalid UTF-8 must be found in the texts.
                yield first, (_bytes(text), _bytes(pair), label)
            return
        chosen: Columns | None = None
        for found in json_objects(lines):
            reached(lines.position())
            if isinstance(found, Record):
                yield found
                continue
            number, fields = found
            chosen = chosen or choose(list(fields))
            missing = [name for name in chosen.names if name is not None and name not in fields]
            if missing:
                yield Record(number, None, f"missing field: {missing[0]!r}", f"fields: {', '.join(fields)}")
            else:
                text, pair, label = (None if name is None else fields[name] for name in chosen.names)
                yield number, (text, pair, label)


def _parquet_rows(
    path: Path, choose: Callable[[list[str]], Columns], reached: Callable[[float], None]
) -> Iterator[tuple[int, Values]]:
    with naming(path, 1):
        file = pq.ParquetFile(path)
    with file:
        columns = choose(file.schema_arrow.names)
        wanted = [name for name in columns.names if name is not None]
        batches = file.iter_batches(batch_size=PARQUET_BATCH, columns=wanted, use_threads=False)
        row = 0
        while True:
            with naming(path, row + 1):
                batch = next(batches, None)
                if batch is None:
                    return
                lists = {name: _values(batch.column(name), name != columns.label) for name in wanted}
            lists[""] = [None] * batch.num_rows
            reached(row / file.metadata.num_rows)
            for values in zip(*(lists[name or ""] for name in columns.names), strict=True):
                row += 1
                yield row, values


def _values(column: Any, is_text: bool) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_text and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        column = pc.cast(column, pa.large_binary())  # converting text stops at the first invalid UTF-8
    return column.to_pylist()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")
