"""Classification and regression tasks: the named ones, and any file of labelled texts, made ready by stated rules."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from linformers.checks import closest
from linformers.data.examples import Columns, Example, choose_columns, collect, read_examples
from linformers.data.tasks_rules import (
    Kind,
    detect_kind,
    draw,
    drop_conflicts,
    drop_leaks,
    drop_unknown,
    drop_unlabelled,
    encode_labels,
    find_classes,
)
from linformers.files.forms import Form
from linformers.files.inputs import Input
from linformers.files.progress import ReadProgress
from linformers.files.reading import peek
from linformers.files.rejects import Rejects, TooManyRejects, too_many
from linformers.files.rows import make_row, of_fields
from linformers.files.sources import file_format

VALIDATION_SHARE, VALIDATION_LIMIT = 0.1, 1000


@dataclass(frozen=True, kw_only=True)
class NamedTask:
    """A public task.

    Args:
        classes: their names, in the order of the labels 0, 1, ...
        train: file names to look for, best first.
        test: likewise, of the set that results are reported on (GLUE's dev sets: its test sets have no labels).
        hub: data set, configuration, and splits for training and test.
    """

    classes: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    hub: tuple[str, str, str, str]


def _glue(name: str, folder: str, classes: tuple[str, ...], *train: str) -> NamedTask:
    """GLUE's own layout, and that of its Parquet files on the hub."""
    return NamedTask(
        classes=classes,
        train=(f"{name}_train.parquet", *train, f"{folder}/train.tsv", f"{name}/train-00000-of-00001.parquet"),
        test=(f"{name}_dev.parquet", f"{folder}/dev.tsv", f"{name}/validation-00000-of-00001.parquet"),
        hub=("nyu-mll/glue", name, "train", "validation"),
    )


TASKS = {
    "sst2": _glue("sst2", "SST-2", ("negative", "positive")),
    "imdb": NamedTask(
        classes=("negative", "positive"),
        train=("imdb_train.parquet", "plain_text/train-00000-of-00001.parquet"),
        test=("imdb_test.parquet", "plain_text/test-00000-of-00001.parquet"),
        hub=("stanfordnlp/imdb", "plain_text", "train", "test"),
    ),
    "qnli": _glue("qnli", "QNLI", ("entailment", "not_entailment"), "qnli_train_2k.parquet"),
    "qqp": _glue("qqp", "QQP", ("not_duplicate", "duplicate")),
}


@dataclass(frozen=True, kw_only=True)
class TaskSources:
    """Where a task comes from, and how its rows are shared out.

    Args:
        task: ``sst2``, ``imdb``, ``qnli``, ``qqp``, or a file of training rows.
        data: folder with a named task's files; None = the Hugging Face hub.
        extra_train: files with more training rows.
        validation: file of the rows that choose the step; None = set aside from the training rows.
        test: file of the rows that results are reported on; None = a named task's own, else the validation rows.
        columns: names of the columns.
        kind: Kind of the task; None = told by the labels.
        train_size: rows to train on; None = all. Subsets keep the shares of the labels.
        validation_size: rows (from 1), or their share (below 1), of the validation file, else set aside from the
            training rows; None = all of the file, else a tenth, at most 1,000.
        test_size: likewise of the test set; where there is none, None = no test set.
        split_seed: Seed of subsets and of the rows set aside.
        form: What is given of the form of the files.
        positive: Name of the class that F1 is of, where there are two; None = see `Task`.
    """

    task: str
    data: str | None = None
    extra_train: tuple[str, ...] = ()
    validation: str | None = None
    test: str | None = None
    columns: Columns = Columns()
    kind: Kind | None = None
    train_size: int | None = None
    validation_size: int | float | None = None
    test_size: int | float | None = None
    split_seed: int = 0
    form: Form = Form()
    positive: str | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of a task, with their labels as numbers; see ``encode_labels``."""

    source: str
    examples: list[Example]
    labels: Shaped[np.ndarray, "rows ..."]

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Rows of a task, shared out; without ``test``, results are reported on the validation rows.

    ``reasons`` counts the rows that were left out, by reason.
    """

    train: Part
    validation: Part
    test: Part | None
    reasons: dict[str, int]

    @property
    def reported(self) -> str:
        """Name of the part that results are reported on."""
        return "validation" if self.test is None else "test"

    @property
    def parts(self) -> dict[str, Part]:
        """All parts, by name."""
        return {"train": self.train, "validation": self.validation, **({"test": self.test} if self.test else {})}


@dataclass(frozen=True, kw_only=True)
class Task(Parts):
    """A task of labels made ready.

    Of two classes ``positive`` is the number of the one that F1 is of: the one asked for, a named task's second, the
    one of the name 1, true or yes, else the rarer one in training. ``columns`` are those of the texts.
    """

    name: str
    kind: Kind
    classes: list[str]
    positive: int = 1
    columns: tuple[str, ...] = ()


Reader = Callable[[Path, Columns, Rejects, ReadProgress | None], list[Example]]


def prepare_task(
    sources: TaskSources, rejects: Rejects, progress: ReadProgress | None = None, reader: Reader | None = None
) -> Task:
    """Read, check, split; see ``tasks_rules`` for the rules.

    Args:
        sources: Sources of the rows.
        rejects: for those that are unusable.
        progress: is told of rows.
        reader: Reader of files that hold no text; None = ``read_examples``.

    Raises:
        ValueError: no such task or column, too few rows or classes, or too many bad rows.
        FileNotFoundError: a file is not there.
    """
    named = TASKS.get(sources.task) if reader is None else None
    if named is None and reader is None and file_format(Path(sources.task)) is None:
        raise ValueError(
            f"task={sources.task!r} is neither one of {', '.join(TASKS)} nor a .jsonl, .json, .csv, .tsv or "
            f".parquet file."
            f"{closest(sources.task, TASKS)}"
        )

    check_once(sources)

    def read(path: str, form: Form = sources.form) -> list[Example]:
        if reader is not None:
            return reader(Path(path), sources.columns, rejects, progress)
        return read_examples(Path(path), sources.columns, rejects, progress, form=form)

    def own(which: str) -> tuple[str, list[Example]]:
        """The rows of a named task."""
        assert named is not None
        if sources.data is None:
            return _from_hub(sources.task, named, which, sources.columns, rejects, progress)
        path = _find(sources.task, named.train if which == "train" else named.test, Path(sources.data))
        plain = file_format(path) == ("tsv", None)  # GLUE's quotation marks are text
        return path.name, read(str(path), Form("tab", "utf-8", "text") if plain else sources.form)

    train_source, train = own("train") if named else (Path(sources.task).name, read(sources.task))
    for path in sources.extra_train:
        train_source, train = f"{train_source} + {Path(path).name}", train + read(path)
    validation = None if sources.validation is None else read(sources.validation)
    test_source = Path(sources.test).name if sources.test else ""
    test = read(sources.test) if sources.test else None
    if named and test is None:
        test_source, test = own("test")

    if named:
        names = {str(number): name for number, name in enumerate(named.classes)}
        train, validation, test = (_renamed(part, names) for part in (train, validation, test))
    assert train is not None
    kind = sources.kind or ("single_label" if named else detect_kind(train))
    train = drop_unlabelled(train, kind, rejects, len(named.classes) if named else 0)
    classes = list(sources.columns.labels) or _classes(named, train, kind)
    train = drop_unknown(train, kind, classes, rejects)
    train = drop_conflicts(train, kind, rejects)
    _check_classes(train, kind, sources.task, rejects)

    validation = validation and drop_unknown(validation, kind, classes, rejects)
    test = test and drop_unknown(test, kind, classes, rejects)
    rows = share_out(
        sources, kind, (train_source, train), validation, None if test is None else (test_source, test), rejects
    )
    rejects.finish()
    _check_classes(rows["train"][1], kind, sources.task, rejects)
    for name in rows:
        if not rows[name][1]:
            first = f"; the first is {rejects.first}" if rejects.first else ""
            raise ValueError(f"task={sources.task!r} has no usable {name} row; check its file{first}")
    parts = {
        name: Part(source=source, examples=examples, labels=encode_labels(examples, kind, classes))
        for name, (source, examples) in rows.items()
    }
    return Task(
        name=sources.task if named else Path(sources.task).name,
        kind=kind,
        classes=classes,
        train=parts["train"],
        validation=parts["validation"],
        test=parts.get("test"),
        reasons=dict(rejects.reasons),
        columns=() if reader is not None else _text_columns(sources, named),
        positive=_positive(sources.positive, classes, parts["train"].labels, kind, named is not None),
    )


Rows = tuple[str, list[Example]]  # where they come from, and they themselves


def share_out(
    sources: TaskSources,
    kind: Kind | None,
    train: Rows,
    validation: list[Example] | None,
    test: Rows | None,
    rejects: Rejects,
) -> dict[str, Rows]:
    """Rows by part, ``train``, ``validation`` and, if there is one, ``test``: set aside, without leaks, cut to size.

    Args:
        sources: What is asked for.
        kind: Kind of the task, whose labels keep their shares; None = labels have no shares.
        train: Rows to train on.
        validation: Rows of a file of their own; None = a part of the training rows.
        test: Likewise; None = a part of the training rows if ``test_size`` is given, else there is none.
        rejects: Account of the rows.

    Raises:
        ValueError: A size is beyond the rows there are.
    """
    (train_source, rows), seed = train, sources.split_seed
    validation_source = Path(sources.validation or "").name
    given = test is not None
    if test is None and sources.test_size is not None:
        aside, rows = set_aside("test_size", rows, kind, sources.test_size, seed + 1)
        test = f"{len(aside):,} rows set aside from {train_source}", aside
    if test is not None:
        rows = drop_leaks(rows, test[1], "test", rejects)
        validation = validation and drop_leaks(validation, test[1], "test", rejects)
    if validation is None:
        if len(rows) < 2:
            raise ValueError(
                f"task={sources.task!r} has no usable training row besides those to validate on ({len(rows)} left; "
                "others are held out or left out); give more rows, or a file of validation rows"
            )
        size = sources.validation_size
        size = max(min(VALIDATION_LIMIT, int(VALIDATION_SHARE * len(rows))), 1) if size is None else size
        validation, rows = set_aside("validation_size", rows, kind, size, seed)
        validation_source = f"{len(validation):,} rows set aside from {train_source}"
    elif sources.validation_size is not None:
        validation = subset("validation_size", validation, kind, sources.validation_size, seed)
    rows = drop_leaks(rows, validation, "validation", rejects)
    if sources.train_size is not None:
        rows = subset("train_size", rows, kind, sources.train_size, seed)
    if test is not None and given and sources.test_size is not None:
        test = test[0], subset("test_size", test[1], kind, sources.test_size, seed)
    found = {"train": (train_source, rows), "validation": (validation_source, validation)}
    return found if test is None else {**found, "test": test}


def splits_json(parts: Mapping[str, Part]) -> str:
    """Lines (rows) of every part, by file."""
    found: dict[str, dict[str, list[int]]] = {}
    for name, part in parts.items():
        for example in part.examples:
            found.setdefault(name, {}).setdefault(example.file, []).append(example.line)
    return json.dumps(found) + "\n"


def _find(task: str, names: Sequence[str], folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"data={str(folder)!r} is no folder; name the one with the files of {task}")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"data={str(folder)!r} holds none of {', '.join(names)}, which task {task!r} needs")


