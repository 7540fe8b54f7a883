"""Labelled examples out of JSONL, CSV and Parquet files, with the file and line that each comes from."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from linformers.files.inputs import Input
from linformers.files.progress import ReadProgress
from linformers.files.reading import peek, read_sound_rows
from linformers.files.rejects import Rejects
from linformers.files.rows import TEXT_COLUMNS, CellKind, Row, Wanted, choose_column
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


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns of labelled texts; None = found by itself (a pair may be absent)."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None

    @property
    def names(self) -> tuple[str | None, str | None, str | None]:
        """Text, pair, label."""
        return self.text, self.pair, self.label

    @property
    def wanted(self) -> Wanted:
        """What is read of a row."""
        carried: dict[str, CellKind] = {self.label or "label": "any"}
        return Wanted(self.text or "text", carried if self.pair is None else {self.pair: "text", **carried})


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
    file = Input.of(path)
    there = list(peek(file, quoted=quoted))
    wanted = (choose_columns(there, columns, path) if there else columns).wanted
    return collect(str(path), read_sound_rows(file, wanted, quoted=quoted), wanted, rejects, progress)


def collect(
    file: str, rows: Iterable[Row], wanted: Wanted, rejects: Rejects, progress: ReadProgress | None
) -> list[Example]:
    """The usable examples among rows; the others are rejected."""
    examples = []
    for row in rows:
        if progress is not None:
            progress.reached(row.position)
        if row.text is None:
            rejects.reject(file, row.line, row.reason, row.value)
            continue
        *pair, label = row.carried
        if is_missing(label):
            rejects.reject(file, row.line, f"no label: {wanted.names[-1]!r} is empty", row.text)
            continue
        examples.append(Example(file, row.line, row.text, pair[0] if pair else None, label))
        rejects.accept()
        if progress is not None:
            progress.add(1)
    return examples


def is_missing(label: Any) -> bool:
    """Whether a cell holds no label."""
    return label is None or label == "" or label != label  # NaN differs from itself


def choose_columns(there: Sequence[str], asked: Columns, where: object) -> Columns:
    """The columns to read: those asked for, else by their usual names.

    Raises:
        ValueError: A column is not there, cannot be told, or is asked for twice.
    """
    label = choose_column("--label", asked.label, LABEL_COLUMNS, there, where, "label")
    pair = asked.pair and choose_column("--pair", asked.pair, (), there, where, "pair")
    if asked.text is None and pair is None:
        for one, other in PAIR_COLUMNS:
            if one in there and other in there:
                return Columns(text=one, pair=other, label=label)
    others = [name for name in there if name not in (label, pair)]
    text = choose_column("--text", asked.text, TEXT_COLUMNS, there, where, "text", others)
    if len({text, pair, label}) < 3:
        raise ValueError(f"{where}: text={text!r}, pair={pair!r} and label={label!r} must be different columns")
    return Columns(text=text, pair=pair, label=label)
