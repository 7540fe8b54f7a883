"""``linformers finetune``: a classifier or a regression from any encoder; ``finetune_annotated.py`` has the rest."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from sklearn.utils.class_weight import compute_class_weight
from transformers import PreTrainedModel, set_seed

from linformers._registration import ATTENTION
from linformers.checks import check_choice
from linformers.classification.baselines import tfidf_scores
from linformers.classification.data import EncodedPart, LengthBatches, PadInputs, length_counts, whole_lengths
from linformers.classification.media import Media, MediaPart
from linformers.classification.metrics import (
    CHOICES,
    MAIN,
    labels_of_metrics,
    measure,
    predictions,
    probabilities,
)
from linformers.classification.model import choose_max_length, load_model, load_teacher
from linformers.classification.objective import Classification, predict_logits
from linformers.classification.results import KIND, PREDICTIONS, SayMetrics, conclude, summary, write_predictions
from linformers.classification.settings import FinetuneSettings
from linformers.commands.finetune_annotated import AnnotatedJob
from linformers.commands.finetune_job import SPLITS, RowsJob, sources_of
from linformers.convert.load import AUTO, longest_input
from linformers.data.tasks import Task, prepare_task, splits_json
from linformers.data.tasks_annotated import layout_of
from linformers.data.tasks_notes import notes
from linformers.data.tokenise import forget_limits
from linformers.extraction.results import ANSWERS, TAGS, conclude_annotated
from linformers.files.progress import ReadProgress
from linformers.files.rejects import Rejects
from linformers.report.cards import CARD, finetuned_card
from linformers.report.plots import plot_confusion, save_png
from linformers.training import tensors
from linformers.training.distil import Distillation, each_for_itself, one_of_many
from linformers.training.engine import Batches
from linformers.training.job import Prepared, copy_weights
from linformers.training.loading import load_tokenizer, stored_dtype
from linformers.training.processes import refuse_launcher

HEADS = {"text": "ForSequenceClassification", "image": "ForImageClassification", "audio": "ForAudioClassification"}
CONFUSION = "confusion_matrix.png"


def run_finetune(settings: FinetuneSettings, *, console: Console | None = None) -> int:
    """Fine-tune a classifier, a tagger or a model that answers, or go on with the run; see ``Job.run``."""
    refuse_launcher(KIND)
    layout = layout_of(sources_of(settings), settings.kind) if settings.modality == "text" else None
    if layout is None:
        return FinetuneJob(settings, console).run()
    return AnnotatedJob(settings, layout, console).run()


class FinetuneJob(RowsJob):
    """A run of a classifier or a regression."""

    def prepare(self) -> Prepared:
        """Read and encode the rows, and load the model."""
        settings = self.settings
        self.media: Media | None = None if settings.modality == "text" else Media(settings.modality, settings.model)
        self.task: Task = self._read()
        self.names: dict[str, str] = labels_of_metrics(self.task.classes, self.task.positive)
        set_seed(settings.seed)  # of a new classifier
        auto = AUTO[HEADS[settings.modality]]
        self.model, new_head = load_model("model", settings.model, self.task, auto, settings.dtype)
        self.stored_dtype: str = stored_dtype("model", settings.model, settings.dtype, self.console)
        if self.media is None:
            self.processor: Any = load_tokenizer("model", settings.model)
            self.max_length = choose_max_length(settings.max_length, self.model, self.processor)
            self.collate: Any = PadInputs(self.processor)
        else:
            self.processor, self.max_length, self.collate = self.media.processor, longest_input(self.model), self.media
            self.media.tokens = self.max_length
        teacher = None
        if settings.teacher is not None:
            teacher = load_teacher(settings.teacher, self.model, self.processor, self.max_length)
        self.parts: dict[str, EncodedPart | MediaPart] = self._encode(
            "tokenising" if self.media is None else "measuring lengths"
        )
        self.lengths: np.ndarray | None = None
        if self.media is None:
            encoded = self.parts["train"]
            self.lengths = whole_lengths(self.task.train, self.processor) if encoded.cut else encoded.lengths
            self._say_cut(self.lengths)
            config: Any = self.model.config
            config.trained_inputs = {
                "max_length": self.max_length,
                "texts": len(self.task.train.examples[0].texts),
                "columns": list(self.task.columns),
            }
        if not self.folder.begun:
            self.folder.write(SPLITS, splits_json(self.task.parts))
        training, train, objective = self._training(), self.parts["train"], self._objective(teacher)
        return Prepared(
            model=self.model,
            training=training,
            objective=objective,
            batches=Batches(
                train,
                LengthBatches(train.lengths, settings.batch_size, training.steps, settings.seed),
                self.collate,
            ),
            fingerprint=self.fingerprint,
            says=f"{'new' if new_head else 'saved'} classifier; {training.steps:,} steps of {settings.batch_size} "
            f"rows, up to {self.max_length:,} tokens each",
            per_step=round(train.lengths.mean() * settings.batch_size),
            unit=train.unit,
            measure_start=teacher is not None,  # a student starts near its teacher, and should not end further off
            watchers=[SayMetrics(self.console, objective.metric, self.names)],
        )

    # --- data

    def _convert(self, length: int, most: int) -> str:
        """In segments of what it reads: of one pass over long texts the best (docs/convert.md, "Long documents")."""
        command, config = super()._convert(length, most), self.model.config
        softmax = config.model_type != "linformer" and getattr(config, ATTENTION, None) is None
        return f"{command} --segment-length {most}" if softmax else command

    def _task(self, rejects: Rejects, progress: ReadProgress) -> Task:
        reader = None if self.media is None else self.media.read
        return prepare_task(sources_of(self.settings), rejects, progress, reader)

    def _notes(self, task: Task) -> Iterable[str]:
        return notes(task) if self.media is None or task.kind != "regression" else ()

    def _part(self, name: str, seen: Callable[[int], None]) -> EncodedPart | MediaPart:
        part = self.task.parts[name]
        if self.media is None:
            return EncodedPart(part, self.processor, self.max_length, seen)
        return MediaPart(part, self.media, seen)

    # --- training

    def _objective(self, teacher: PreTrainedModel | None) -> Classification:
        settings, device, weights = self.settings, self.layout.device, self._class_weights()
        return Classification(
            self.task.kind,
            self.parts["validation"],
            self.collate,
            settings.evaluation_batch_size,
            class_weights=None if weights is None else weights.to(device),
            select_by=self._select_by(),
            positive=self.task.positive,
            teacher=None if teacher is None else teacher.to(device),  # type: ignore[arg-type]  (a decorator hides it)
            distillation=Distillation(
                hidden_weight=settings.hidden_weight,
                logits_weight=settings.logits_weight,
                compare=each_for_itself if self.task.kind == "multi_label" else one_of_many,
            ),
        )

    def _select_by(self) -> str:
        kind, asked = self.task.kind, self.settings.select_by
        if asked is None:
            balanced = self.settings.class_weights == "balanced" and kind == "single_label"
            return "f1_macro" if balanced else MAIN[kind]
        check_choice("select_by", asked, CHOICES[kind])
        if asked == "f1" and len(self.task.classes) != 2:
            raise ValueError(f"select_by='f1' is of two classes, and here are {len(self.task.classes)}: take f1_macro")
        held_out = self.task.validation.labels
        if asked == "auroc" and len(np.unique(held_out, axis=0)) < 2:  # before an epoch of training is lost
            raise ValueError(
                f"select_by='auroc' is not defined on the validation rows, which are of one class; choose one of "
                f"{', '.join(name for name in CHOICES[kind] if name != 'auroc')}, or set more rows aside with "
                "validation_size"
            )
        return asked

    def _class_weights(self) -> torch.Tensor | None:
        labels = self.task.train.labels
        if self.settings.class_weights == "none" or self.task.kind == "regression":
            return None
        if self.task.kind == "multi_label":
            there = np.maximum(labels.sum(0), 1)
            return torch.tensor((len(labels) - there) / there, dtype=torch.float32)
        present = np.unique(labels)
        weights = torch.ones(len(self.task.classes))
        weights[present] = torch.tensor(compute_class_weight("balanced", classes=present, y=labels)).float()
        return weights

    # --- results

    def results(self, found: dict[str, Any], best: Path) -> dict[str, Any]:
        """Measure the best weights on the rows that are reported on, and write the predictions."""
        tensors.load_weights(self.model, best)
        self.model.to(self.layout.device)  # type: ignore[arg-type]  (a decorator hides the signature)
        with ReadProgress(self.console, "measuring", unit="rows") as progress:
            size, encoded = self.settings.evaluation_batch_size, self.parts[self.task.reported]
            logits = predict_logits(self.model, encoded, self.collate, size, progress)
        self.scores: np.ndarray = probabilities(logits, self.task.kind)
        write_predictions(self.path / PREDICTIONS, self.task, self.scores, self.settings.id)
        return summary(self.task, self.parts, self.scores) | {
            "names": self.names,
            "select_by": self._select_by(),
            "baseline": self._baseline(),
            "stored_dtype": self.stored_dtype,
            "architecture": type(self.model).__name__,
            "linear": getattr(self.model.config, ATTENTION, None) is not None,
            "max_length": self.max_length,
            "lengths": None if self.lengths is None else length_counts(self.lengths, self.max_length),
            "texts": 1 if self.media is not None else len(self.task.train.examples[0].texts),
            "grey": self.media is not None and self.media.mode == "L",
            "fingerprint": self.fingerprint,
        }

    def _baseline(self) -> dict[str, float] | None:
        """Metrics of bags of words on the rows that are reported on; None = not measured."""
        task = self.task
        if self.media is not None or not self.settings.baseline:
            return None
        reported = task.parts[task.reported]
        train, tested = ([" ".join(one.texts) for one in part.examples] for part in (task.train, reported))
        try:
            scores = tfidf_scores(train, task.train.labels, tested, task.kind, len(task.classes))
        except ValueError:  # no words that a bag could hold
            return None
        return measure(reported.labels, scores, task.kind, task.positive)

    def write_model(self, target: Path, results: dict[str, Any], best: Path) -> None:
        """Write the best weights, tokenizer or processor, the confusion matrix and the card."""
        copy_weights(best, target)
        forget_limits(self.processor)
        if self.media is None:
            self.processor.model_max_length = self.max_length  # what was trained is what is read
        self.processor.save_pretrained(target)
        if self.task.kind == "single_label":
            labels = self.task.parts[self.task.reported].labels
            figure = plot_confusion(labels, predictions(self.scores, self.task.kind), self.task.classes)
            save_png(figure, target / CONFUSION)
        finetuned_card(self.settings, results).save(target / CARD)

    def conclude(self, results: dict[str, Any]) -> None:
        """See ``results.conclude``."""
        if results["task"]["kind"] in (TAGS, ANSWERS):  # a run that has ended, whose rows are gone
            conclude_annotated(results, self.path, self.console)
        else:
            conclude(results, self.path, self.console)
