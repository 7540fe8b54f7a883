"""What labels mean, which rows are left out, and how rows are split: each by a stated rule.

- *Kind*: labels that are lists make a multi-label task; numbers of which one is no whole number make a regression; all
  else are names of classes.
- *Conflicts*: training texts that stand there with different labels are left out, all of them: none can be trusted.
  (Regression keeps them: numbers may vary.)
- *Leaks*: a text that is held out is left out of training, so that nothing is tested on what was learned; likewise a
  test text out of validation. Case and blanks make no difference.
- *Unknown labels* in held-out rows, which no training row has, are rejected like any other bad row.
- *Minus one* marks a row without a label, as in GLUE's test sets, where all other labels are 0, 1, ... (two or more):
  such rows are rejected. Of labels like -1 and 1 it is a class.
"""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, Shaped

from linformers.data.examples import Example
from linformers.files.rejects import Rejects

Kind = Literal["single_label", "multi_label", "regression"]
PROBLEM_TYPES: dict[Kind, str] = {  # transformers' names
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


def kind_of_config(config: Any) -> Kind:
    """What the outputs of a classifier with this configuration mean."""
    for kind, name in PROBLEM_TYPES.items():
        if config.problem_type == name:
            return kind
    return "regression" if config.num_labels == 1 else "single_label"


def detect_kind(examples: Sequence[Example]) -> Kind:
    """The kind of task that the labels tell; see the rules above."""
    labels = [example.label for example in examples]
    if any(isinstance(_unpacked(label), list) for label in labels):
        return "multi_label"
    numbers = [_number(label) for label in labels]
    if all(number is not None for number in numbers) and any(number % 1 for number in numbers if number is not None):
        return "regression"
    return "single_label"


def class_name(label: Any) -> str:
    """Name of a class: whole numbers and booleans as they are written in JSON, texts without outer blanks."""
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return str(label).strip()


def labels_of(example: Example, kind: Kind) -> list[str]:
    """Names of an example's classes."""
    label = _unpacked(example.label) if kind == "multi_label" else example.label
    return sorted({class_name(one) for one in label}) if isinstance(label, list) else [class_name(label)]


def find_classes(examples: Sequence[Example], kind: Kind) -> list[str]:
    """All classes, in the order of their numbers if they are numbers, else of the alphabet."""
    found = {name for example in examples for name in labels_of(example, kind)}
    try:
        return sorted(found, key=int)
    except ValueError:
        return sorted(found)


def for_model(examples: list[Example], kind: Kind, classes: Sequence[str], rejects: Rejects) -> list[Example]:
    """The examples that a trained classifier can be measured on; a file may number its classes.

    Raises:
        ValueError: too many bad rows.
    """
    if kind == "single_label":
        names = {str(number): name for number, name in enumerate(classes) if str(number) not in classes}
        examples = [replace(one, label=names.get(class_name(one.label), one.label)) for one in examples]
    kept = drop_unknown(examples, kind, classes, rejects)
    rejects.finish()
    return kept


def drop_unknown(examples: list[Example], kind: Kind, classes: Sequence[str], rejects: Rejects) -> list[Example]:
    """Reject examples whose label is no class, or no number."""
    index = {name: number for number, name in enumerate(classes)}
    kept = []
    for example in examples:
        _, reason = _encode(example, kind, index)
        if reason:
            rejects.documents -= 1  # it was taken for usable when it was read
            rejects.reject(example.file, example.line, reason, example.text, example.ids)
        else:
            kept.append(example)
    return kept


def encode_labels(examples: Sequence[Example], kind: Kind, classes: Sequence[str]) -> Shaped[np.ndarray, "rows ..."]:
    """Labels as numbers: (rows,) indices, (rows, classes) zeros and ones, or (rows,) values."""
    index = {name: number for number, name in enumerate(classes)}
    dtype = np.int64 if kind == "single_label" else np.float32
    return np.array([_encode(example, kind, index)[0] for example in examples], dtype=dtype)


def _encode(example: Example, kind: Kind, index: dict[str, int]) -> tuple[Any, str]:
    if kind == "regression":
        number = _number(example.label)
        usable = number is not None and math.isfinite(number)
        return number, "" if usable else f"unknown label: {example.label!r} is no finite number"
    names = labels_of(example, kind)
    unknown = [name for name in names if name not in index]
    if unknown == ["-1"]:
        return None, "no label: -1 is none of the training classes, and marks rows without a label as in GLUE"
    if unknown:
        return None, f"unknown label: {unknown[0]!r} is none of the training classes ({', '.join(index)})"
    if kind == "single_label":
        return index[names[0]], ""
    return [float(name in names) for name in index], ""


def drop_unlabelled(examples: list[Example], kind: Kind, rejects: Rejects, classes: int = 0) -> list[Example]:
    """Reject rows whose label is -1, where that marks rows without one; see the rules above.

    Args:
        examples: Training rows.
        kind: Kind of the task.
        rejects: Account of the rows.
        classes: How many classes are known; 0 = those of the rows.
    """
    if kind != "single_label":
        return examples
    found = {class_name(example.label) for example in examples}
    others = found - {"-1"}
    if "-1" not in found or not (classes or (len(others) > 1 and others == set(map(str, range(len(others)))))):
        return examples
    kept = []
    for example in examples:
        if class_name(example.label) != "-1":
            kept.append(example)
            continue
        rejects.documents -= 1  # it was taken for usable when it was read
        reason = "no label: -1, which marks rows without one as in GLUE; if it is a class, write the labels as names"
        rejects.reject(example.file, example.line, reason, example.text, example.ids)
    return kept


def drop_conflicts(examples: list[Example], kind: Kind, rejects: Rejects) -> list[Example]:
    """Leave out texts that stand there with different labels."""
    if kind == "regression":
        return examples
    found: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    for example in examples:
        found[text_key(example)].add(tuple(labels_of(example, kind)))
    kept = []
    for example in examples:
        labels = found[text_key(example)]
        if len(labels) == 1:
            kept.append(example)
            continue
        shown = " and ".join(sorted("+".join(names) or "none" for names in labels)[:3])
        reason = f"conflict: the same {example.noun} has the labels {shown}"
        rejects.leave_out(example.file, example.line, reason, example.text, example.ids)
    return kept


def drop_leaks(examples: list[Example], held_out: Sequence[Example], name: str, rejects: Rejects) -> list[Example]:
    """Leave out texts that are in a held-out set as well."""
    there = {text_key(example): example for example in held_out}
    kept = []
    for example in examples:
        twin = there.get(text_key(example))
        if twin is None:
            kept.append(example)
        else:
            reason = f"duplicate: the same {example.noun} is in the {name} set ({twin.file}:{twin.line})"
            rejects.leave_out(example.file, example.line, reason, example.text, example.ids)
    return kept


def text_key(example: Example) -> tuple[str, ...]:
    """What makes two texts the same: everything but case and blanks."""
    return tuple(" ".join(text.split()).casefold() for text in example.texts)


def draw(examples: Sequence[Example], kind: Kind | None, size: int, seed: int) -> Int[np.ndarray, " size"]:
    """Rows of a random subset in which every label has its share, to within a row; sorted.

    Where the shares are no whole numbers, labels that would have no row come first. Of a regression, and without a
    kind, labels have no shares.
    """
    rng = np.random.default_rng(seed)
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, example in enumerate(examples):
        groups[() if kind in (None, "regression") else tuple(labels_of(example, kind))].append(row)
    shuffled = [rng.permutation(rows) for _, rows in sorted(groups.items())]
    # Largest remainders: the quotas add up to the size.
    counts = np.array([len(rows) for rows in shuffled])
    shares = counts * size / max(len(examples), 1)
    quotas = np.floor(shares).astype(int)
    first = (quotas == 0) & (counts > 1)
    quotas[np.lexsort((quotas - shares, ~first))[: size - quotas.sum()]] += 1
    chosen = [rows[:quota] for rows, quota in zip(shuffled, quotas, strict=True)]
    return np.sort(np.concatenate(chosen)) if chosen else np.arange(0)


def _unpacked(label: Any) -> Any:
    """CSV has no lists; a cell that holds one in JSON counts as one."""
    if isinstance(label, str) and label.lstrip().startswith("["):
        try:
            found = json.loads(label)
        except (ValueError, RecursionError):
            return label
        return found if isinstance(found, list) else label
    return label


def _number(label: Any) -> float | None:
    if isinstance(label, bool) or not isinstance(label, int | float | str):
        return None
    try:
        return float(label)
    except (ValueError, OverflowError):  # a whole number may be beyond all floats
        return None
