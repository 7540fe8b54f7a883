"""How far a quantised graph is from its model: on texts, and in the accuracy on labelled rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from linformers.classification.data import EncodedPart, PadInputs, by_length
from linformers.classification.metrics import MAIN, measure, predictions, probabilities
from linformers.convert.load import longest_input
from linformers.data.examples import Columns, read_examples
from linformers.data.tasks import TASKS, Part, TaskSources, prepare_task
from linformers.data.tasks_rules import Kind, encode_labels, for_model, kind_of_config
from linformers.data.tokenise import TextEncoder
from linformers.export.check import Session, run
from linformers.export.graph import takes_choices
from linformers.files.progress import ReadProgress
from linformers.files.rejects import Rejects

BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Of the graph's outputs from the model's, on texts.

    Args:
        texts: how many there were.
        tokens: how many they were cut into.
        longest: tokens of the longest text.
        cosine: mean over outputs (one for each text, or each token).
        lowest_cosine: Lowest cosine of all of them.
        mean_change: Mean change of a probability (of the value, in a regression); None where nothing is predicted.
        largest_change: likewise.
        same_prediction: share of the predictions that are the same.
    """

    texts: int
    tokens: int
    longest: int
    cosine: float
    lowest_cosine: float
    mean_change: float | None = None
    largest_change: float | None = None
    same_prediction: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def kind_of(model: PreTrainedModel) -> Kind:
    """What the outputs of a classifier mean; choices are scored as values."""
    if takes_choices(model):
        return "regression"
    return kind_of_config(model.config)


def measure_distance(
    session: Session,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    progress: ReadProgress,
) -> Distance:
    """Compare both on texts, one by one, each cut at the longest input."""
    kind, longest, encoder = kind_of(model), longest_input(model), TextEncoder(tokenizer)
    cosines, changes, same, lengths = [], [], [], []
    for number, text in enumerate(texts, start=1):
        (row,) = encoder.inputs([text], max_length=longest).rows
        inputs = _inputs(session, {name: torch.from_numpy(ids).long()[None] for name, ids in row.items()})
        if takes_choices(model):
            inputs = {name: one[:, None] for name, one in inputs.items()}
        lengths.append(inputs["input_ids"].shape[-1])
        expected, found = run(model, inputs), session(inputs)
        for name, value in expected.items():
            ours, theirs = (one.reshape(-1, one.shape[-1]) for one in (found[name], value))
            cosines.append(_cosines(ours, theirs))
            if name == "logits":
                ours, theirs = probabilities(ours, kind), probabilities(theirs, kind)
                changes.append(np.abs(ours - theirs).ravel())
                if kind != "regression":
                    same.append(np.ravel(predictions(ours, kind) == predictions(theirs, kind)))
        progress.reached(number / len(texts))
        progress.add(lengths[-1])
    cosine = np.concatenate(cosines)
    change = np.concatenate(changes) if changes else None
    return Distance(
        texts=len(texts),
        tokens=sum(lengths),
        longest=max(lengths),
        cosine=float(cosine.mean()),
        lowest_cosine=float(cosine.min()),
        mean_change=None if change is None else float(change.mean()),
        largest_change=None if change is None else float(change.max()),
        same_prediction=float(np.concatenate(same).mean()) if same else None,
    )


def measure_accuracy(
    session: Session,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    part: Part,
    progress: ReadProgress,
) -> dict[str, Any]:
    """The main metric of the task, of the model and of the graph, on the same rows."""
    encoded = EncodedPart(part, tokenizer, longest_input(model))
    pad, batches, done = PadInputs(tokenizer), by_length(encoded.lengths, BATCH), 0
    scores: dict[str, Float[np.ndarray, "rows classes"]] = {}
    kind = kind_of(model)
    for rows in batches:
        inputs = _inputs(session, pad([encoded[row] for row in rows]))
        for name, outputs in (("torch", run(model, inputs)), ("onnx", session(inputs))):
            found = probabilities(outputs["logits"], kind)
            scores.setdefault(name, np.zeros((len(encoded), found.shape[1]), found.dtype))[rows] = found
        done += len(rows)
        progress.reached(done / len(encoded))
        progress.add(len(rows))
    metric = MAIN[kind]
    values = {name: measure(part.labels, one, kind)[metric] for name, one in scores.items()}
    changed = int(np.any(predictions(scores["torch"], kind) != predictions(scores["onnx"], kind), axis=-1).sum())
    return {
        "source": part.source,
        "rows": len(part),
        "cut": encoded.cut,
        "metric": metric,
        **values,
        "change": values["onnx"] - values["torch"],
        "predictions_changed": None if kind == "regression" else changed,
    }


def labelled_rows(
    task: str, data: str | None, model: PreTrainedModel, progress: ReadProgress, max_reject_share: float = 0.01
) -> Part:
    """Rows to measure accuracy on: those that a named task reports on, or all of a file.

    Raises:
        ValueError: the model is no classifier of texts, has other classes, or the rows cannot be used.
        FileNotFoundError: a file is not there.
    """
    if not type(model).__name__.endswith("ForSequenceClassification"):
        raise ValueError(
            f"task={task!r} measures classifiers of texts, and the model is a {type(model).__name__}: leave it out"
        )
    kind = kind_of(model)
    classes = [str(name) for _, name in sorted((model.config.id2label or {}).items())]
    rejects = Rejects(max_share=max_reject_share)
    if task in TASKS:
        if (known := list(TASKS[task].classes)) != classes:
            raise ValueError(f"task={task!r} has the classes {known}, and the model tells apart {classes}")
        found = prepare_task(TaskSources(task=task, data=data), rejects, progress).test
        assert found is not None
        return found
    if data is not None:
        raise ValueError(f"data={data!r} is the folder of a named task, and task={task!r} is a file: leave it out")
    examples = read_examples(Path(task), Columns(), rejects, progress)
    examples = for_model(examples, kind, classes, rejects)
    if not examples:
        raise ValueError(f"task={task!r} has no row that can be used")
    return Part(source=Path(task).name, examples=examples, labels=encode_labels(examples, kind, classes))


def _inputs(session: Session, found: Mapping[str, Any]) -> dict[str, Tensor]:
    """What the graph takes; tokenizers leave out what is the same for all tokens."""
    ids = found["input_ids"]
    absent = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    return {name: found.get(name, absent.get(name)) for name in session.inputs}


def _cosines(a: Float[np.ndarray, "rows dim"], b: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, " rows"]:
    sizes = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(-1) / np.maximum(sizes, 1e-30)
