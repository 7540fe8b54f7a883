"""Labelled examples out of JSONL, CSV and Parquet files, with the file and line that each comes from.

A row has no label where the cell is missing, empty, NaN or one of ``nan``, ``NaN`` and ``<NA>``; "None" may be a class.
Columns of zeros and ones, one for each class, are a label together: the classes that have a one.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from linformers.files.forms import Form
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
    ("question", "context"),
)
# Columns of predictions and of rejects, which hold no column of the same name.
WRITTEN = ("file", "row", "line", "text", "pair", "label", "predicted", "probabilities", "reason", "value")
LABEL_COLUMNS = ("label", "labels", "is_duplicate", "class", "category", "target", "score", "stars", "rating")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns of labelled texts; None = found by itself (a pair may be absent).

    Args:
        text: Column of the text, or columns that are joined.
        pair: Column of the second text.
        label: Column of the label.
        labels: In its place columns of zeros and ones, each named like its class.
        id: Columns to carry over.

    Raises:
        ValueError: An id has the name of a column that is written beside it.
    """

    text: str | tuple[str, ...] | None = None
    pair: str | None = None
    label: str | None = None
    labels: tuple[str, ...] = ()
    id: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        taken = [name for name in self.id if name in WRITTEN]
        if taken:
            raise ValueError(
                f"id={taken[0]!r} is the name of a column that predictions and rejects have themselves: rename it in "
                "the file"
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of the text."""
        return self.text if isinstance(self.text, tuple) else (self.text or "text",)

    @property
    def names(self) -> tuple[str | tuple[str, ...] | None, str | None, str | None]:
        """Text, pair, label."""
        return self.text, self.pair, self.label

    @property
    def wanted(self) -> Wanted:
        """What is read of a row: first the pair, then the labels, then the ids."""
        carried: dict[str, CellKind] = {} if self.pair is None else {self.pair: "text"}
        carried |= dict.fromkeys(self.labels or (self.label or "label",), "any")
        carried |= dict.fromkeys(self.id, "string")
        return Wanted(self.texts[0], carried, self.texts[1:])


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text, or pair of texts, and where it stands (line, or row of a Parquet file, from 1)."""

    noun: ClassVar[str] = "text"  # what two of them have in common
    file: str
    line: int
    text: str
    pair: str | None
    label: Any
    ids: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def shown(self) -> str:
        """The file, without the folders of this machine."""
        return os.path.basename(self.file)

    @property
    def texts(self) -> tuple[str, ...]:
        """The text, or both texts of a pair."""
        return (self.text,) if self.pair is None else (self.text, self.pair)


def read_examples(
    path: Path,
    columns: Columns,
    rejects: Rejects,
    progress: ReadProgress | None = None,
    *,
    form: Form = Form(),  # noqa: B008  (it is frozen)
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
        raise ValueError(f"{path}: examples with labels come as .jsonl, .json, .csv, .tsv or .parquet; convert it")
    file = Input.of(path, form=form)
    rejects.inputs[file] = None
    there = list(peek(file))
    columns = choose_columns(there, columns, path) if there else columns
    return collect(str(path), read_sound_rows(file, columns.wanted), columns, rejects, progress)


def collect(
    file: str, rows: Iterable[Row], columns: Columns, rejects: Rejects, progress: ReadProgress | None
) -> list[Example]:
    """The usable examples among rows; the others are rejected."""
    examples, ids = [], len(columns.id)
    pairs = 0 if columns.pair is None else 1
    for row in rows:
        if progress is not None:
            progress.reached(row.position)
        named = dict(zip(columns.id, row.carried[len(row.carried) - ids :], strict=False)) if ids else {}
        if row.text is None:
            rejects.reject(file, row.line, row.reason, row.value, named)
            continue
        cells = row.carried[pairs : len(row.carried) - ids]
        label, reason = _one_hot(columns.labels, cells) if columns.labels else (cells[0], "")
        if not columns.labels and is_missing(label):
            reason = f"no label: {columns.label or 'label'!r} is empty"
        if reason:
            rejects.reject(file, row.line, reason, row.text, named)
            continue
        examples.append(Example(file, row.line, row.text, row.carried[0] if pairs else None, label, ids=named))
        rejects.accept()
        if progress is not None:
            progress.add(1)
    return examples


def is_missing(label: Any) -> bool:
    """Whether a cell holds no label; see the rule above."""
    if isinstance(label, str):
        return label.strip() in ("", "nan", "NaN", "<NA>")
    return label is None or label != label  # NaN differs from itself


_ONE_HOT = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def _one_hot(names: Sequence[str], cells: Sequence[Any]) -> tuple[list[str], str]:
    """The classes that have a one, or what is wrong."""
    found = []
    for name, cell in zip(names, cells, strict=True):
        text = "" if is_missing(cell) else str(cell).strip().lower()
        if text in ("", "-1"):
            return [], f"no label: {name!r} is {'-1' if text else 'empty'}"
        if text not in _ONE_HOT:
            return [], f"unknown label: {name!r} holds {text!r} where 0 or 1 is expected"
        if _ONE_HOT[text]:
            found.append(name)
    return found, ""


def choose_columns(there: Sequence[str], asked: Columns, where: object) -> Columns:
    """The columns to read: those asked for, else by their usual names.

    Raises:
        ValueError: A column is not there, cannot be told, or is asked for twice.
    """
    label = None
    if not asked.labels:
        option = "--label, or --labels for columns of 0 and 1" if asked.label is None else "--label"
        label = choose_column(option, asked.label, LABEL_COLUMNS, there, where, "label")
    for option, found in (("--labels", asked.labels), ("--id", asked.id)):
        for name in found:
            choose_column(option, name, (), there, where, option[2:])
    pair = asked.pair and choose_column("--pair", asked.pair, (), there, where, "pair")
    if asked.text is None and pair is None:
        for one, other in PAIR_COLUMNS:
            if one in there and other in there:
                return replace(asked, text=one, pair=other, label=label)
    others = [name for name in there if name not in (label, pair, *asked.labels, *asked.id)]
    text, *more = asked.texts if asked.text is not None else (None,)
    text = choose_column("--text", text, TEXT_COLUMNS, there, where, "text", others)
    for name in more:
        choose_column("--text", name, (), there, where, "text")
    all_names = [text, *more, *(name for name in (pair, label) if name), *asked.labels, *asked.id]
    if len(set(all_names)) < len(all_names):
        texts = text if not more else ", ".join((text, *more))
        raise ValueError(f"{where}: text={texts!r}, pair={pair!r} and label={label!r} must be different columns")
    return replace(asked, text=(text, *more) if more else text, pair=pair, label=label)