def _from_hub(
    task: str, named: NamedTask, which: str, asked: Columns, rejects: Rejects, progress: ReadProgress | None
) -> tuple[str, list[Example]]:
    from datasets import load_dataset

    name, config, train, test = named.hub
    split = train if which == "train" else test
    try:
        rows: Any = load_dataset(name, config, split=split)
    except Exception as error:  # whatever the network, the hub or the library comes up with
        files = ", ".join(named.train if which == "train" else named.test)
        raise ValueError(
            f"task={task!r}: {name} ({config}, {split}) cannot be had from the Hugging Face hub "
            f"({type(error).__name__}); give data=FOLDER with one of {files}"
        ) from error
    columns = choose_columns(rows.column_names, asked, name)
    wanted = columns.wanted
    found = (make_row(of_fields(line, row, wanted), wanted) for line, row in enumerate(rows, start=1))
    file = f"hf:{name}:{config}:{split}"
    return file, collect(file, found, columns, rejects, progress)


def _renamed(examples: list[Example] | None, names: dict[str, str]) -> list[Example] | None:
    if examples is None:
        return None
    return [replace(example, label=names.get(str(example.label), example.label)) for example in examples]


def _classes(named: NamedTask | None, train: list[Example], kind: Kind) -> list[str]:
    if kind == "regression":
        return ["value"]
    return list(named.classes) if named else find_classes(train, kind)


