"""What a person should know of a task before it is trained on: counts of the classes, and what looks like a mistake."""

import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from linformers.data.tasks import Task

SHOWN = 20  # classes whose counts are said
MANY = 20  # whole numbers from which on they look like amounts


def notes(task: Task) -> list[str]:
    """The counts of the classes, then warnings with what to do."""
    if task.kind == "regression":
        values = task.train.labels
        return [f"values from {values.min():g} to {values.max():g}, {values.mean():g} in the mean of the training rows"]
    counts = {name: class_counts(task, name) for name in task.parts}
    shown = [
        f"{name} {' / '.join(f'{counts[part][place]:,}' for part in counts)}"
        for place, name in enumerate(task.classes[:SHOWN])
    ]
    more = len(task.classes) - SHOWN
    said = f"{len(task.classes)} classes (rows for {' / '.join(counts)}): {', '.join(shown)}"
    return [said + (f" and {more:,} more" if more > 0 else ""), *warnings(task)]


def warnings(task: Task) -> list[str]:
    """What looks like a mistake in the classes of a task."""
    return [*_alike(task.classes), *_numbers(task), *absent(task)]


def class_counts(task: Task, part: str) -> np.ndarray:
    """Rows of each class in a part."""
    labels = task.parts[part].labels
    return labels.sum(0).astype(int) if labels.ndim == 2 else np.bincount(labels, minlength=len(task.classes))


def absent(task: Task) -> Iterator[str]:
    """Classes without a row in a held-out part: figures say nothing of them."""
    for name in task.parts:
        if name == "train":
            continue
        lost = [one for one, count in zip(task.classes, class_counts(task, name), strict=True) if not count]
        if lost:
            more = f" (and {len(lost) - 3} more)" if len(lost) > 3 else ""
            rows = f"{len(task.parts[name]):,} {name} rows"
            yield (
                f"no row of {', '.join(map(repr, lost[:3]))}{more} among the {rows}: the "
                f"figures say nothing of it; set more aside with --{name}-size, or give a file with --{name}"
            )


def _alike(classes: list[str]) -> Iterator[str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        groups[re.sub(r"[\W_]+", "", name).casefold() or name].append(name)
    for found in groups.values():
        if len(found) > 1:
            yield (
                f"the classes {' and '.join(map(repr, found))} differ in case, blanks or punctuation only: if they are "
                "one class, spell it in one way"
            )


def _numbers(task: Task) -> Iterator[str]:
    numbers = [name for name in task.classes if re.fullmatch(r"[+-]?\d+", name)]
    if task.kind != "single_label" or len(numbers) < len(task.classes):
        return
    if len(numbers) > MANY:
        yield f"{len(numbers)} whole numbers are {len(numbers)} classes here; for amounts add --kind regression"
    if "-1" in numbers:
        yield "the label -1 is a class here; if it marks rows without a label, as in GLUE, take these rows out"
