"""What a tagger or a model that answers questions learns, and what it says of held-out rows."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from linformers.classification.data import by_length
from linformers.classification.metrics import sign_of
from linformers.data.entities import OUTSIDE, without_blanks
from linformers.data.examples import Example
from linformers.data.tasks_annotated import AnnotatedTask
from linformers.extraction.answers import Answer, find_answer
from linformers.extraction.data import IGNORED, Annotated, EncodedAnswers, EncodedTags
from linformers.extraction.metrics import measure_answers, measure_tags
from linformers.files.progress import ReadProgress
from linformers.training.engine import Batch, Objective

Collate = Callable[[Sequence[Any]], Batch]


class Extraction(Objective):
    """The loss that transformers' models compute, and the metrics of held-out rows.

    Args:
        collate: Makes a batch of rows.
        batch_size: Rows to measure at once.
        select_by: Metric that chooses the step.
    """

    def __init__(self, collate: Collate, batch_size: int, select_by: str) -> None:
        self.collate, self.batch_size = collate, batch_size
        self.metric, self.sign = select_by, sign_of(select_by)

    @abstractmethod
    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Loss and all metrics, on the validation rows."""


class Tagging(Extraction):
    """Tags of words or tokens.

    Args:
        task: Task.
        validation: Rows that choose the step.
        collate: See `Extraction`, as for the rest.
        batch_size: Rows to measure at once.
        select_by: Metric that chooses the step.
    """

    def __init__(
        self, task: AnnotatedTask, validation: EncodedTags, collate: Collate, batch_size: int, select_by: str
    ) -> None:
        super().__init__(collate, batch_size, select_by)
        self.task, self.validation = task, validation

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Loss and all metrics, on the validation rows."""
        found = predict_tags(model, self.validation, self.task.classes, self.collate, self.batch_size)
        right = [units.tags for units in self.validation.units]
        return {"loss": found.loss, **measure_tags(right, found.tags, self.task.classes)}


class Answering(Extraction):
    """Where a context answers a question.

    Args:
        task: Task.
        validation: Rows that choose the step.
        collate: See `Extraction`, as for the rest.
        batch_size: Rows to measure at once.
        select_by: Metric that chooses the step.
        longest: Tokens of an answer at most.
    """

    def __init__(
        self,
        task: AnnotatedTask,
        validation: EncodedAnswers,
        collate: Collate,
        batch_size: int,
        select_by: str,
        longest: int,
    ) -> None:
        super().__init__(collate, batch_size, select_by)
        self.task, self.validation, self.longest = task, validation, longest

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Loss and all metrics, on the validation rows."""
        examples = self.task.validation.examples
        loss, found = predict_answers(
            model, self.validation, examples, self.collate, self.batch_size, self.longest, self.task.unanswerable
        )
        return {"loss": loss, **measure_answers(examples, found)}


class PredictedTags:
    """Tags of rows.

    Attributes:
        loss: Mean loss of the labelled tokens.
        tags: Tags of the units of each row, ``O`` behind the cut.
        shares: Their probabilities.
    """

    def __init__(self) -> None:
        self.loss = 0.0
        self.tags: list[list[str]] = []
        self.shares: list[np.ndarray] = []


@torch.no_grad()
def predict_tags(
    model: PreTrainedModel,
    data: EncodedTags,
    classes: list[str],
    collate: Collate,
    batch_size: int,
    progress: ReadProgress | None = None,
) -> PredictedTags:
    """Tags of every row, in the order of the rows."""
    found, total, count = PredictedTags(), 0.0, 0
    found.tags, found.shares = [[] for _ in data.units], [np.empty(0)] * len(data.units)
    for rows, batch, output in _outputs(model, data, collate, batch_size, progress):
        logits, labels = output.logits.float(), batch["labels"]
        total += F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="sum").item()
        count += int((labels != IGNORED).sum())
        best = logits.softmax(-1).max(-1)
        for place, row in enumerate(rows):
            (first, end, before), units = data.where[row], data.units[row]
            read = (units.tokens >= first) & (units.tokens < end)
            at = units.tokens[read] - first + before
            chosen, shares = np.full(len(units.tokens), -1), np.ones(len(units.tokens), np.float32)
            chosen[read], shares[read] = best.indices[place].cpu().numpy()[at], best.values[place].cpu().numpy()[at]
            found.tags[row] = [OUTSIDE if one < 0 else classes[one] for one in chosen.tolist()]
            found.shares[row] = shares
    found.loss = total / max(count, 1)
    return found


@torch.no_grad()
def predict_answers(
    model: PreTrainedModel,
    data: EncodedAnswers,
    examples: Sequence[Example],
    collate: Collate,
    batch_size: int,
    longest: int,
    may_be_none: bool,
    progress: ReadProgress | None = None,
) -> tuple[float, list[Answer]]:
    """The mean loss, and the answer to every row in the order of the rows."""
    found: list[Any] = [None] * len(data)
    total = 0.0
    for rows, _, output in _outputs(model, data, collate, batch_size, progress):
        total += float(output.loss) * len(rows)
        logits = torch.stack([output.start_logits, output.end_logits], -1).float().cpu().numpy()
        for place, row in enumerate(rows):
            pair, context = data.pairs[row], examples[row].pair or ""
            spans = without_blanks(context, data.located[row].spans[pair.begin : pair.end])
            read = logits[place, pair.start : pair.start + pair.end - pair.begin]
            null = logits[place, data.nulls[row]]
            found[row] = find_answer(read, null, spans, context, longest, may_be_none)
    return total / max(len(data), 1), found


def _outputs(
    model: PreTrainedModel, data: Annotated, collate: Collate, batch_size: int, progress: ReadProgress | None
) -> Iterator[tuple[list[int], dict[str, Tensor], Any]]:
    """What the model makes of all rows, batch by batch, the longest first."""
    model.eval()
    lengths = data.lengths
    read, tokens = 0, max(int(lengths.sum()), 1)
    for rows in by_length(lengths, batch_size):
        batch = {name: tensor.to(model.device) for name, tensor in collate([data[row] for row in rows]).items()}
        yield rows, batch, model(**batch)
        if progress is not None:
            read += int(lengths[rows].sum())
            progress.reached(read / tokens)
            progress.add(len(rows))