def _positive(asked: str | None, classes: list[str], labels: np.ndarray, kind: Kind, named: bool) -> int:
    if asked is not None:
        if kind != "single_label" or len(classes) != 2 or asked not in classes:
            raise ValueError(f"positive={asked!r} must be one of two classes, and these are {', '.join(classes)}")
        return classes.index(asked)
    if kind != "single_label" or len(classes) != 2 or named or classes[1].casefold() in ("1", "true", "yes"):
        return 1
    return int(np.bincount(labels, minlength=2)[0] >= np.bincount(labels, minlength=2)[1])


def _text_columns(sources: TaskSources, named: NamedTask | None) -> tuple[str, ...]:
    """The columns of the texts of the training file, the pair last; nothing where they are the hub's."""
    path = Path(sources.task)
    if named is not None:
        if sources.data is None:
            return ()
        path = _find(sources.task, named.train, Path(sources.data))
    there = list(peek(Input.of(path, form=sources.form)))
    found = choose_columns(there, sources.columns, path) if there else sources.columns
    return (*found.texts, *((found.pair,) if found.pair else ()))


def check_once(sources: TaskSources) -> None:
    """Refuse a file that is named twice, whatever the path."""
    found: dict[str, str] = {}
    named = [("task", sources.task), *(("extra_train", path) for path in sources.extra_train)]
    for option, path in (*named, ("validation", sources.validation), ("test", sources.test)):
        if path is None or not os.path.exists(path):
            continue
        real = os.path.realpath(path)
        if real in found:
            remedy = "name each file once"
            if option in ("validation", "test"):
                remedy = f"leave it out, and {option}_size=0.2 sets a fifth of the training rows aside"
            raise ValueError(f"{option}={path} is the same file as {found[real]}: {remedy}")
        found[real] = f"{option}={path}"


