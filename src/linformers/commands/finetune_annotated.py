"""``linformers finetune`` on tags of words, entities by their characters, and answers to questions."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding, set_seed

from linformers._registration import ATTENTION
from linformers.checks import check_choice
from linformers.classification.data import LengthBatches, length_counts, whole_lengths
from linformers.classification.model import choose_max_length, load_model
from linformers.classification.results import PREDICTIONS, SayMetrics
from linformers.classification.settings import FinetuneSettings
from linformers.commands.finetune_job import SPLITS, RowsJob, sources_of
from linformers.convert.load import AUTO
from linformers.data.annotations import Layout
from linformers.data.padding import pad_right
from linformers.data.tasks import splits_json
from linformers.data.tasks_annotated import AnnotatedTask, prepare_annotated
from linformers.data.tokenise import TextEncoder, forget_limits
from linformers.extraction.answers import ANSWER_TOKENS
from linformers.extraction.data import EncodedAnswers, EncodedTags, reasons_against
from linformers.extraction.metrics import ANSWER_NAMES, CHOICES, NAMES
from linformers.extraction.objective import Answering, Extraction, Tagging, predict_answers, predict_tags
from linformers.extraction.results import (
    ANSWERS,
    TAGS,
    WRITTEN,
    conclude_annotated,
    counts,
    summary,
    write_answers,
    write_tags,
)
from linformers.files.progress import ReadProgress
from linformers.files.rejects import Rejects
from linformers.report.cards import CARD, annotated_card
from linformers.training import tensors
from linformers.training.engine import Batches
from linformers.training.job import Prepared, copy_weights
from linformers.training.loading import load_tokenizer, stored_dtype

HEADS = {TAGS: "ForTokenClassification", ANSWERS: "ForQuestionAnswering"}
SHOWN = 20  # labels whose counts are said


class AnnotatedJob(RowsJob):
    """A run of a tagger, or of a model that answers questions; texts are read whole."""

    def __init__(self, settings: FinetuneSettings, layout: Layout, console: Console | None) -> None:
        super().__init__(settings, console)
        self.layout_of_rows: Layout = layout
        self.answers = layout == "answers"
        _check(settings, ANSWERS if self.answers else TAGS)

    def prepare(self) -> Prepared:
        """Read and encode the rows, and load the model."""
        settings = self.settings
        self.processor: Any = load_tokenizer("model", settings.model)
        self.encoder = TextEncoder(self.processor)
        self.task: AnnotatedTask = self._read()
        self.names = ANSWER_NAMES if self.answers else NAMES
        set_seed(settings.seed)  # of a new head
        self.model, new_head = load_model(
            "model", settings.model, self.task, AUTO[HEADS[self.task.kind]], settings.dtype
        )
        self.stored_dtype = stored_dtype("model", settings.model, settings.dtype, self.console)
        self.max_length = choose_max_length(settings.max_length, self.model, self.processor, usual=None)
        pad = pad_right(self.processor, DataCollatorWithPadding if self.answers else DataCollatorForTokenClassification)
        self.collate: Any = lambda rows: dict(pad(rows))  # what it gives is no dict
        self.parts = self._encode()
        train = self.parts["train"]
        for line in self._after_tokens():
            self.say(line)
        self.lengths = whole_lengths(self.task.train, self.processor) if train.cut else train.lengths
        self._say_cut(self.lengths)
        config: Any = self.model.config
        config.trained_inputs = {"max_length": self.max_length, **self._trained()}
        if not self.folder.begun:
            self.folder.write(SPLITS, splits_json(self.task.parts))
        training, objective = self._training(), self._objective()
        return Prepared(
            model=self.model,
            training=training,
            objective=objective,
            batches=Batches(
                train, LengthBatches(train.lengths, settings.batch_size, training.steps, settings.seed), self.collate
            ),
            fingerprint=self.fingerprint,
            says=f"{'new' if new_head else 'saved'} head for {self.task.kind}; {training.steps:,} steps of "
            f"{settings.batch_size} rows, up to {self.max_length:,} tokens each",
            per_step=round(train.lengths.mean() * settings.batch_size),
            unit=train.unit,
            watchers=[SayMetrics(self.console, objective.metric, self.names)],
        )

    # --- data

    def _task(self, rejects: Rejects, progress: ReadProgress) -> AnnotatedTask:
        layout = self.layout_of_rows
        check = lambda examples: reasons_against(examples, layout, self.encoder)  # noqa: E731
        return prepare_annotated(sources_of(self.settings), layout, check, rejects, progress)

    def _notes(self, task: AnnotatedTask) -> Iterable[str]:
        if self.answers:
            for name, part in task.parts.items():
                found = counts(task, part.examples)
                yield f"{name}: {', '.join(f'{count:,} {what}' for what, count in found.items())}"

    def _part(self, name: str, seen: Callable[[int], None]) -> EncodedTags | EncodedAnswers:
        examples = self.task.parts[name].examples
        if self.answers:
            return EncodedAnswers(examples, self.encoder, self.max_length, name == "train", seen)
        return EncodedTags(self.task, examples, self.encoder, self.max_length, seen)

    def _after_tokens(self) -> Iterable[str]:
        """What is known when the rows are tokens.

        Raises:
            ValueError: No row is left to train on.
        """
        train = self.parts["train"]
        if isinstance(train, EncodedAnswers):
            if train.unreached:
                yield (
                    f"{train.unreached:,} training rows left out: their answer stands behind the {self.max_length:,} "
                    "tokens that are read"
                )
            if not len(train):
                raise ValueError(f"max_length={self.max_length}: no training row has its answer in so many tokens")
            return
        found = {name: counts(self.task, part.examples, self.parts[name]) for name, part in self.task.parts.items()}
        labels = list(found["train"])
        shown = [f"{name} {' / '.join(f'{part[name]:,}' for part in found.values())}" for name in labels[:SHOWN]]
        more = f" and {len(labels) - SHOWN:,} more" if len(labels) > SHOWN else ""
        yield f"{len(labels)} labels (entities for {' / '.join(found)}): {', '.join(shown)}{more}"

    def _trained(self) -> dict[str, Any]:
        """What ``score`` has to know of the inputs and of what was learned."""
        task = self.task
        if not self.answers:
            return {
                "texts": 1,
                "columns": list(task.columns),
                "tags": "words" if task.layout == "words" else "tokens",
            }
        return {
            "texts": 2,
            "columns": list(task.columns),
            "answer_tokens": self._longest,
            "unanswerable": task.unanswerable,
        }

    @property
    def _longest(self) -> int:
        """Tokens of an answer at most."""
        return max(ANSWER_TOKENS, self.parts["train"].longest)

    # --- training

    def _objective(self) -> Extraction:
        settings, validation = self.settings, self.parts["validation"]
        select_by, size = settings.select_by or "f1", settings.evaluation_batch_size
        if self.answers:
            return Answering(self.task, validation, self.collate, size, select_by, self._longest)
        return Tagging(self.task, validation, self.collate, size, select_by)

    # --- results

    def results(self, found: dict[str, Any], best: Path) -> dict[str, Any]:
        """Measure the best weights on the rows that are reported on, and write the predictions."""
        tensors.load_weights(self.model, best)
        self.model.to(self.layout.device)  # type: ignore[arg-type]  (a decorator hides the signature)
        task, rows, size = self.task, self.parts[self.task.reported], self.settings.evaluation_batch_size
        examples, path = task.parts[task.reported].examples, self.path / PREDICTIONS
        with ReadProgress(self.console, "measuring", unit="rows") as progress:
            if self.answers:
                _, predicted = predict_answers(
                    self.model, rows, examples, self.collate, size, self._longest, task.unanswerable, progress
                )
                write_answers(path, task, predicted, self.settings.id)
            else:
                predicted = predict_tags(self.model, rows, task.classes, self.collate, size, progress)
                write_tags(path, task, rows, predicted, self.settings.id)
        return summary(task, self.parts, predicted) | {
            "names": self.names,
            "select_by": self.settings.select_by or "f1",
            "baseline": None,
            "stored_dtype": self.stored_dtype,
            "architecture": type(self.model).__name__,
            "linear": getattr(self.model.config, ATTENTION, None) is not None,
            "max_length": self.max_length,
            "lengths": length_counts(self.lengths, self.max_length),
            "texts": 2 if self.answers else 1,
            "grey": False,
            "fingerprint": self.fingerprint,
        }

    def write_model(self, target: Path, results: dict[str, Any], best: Path) -> None:
        """Write the best weights, the tokenizer and the card."""
        copy_weights(best, target)
        forget_limits(self.processor)
        self.processor.model_max_length = self.max_length  # what was trained is what is read
        self.processor.save_pretrained(target)
        annotated_card(self.settings, results).save(target / CARD)

    def conclude(self, results: dict[str, Any]) -> None:
        """See ``conclude_annotated``."""
        conclude_annotated(results, self.path, self.console)


def _check(settings: FinetuneSettings, kind: str) -> None:
    """Refuse options that are of labels of whole texts."""
    for name, usual in (("teacher", None), ("class_weights", "none"), ("positive", None)):
        if getattr(settings, name) != usual:
            raise ValueError(
                f"{name}={getattr(settings, name)!r} is for labels of whole texts, not {kind}: leave it out"
            )
    if kind == ANSWERS and settings.labels:
        raise ValueError(f"labels={','.join(settings.labels)} name no answers: leave it out")
    if taken := [name for name in settings.id if name in WRITTEN]:
        raise ValueError(f"id={taken[0]!r} is the name of a column that predictions have: rename it in the file")
    if settings.select_by is not None:
        check_choice("select_by", settings.select_by, CHOICES[kind])
