"""One fine-tuning run from its settings: prepare, train or go on, measure, and publish the model."""

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from sklearn.utils.class_weight import compute_class_weight
from transformers import TrainerState, TrainingArguments, set_seed

from linformers._registration import ATTENTION
from linformers.classification.data import EncodedPart, LengthBatches, PadInputs
from linformers.classification.media import Media, MediaPart
from linformers.classification.metrics import MAIN, predictions, probabilities, sign_of
from linformers.classification.model import choose_max_length, load_model, load_teacher
from linformers.classification.results import KIND, PREDICTIONS, SayMetrics, conclude, summary, write_predictions
from linformers.classification.settings import PLAN, FinetuneSettings
from linformers.classification.trainer import ClassifyTrainer, predict_logits
from linformers.convert.load import AUTO, longest_input
from linformers.data.tasks import Task, TaskSources, prepare_task, splits_json
from linformers.data.tokenise import forget_limits
from linformers.files.checkpoints import Checkpoints
from linformers.files.environment import describe_environment
from linformers.files.folders import write_folder
from linformers.files.progress import ReadProgress
from linformers.files.rejects import Rejects
from linformers.files.run_folder import (
    MODEL,
    RESULTS,
    RUN,
    Folder,
    best_weights,
    newest_checkpoint,
)
from linformers.report.cards import CARD, finetuned_card
from linformers.report.plots import plot_confusion, save_png
from linformers.training import tensors
from linformers.training.arguments import training_arguments
from linformers.training.distil import Distillation, each_for_itself, one_of_many
from linformers.training.loading import load_tokenizer, stored_dtype
from linformers.training.processes import Layout, refuse_launcher
from linformers.training.progress import TrainProgress
from linformers.training.recipe import TrainingRecipe
from linformers.training.resumable import history_at
from linformers.training.stopping import StopEarly, StopOnSignal, is_over, say_stopped

HEADS = {"text": "ForSequenceClassification", "image": "ForImageClassification", "audio": "ForAudioClassification"}
REJECTS, SPLITS, CONFUSION = "rejects.jsonl", "splits.json", "confusion_matrix.png"


def run_finetune(settings: FinetuneSettings, *, console: Console | None = None) -> int:
    """Fine-tune a classifier, or go on with the run in the output folder.

    Returns:
        0, or 143 or 130 after SIGTERM or Ctrl-C, when a checkpoint has been written.

    Raises:
        ValueError: something in the settings, the data or the folder does not do; nothing has been changed.
        DiskFullError: no space left; the last checkpoint is intact.
    """
    console = console or Console()
    refuse_launcher(KIND)
    path = Path(settings.output)
    folder = Folder(path, option="output", plan=PLAN, before=(REJECTS, f".{SPLITS}", SPLITS))
    folder.check(settings.differences)
    if folder.results is not None:
        console.print(f"{path} is finished already.", highlight=False, soft_wrap=True)
        conclude(folder.results, path, console)
        return 0
    with folder.locked():
        return _Job(settings, folder, console).run()