def set_aside(
    option: str, train: list[Example], kind: Kind | None, size: int | float, seed: int
) -> tuple[list[Example], list[Example]]:
    """The rows set aside, and the others."""
    chosen = set(draw(train, kind, _rows(option, size, len(train), len(train) - 1), seed).tolist())
    return (
        [example for row, example in enumerate(train) if row in chosen],
        [example for row, example in enumerate(train) if row not in chosen],
    )


def subset(option: str, examples: list[Example], kind: Kind | None, size: int | float, seed: int) -> list[Example]:
    """A number of rows, or a share of them; see ``draw``."""
    return [examples[row] for row in draw(examples, kind, _rows(option, size, len(examples), len(examples)), seed)]


def _rows(option: str, size: int | float, rows: int, most: int) -> int:
    """A number of rows, or a share of them, as a number."""
    count = round(size * rows) if size < 1 else int(size)
    if not 1 <= count <= most:
        raise ValueError(f"{option}={size:g} must be between 1 and {most}, the usable rows; choose another size")
    return count


def _check_classes(train: list[Example], kind: Kind, task: str, rejects: Rejects) -> None:
    if not train:
        if rejects.first:
            rejects.close()
            raise TooManyRejects(too_many(rejects.rejected, rejects.records, 0, rejects.first, rejects.path))
        raise ValueError(f"task={task!r} has no usable training row; the file is empty, or all rows are held out")
    if kind == "single_label":
        found = find_classes(train, kind)
        if len(found) < 2:
            raise ValueError(
                f"task={task!r}: all {len(train):,} usable training rows have the label {found[0]!r}; a classifier "
                "needs rows of two classes or more"
            )
