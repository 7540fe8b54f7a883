"""Tasks of taggers and of question answering, made ready by stated rules.

Rows that are held out, leaks and subsets are those of ``tasks.py``, but labels have no shares: a row has many. The
classes of a tagger are ``O``, then the tags of the training rows (of spans, ``B-`` and ``I-`` of each label); with
``B-X`` there is always ``I-X``, which the second part of a word gets. A tag that no training row has is a reject.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from linformers.data.annotations import Answers, Layout, Tagged, choose_annotated, find_layout, read_annotated
from linformers.data.entities import OUTSIDE
from linformers.data.examples import Example
from linformers.data.tasks import TASKS, Part, Parts, TaskSources, check_once, share_out
from linformers.files.inputs import Input
from linformers.files.progress import ReadProgress
from linformers.files.reading import peek
from linformers.files.rejects import Rejects, TooManyRejects, too_many
from linformers.files.sources import file_format

AnnotatedKind = Literal["tags", "answers"]
ANSWER_CLASSES = ["LABEL_0", "LABEL_1"]  # transformers' names: the start and the end


@dataclass(frozen=True, kw_only=True)
class AnnotatedTask(Parts):
    """A task of tags or answers made ready; its parts are without labels as numbers.

    Args:
        name: Name of the file.
        layout: Layout of the rows.
        classes: Tags, or for answers the names that transformers gives to start and end.
        columns: Columns of the texts.
    """

    name: str
    layout: Layout
    classes: list[str]
    columns: tuple[str, ...]

    @property
    def kind(self) -> AnnotatedKind:
        """``tags`` or ``answers``."""
        return "answers" if self.layout == "answers" else "tags"

    @property
    def unanswerable(self) -> bool:
        """Whether some training rows are questions that their context does not answer."""
        return any(isinstance(one.label, Answers) and not one.label.texts for one in self.train.examples)


def layout_of(sources: TaskSources, kind: str | None) -> Layout | None:
    """The layout of the training file; None = labels of whole texts.

    Raises:
        ValueError: See ``find_layout``.
        FileNotFoundError: No such file.
    """
    path = Path(sources.task)
    found = None if sources.task in TASKS else file_format(path)
    if found is None or found[0] == "text" or not path.is_file():
        if kind in ("tags", "answers"):
            raise ValueError(f"kind={kind!r} needs a file with annotated rows, and task={sources.task!r} is none")
        return None
    try:
        return find_layout(peek(Input.of(path, form=sources.form)), sources.columns, kind)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def prepare_annotated(
    sources: TaskSources,
    layout: Layout,
    check: Callable[[Sequence[Example]], list[str]],
    rejects: Rejects,
    progress: ReadProgress | None = None,
) -> AnnotatedTask:
    """Read, check and split.

    Args:
        sources: Sources of the rows; their ``labels`` name tags that are numbers.
        layout: Layout of all files.
        check: Tells why the tokens of each example do not do; "" = they do.
        rejects: Account of the rows.
        progress: Is told of rows.

    Raises:
        ValueError: No such column, too few rows, or too many bad ones.
        FileNotFoundError: A file is not there.
    """
    check_once(sources)
    names = sources.columns.labels

    def read(path: str) -> list[Example]:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file; check the spelling")
        file = Input.of(Path(path), form=sources.form)
        examples = read_annotated(file, layout, sources.columns, names, rejects, progress)
        return _keep(examples, check(examples), rejects)

    train_source, train = Path(sources.task).name, read(sources.task)
    for path in sources.extra_train:
        train_source, train = f"{train_source} + {Path(path).name}", train + read(path)
    validation = None if sources.validation is None else read(sources.validation)
    test = (Path(sources.test).name, read(sources.test)) if sources.test else None
    _check_rows("training", train, sources.task, rejects)
    rows = share_out(sources, None, (train_source, train), validation, test, rejects)
    classes = _classes(layout, rows["train"][1], names)
    for name in rows:
        if name != "train":
            rows[name] = rows[name][0], _drop_unknown(rows[name][1], layout, classes, rejects)
    rejects.finish()
    for name, (_, examples) in rows.items():
        _check_rows("training" if name == "train" else name, examples, sources.task, rejects)
    parts = {
        name: Part(source=source, examples=examples, labels=np.zeros(len(examples)))
        for name, (source, examples) in rows.items()
    }
    there = list(peek(Input.of(Path(sources.task), form=sources.form)))
    columns = choose_annotated(there, sources.columns, layout, sources.task) if there else sources.columns

    return AnnotatedTask(
        name=Path(sources.task).name,
        layout=layout,
        classes=classes,
        train=parts["train"],
        validation=parts["validation"],
        test=parts.get("test"),
        reasons=dict(rejects.reasons),
        columns=() if layout == "words" else (*columns.texts, *((columns.pair,) if columns.pair else ())),
    )


def _keep(examples: list[Example], reasons: list[str], rejects: Rejects) -> list[Example]:
    """The examples without a reason against them; the others are rejected."""
    kept = []
    for example, reason in zip(examples, reasons, strict=True):
        if reason:
            rejects.documents -= 1  # it was taken for usable when it was read
            rejects.reject(example.file, example.line, reason, example.text, example.ids)
        else:
            kept.append(example)
    return kept


def _classes(layout: Layout, train: Sequence[Example], names: Sequence[str]) -> list[str]:
    if layout == "answers":
        return list(ANSWER_CLASSES)
    found = {tag for one in train if isinstance(one.label, Tagged) for tag in one.label.tags}
    if layout == "spans":
        return [OUTSIDE, *(f"{prefix}-{label}" for label in sorted(found) for prefix in "BI")]
    found |= {f"I-{tag[2:]}" for tag in found if tag.startswith("B-")}
    if names:  # in the order in which they are given
        return [*dict.fromkeys((*names, *sorted(found)))]
    return [*([OUTSIDE] if OUTSIDE in found else []), *sorted(found - {OUTSIDE})]


def _drop_unknown(examples: list[Example], layout: Layout, classes: Sequence[str], rejects: Rejects) -> list[Example]:
    """Reject examples with a tag that is no class."""
    known = {name[2:] for name in classes if name != OUTSIDE} if layout == "spans" else {*classes}
    reasons = []
    for example in examples:
        tags = example.label.tags if isinstance(example.label, Tagged) else ()
        unknown = next((tag for tag in tags if tag not in known), None)
        reasons.append(f"unknown label: {unknown!r} is in no training row" if unknown is not None else "")
    return _keep(examples, reasons, rejects)


def _check_rows(name: str, rows: Sequence[Example], task: str, rejects: Rejects) -> None:
    """Refuse a part without a row."""
    if rows:
        return
    if rejects.first:
        rejects.close()
        raise TooManyRejects(too_many(rejects.rejected, rejects.records, 0, rejects.first, rejects.path))
    raise ValueError(f"task={task!r} has no usable {name} row; the file is empty, or all rows are held out")