class _Job:
    """A run."""

    def __init__(self, settings: FinetuneSettings, folder: Folder, console: Console) -> None:
        self.settings, self.folder, self.path, self.console = settings, folder, folder.path, console
        self.checkpoints = Checkpoints(self.path / "checkpoints")

    def run(self) -> int:
        """Prepare, train, publish."""
        settings = self.settings
        self.checkpoints.tidy()
        self.media = None if settings.modality == "text" else Media(settings.modality, settings.model)
        self.task = task = self._read()
        set_seed(settings.seed)  # of a new classifier
        model, new_head = load_model("model", settings.model, task, AUTO[HEADS[settings.modality]], settings.dtype)
        self.stored_dtype = stored_dtype("model", settings.model, settings.dtype, self.console)
        if self.media is None:
            self.processor: Any = load_tokenizer("model", settings.model)
            self.max_length = choose_max_length(settings.max_length, model, self.processor)
            self.collate: Any = PadInputs(self.processor)
        else:
            self.processor, self.max_length, self.collate = self.media.processor, longest_input(model), self.media
            self.media.tokens = self.max_length
        teacher = None
        if settings.teacher is not None:
            teacher = load_teacher(settings.teacher, model, self.processor, self.max_length)
        self.parts = self._encode()
        if not self.folder.begun:
            self.folder.write(SPLITS, splits_json(task))
        self.folder.begin_or_continue(KIND, settings.as_json(), self.fingerprint)
        checkpoint = newest_checkpoint(self.checkpoints, self.console)
        if checkpoint is not None:
            tensors.load_model(model, Path(checkpoint))
        self.parameters = model.num_parameters()
        self.arguments = self._arguments()
        self.console.print(
            f"[bold]{self.path}[/bold]: {self.parameters:,} parameters, {'new' if new_head else 'saved'} classifier; "
            f"{self.arguments.max_steps:,} steps of {settings.batch_size} rows, up to {self.max_length:,} tokens each",
            highlight=False,
            soft_wrap=True,
        )
        state = history_at(checkpoint)
        main, sign = self._main_metric()
        with StopOnSignal(Layout()) as signals:
            if state is None or not is_over(state, self.arguments.max_steps, settings.early_stopping, main, sign):
                state = self._train(model, teacher, checkpoint, signals)
        if signals.received is not None:
            return say_stopped(signals.received, state.global_step, self.console)
        results = self._publish(model, state)
        conclude(results, self.path, self.console)
        return 0

    # --- data

    def _read(self) -> Task:
        settings = self.settings
        sources = TaskSources(
            columns=settings.columns,
            **{name: getattr(settings, name) for name in TaskSources.__dataclass_fields__ if name != "columns"},
        )
        (self.path / REJECTS).unlink(missing_ok=True)  # of a start that failed
        rejects = Rejects(path=self.path / REJECTS, max_share=settings.max_reject_share)
        with rejects, ReadProgress(self.console, "reading", unit="rows") as progress:
            task = prepare_task(sources, rejects, progress, None if self.media is None else self.media.read)
        for name, part in task.parts.items():
            self.console.print(f"{name}: {len(part):,} rows ({part.source})", highlight=False, soft_wrap=True)
        if task.reasons:
            counts = ", ".join(f"{count:,} {reason}" for reason, count in task.reasons.items())
            self.console.print(f"left out: {counts}; see {rejects.path}", highlight=False, soft_wrap=True)
        return task

    def _encode(self) -> dict[str, EncodedPart | MediaPart]:
        title = "tokenising" if self.media is None else "measuring lengths"
        with ReadProgress(self.console, title, unit="rows") as progress:
            total = sum(map(len, self.task.parts.values()))

            def seen(rows: int) -> None:
                progress.reached((progress.count + rows) / total)
                progress.add(rows)

            parts = {
                name: EncodedPart(part, self.processor, self.max_length, seen)
                if self.media is None
                else MediaPart(part, self.media, seen)
                for name, part in self.task.parts.items()
            }
        digest = hashlib.sha256(b"".join(part.fingerprint() for part in parts.values()))
        self.fingerprint = digest.hexdigest()[:16]
        return parts

    # --- training

    def _main_metric(self) -> tuple[str, int]:
        balanced = self.task.kind == "single_label" and self.settings.class_weights == "balanced"
        main = "f1_macro" if balanced else MAIN[self.task.kind]
        return main, sign_of(main)

    def _arguments(self) -> TrainingArguments:
        settings = self.settings
        per_epoch = math.ceil(len(self.parts["train"]) / settings.batch_size)
        steps = max(1, round(settings.epochs * per_epoch))
        training = TrainingRecipe(
            steps=steps,
            batch_size=settings.batch_size,
            evaluation_batch_size=settings.evaluation_batch_size,
            learning_rate=settings.learning_rate,
            warmup_share=settings.warmup_share,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            beta2=0.999,
            evaluate_every=settings.evaluate_every or per_epoch,
            save_every=settings.save_every,
            log_every=max(1, min(50, steps // 10)),
            device=settings.device,
            seed=settings.seed,
        )
        arguments = training_arguments(training, self.path / "checkpoints")
        arguments.per_device_train_batch_size = settings.batch_size
        arguments.per_device_eval_batch_size = settings.evaluation_batch_size
        arguments.metric_for_best_model, sign = self._main_metric()
        arguments.greater_is_better = sign > 0
        return arguments

    def _train(self, model: Any, teacher: Any, checkpoint: str | None, signals: StopOnSignal) -> TrainerState:
        settings, train = self.settings, self.parts["train"]
        steps = self.arguments.max_steps
        per_step = round(train.lengths.mean() * settings.batch_size)
        progress = TrainProgress(self.console, "training", per_step, unit=train.unit)
        callbacks: list[Any] = [progress, SayMetrics(self.console, self._main_metric()[0])]
        if settings.early_stopping is not None:
            callbacks.append(StopEarly(steps, settings.early_stopping, *self._main_metric()))
        trainer = ClassifyTrainer(
            model,
            self.arguments,
            Layout(),
            seed=settings.seed,
            train=train,
            evaluation=self.parts["validation"],
            batches=LengthBatches(train.lengths, settings.batch_size, steps, settings.seed),
            collate=self.collate,
            checkpoints=self.checkpoints,
            best=self.path / "best",
            measure_start=teacher is not None,  # a student starts near its teacher, and should not end further off
            callbacks=[*callbacks, signals],
            kind=self.task.kind,
            class_weights=self._class_weights(),
            teacher=teacher,
            distillation=Distillation(
                hidden_weight=settings.hidden_weight,
                logits_weight=settings.logits_weight,
                compare=each_for_itself if self.task.kind == "multi_label" else one_of_many,
            ),
        )
        with progress:
            trainer.train(resume_from_checkpoint=checkpoint)
        return trainer.state

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

    def _publish(self, model: Any, state: TrainerState) -> dict[str, Any]:
        last = self.checkpoints.path(state.global_step)
        best = best_weights(self.path / "best", last, self.console)
        tensors.load_model(model, best)
        model.to(self.arguments.device)
        with ReadProgress(self.console, "measuring", unit="rows") as progress:
            size, encoded = self.settings.evaluation_batch_size, self.parts[self.task.reported]
            logits = predict_logits(model, encoded, self.collate, size, progress)
        scores = probabilities(logits, self.task.kind)
        results = summary(self.task, self.parts, state, best, last, scores) | {
            "parameters": self.parameters,
            "stored_dtype": self.stored_dtype,
            "architecture": type(model).__name__,
            "linear": getattr(model.config, ATTENTION, None) is not None,
            "max_length": self.max_length,
            "grey": self.media is not None and self.media.mode == "L",
            "fingerprint": self.fingerprint,
            "environment": describe_environment(self.arguments.device),
        }

        def write(target: Path) -> None:
            for name in (tensors.WEIGHTS, "config.json"):
                shutil.copyfile(best / name, target / name)
            forget_limits(self.processor)
            self.processor.save_pretrained(target)
            for name in (PLAN, RUN):
                shutil.copyfile(self.path / name, target / name)
            if self.task.kind == "single_label":
                labels = self.task.parts[self.task.reported].labels
                figure = plot_confusion(labels, predictions(scores, self.task.kind), self.task.classes)
                save_png(figure, target / CONFUSION)
            finetuned_card(self.settings, results).save(target / CARD)

        write_folder(self.path / MODEL, write, intact=f"{last} is intact")
        write_predictions(self.path / PREDICTIONS, self.task, scores)
        self.folder.write(RESULTS, json.dumps(results, indent=1) + "\n")
        return results
