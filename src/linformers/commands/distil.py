"""Distil a converted encoder on plain text: no labels, only its teacher's hidden states."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from rich.console import Console
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerState

from linformers.convert.interface import exact_length
from linformers.convert.load import longest_input
from linformers.convert.surroundings import carry, with_surroundings
from linformers.data.cache import TokenCache, tokenise
from linformers.data.corpus import PackedBlocks
from linformers.data.masking import IGNORED
from linformers.data.streams import collate
from linformers.data.tokenise import forget_limits
from linformers.files.checkpoints import Checkpoints
from linformers.files.environment import describe_environment
from linformers.files.folders import write_folder
from linformers.files.run_folder import MODEL, RESULTS, Folder, best_weights, newest_checkpoint
from linformers.files.settings import Count, Natural, Positive, RunSettings
from linformers.files.sources import Source
from linformers.report.cards import CARD, distilled_card
from linformers.training import tensors
from linformers.training.arguments import training_arguments
from linformers.training.corpus import cache_folder
from linformers.training.distil import hidden_state_loss
from linformers.training.layer_order import LayerOrder, easiest_first
from linformers.training.loading import check_pair, load_encoder, load_saved, load_tokenizer, reported, stored_dtype
from linformers.training.processes import Layout, StepBatches, evaluation_batches, refuse_launcher
from linformers.training.progress import TrainProgress
from linformers.training.recipe import TrainingRecipe
from linformers.training.resumable import ResumableTrainer, evaluations_in, history_at, read_state
from linformers.training.stopping import StopOnSignal, is_over, say_stopped

KIND, PLAN = "linformers distil", "distil.json"


class DistilSettings(RunSettings):
    """A distillation run.

    Args:
        model: Path of the folder of the converted model, with any head; the head is not changed.
        teacher: Path or hub id of the encoder that it was converted from; of a classifier, the encoder.
        texts: Paths of files or folders, or globs, with text of the kind to come.
        length: Tokens of a sequence.
        steps: Steps of the optimiser.
        batch_size: Sequences a step.
        learning_rate: The peak of AdamW's rate; then a cosine to 0.
        order: The order of the layers: ``all`` are linear from the start, or ``greedy``: one after another over the
            first half of the steps, that first which loses least by it, while softmax attention stands in for the
            others.
        evaluation_share: The share of the text that is set aside to measure on.
        evaluation_sequences: The most of its sequences that are read.
        evaluate_every: Steps between evaluations.
        save_every: Steps between checkpoints; a crash loses at most this.
        seed: The seed of the order.
        dtype: The type of the weights while they are trained, whatever they were stored in; ``bfloat16`` halves the
            memory and learns less well.
        device: The device: ``auto`` takes a GPU where there is one.
    """

    model: str
    teacher: str
    texts: tuple[str, ...]
    length: Annotated[int, Field(ge=8)] = 512
    steps: Count = 1000
    batch_size: Count = 8
    learning_rate: Positive = 3e-4
    order: Literal["all", "greedy"] = "all"
    evaluation_share: Annotated[float, Field(gt=0, lt=1)] = 0.02
    evaluation_sequences: Count = 32
    evaluate_every: Count = 100
    save_every: Count = 100
    seed: Natural = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu"] = "auto"

    def _check(self) -> None:
        if not self.texts:
            raise ValueError("texts names no file; give some text of the kind to come")

    def training(self) -> TrainingRecipe:
        """What the trainer goes by."""
        return TrainingRecipe(
            steps=self.steps,
            batch_size=self.batch_size,
            evaluation_batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            schedule="cosine",
            evaluate_every=self.evaluate_every,
            save_every=self.save_every,
            log_every=max(1, min(50, self.steps // 10)),
            seed=self.seed,
            device=self.device,
        )


class DistilTrainer(ResumableTrainer):
    """See ``ResumableTrainer``; ``teacher`` is an encoder without gradients, ``order`` says when layers get linear."""

    def __init__(self, *arguments: Any, teacher: PreTrainedModel, order: LayerOrder, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.teacher = teacher.to(self.args.device)  # type: ignore[arg-type]
        self.order = order

    def _states(self, model: Any, input_ids: Tensor) -> tuple[Any, Any]:
        own = model(input_ids, output_hidden_states=True).hidden_states
        with torch.no_grad():
            return own, self.teacher(input_ids, output_hidden_states=True).hidden_states

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Distance of the hidden states of all layers; without dropout, which the teacher has not either."""
        model.eval()
        with self.order.at(self.state.global_step):
            loss = hidden_state_loss(*self._states(model, inputs["input_ids"]), None)
        return (loss, None) if return_outputs else loss

    def measure(self, dataset: Any) -> dict[str, float]:
        """The loss, and the cosine of the last hidden states, over all held-out tokens."""
        losses, cosines = [], []
        for items in evaluation_batches(len(dataset), self.args.per_device_eval_batch_size, self.layout):
            batch = self.collate([dataset[item] for item in items])
            own, taught = self._states(self.model, batch["input_ids"].to(self.args.device))
            losses += [hidden_state_loss(own, taught, None).item()] * len(items)
            cosines += F.cosine_similarity(own[-1], taught[-1], dim=-1).mean(1).tolist()
        return {"loss": float(np.mean(losses)), "cosine": float(np.mean(cosines))}


def run_distil(settings: DistilSettings, *, console: Console | None = None) -> int:
    """Distil, or go on with the run in the output folder.

    Returns:
        0, or 143 or 130 after SIGTERM or Ctrl-C, when a checkpoint has been written.

    Raises:
        ValueError: something in the settings, the text or the folder does not do; nothing has been changed.
        DiskFullError: no space left; the last checkpoint is intact.
    """
    console = console or Console()
    refuse_launcher(KIND)
    folder = Folder(Path(settings.output), option="output", plan=PLAN, before=())
    folder.check(settings.differences)
    if folder.results is not None:
        console.print(f"{folder.path} is finished already.", highlight=False, soft_wrap=True)
        conclude(folder.results, folder.path, console)
        return 0
    with folder.locked():
        return _run(settings, folder, console)


def _run(settings: DistilSettings, folder: Folder, console: Console) -> int:
    path, training = folder.path, settings.training()
    checkpoints = Checkpoints(path / "checkpoints")
    checkpoints.tidy()
    model = load_saved("model", settings.model, settings.dtype)
    teacher = load_encoder("teacher", settings.teacher, settings.dtype)
    with reported("model", settings.model):
        source = Path(with_surroundings(settings.model))
    stored = stored_dtype("model", settings.model, settings.dtype, console)
    encoder: Any = model.base_model  # what is trained; the head stays as it is
    tokenizer: Any = load_tokenizer("model", settings.model)
    if longest_input(model) < settings.length:
        raise ValueError(
            f"length={settings.length} is more than the {longest_input(model):,} tokens the model can read"
        )
    exact = exact_length(model.config)
    if settings.length <= exact:
        raise ValueError(
            f"length={settings.length}: texts of up to exact_length={exact} tokens are read by softmax attention, "
            "as its teacher does, so there is nothing to learn; give a greater length, or convert with --exact-length 0"
        )
    check_pair(settings.teacher, teacher, model, tokenizer, "length", settings.length)
    sources = [Source(path=text) for text in settings.texts]
    cut = [
        cache.split(settings.evaluation_share)
        for cache in tokenise(sources, tokenizer, cache_folder(), console=console)
    ]
    train = _blocks([part for part, _ in cut], settings, total=settings.steps * settings.batch_size)
    evaluation = _blocks([part for _, part in cut], settings, limit=settings.evaluation_sequences)
    prints = "\n".join(part.fingerprint for pair in cut for part in pair)
    folder.begin_or_continue(KIND, settings.as_json(), hashlib.sha256(prints.encode()).hexdigest()[:16])
    checkpoint = newest_checkpoint(checkpoints, console)
    if checkpoint is not None:
        tensors.load_model(encoder, Path(checkpoint))
    arguments = training_arguments(training, path / "checkpoints")
    arguments.per_device_train_batch_size = arguments.per_device_eval_batch_size = settings.batch_size
    progress = TrainProgress(console, "distilling", settings.batch_size * settings.length)
    state = history_at(checkpoint)
    with StopOnSignal(Layout()) as signals:
        if state is None or not is_over(state, settings.steps, None):
            trainer = DistilTrainer(
                encoder,
                arguments,
                Layout(),
                seed=settings.seed,
                train=train,
                evaluation=evaluation,
                batches=StepBatches(settings.steps, settings.batch_size, replica=0, replicas=1),
                collate=collate,
                checkpoints=checkpoints,
                best=path / "best",
                measure_start=True,
                callbacks=[progress, signals],
                teacher=teacher,
                order=LayerOrder(encoder, _order(settings, encoder, teacher, evaluation), settings.steps),
            )
            with progress:
                trainer.train(resume_from_checkpoint=checkpoint)
            state = trainer.state
    if signals.received is not None:
        return say_stopped(signals.received, state.global_step, console)
    results = _publish(settings, folder, model, tokenizer, state, checkpoints, console, stored, source)
    conclude(results, path, console)
    return 0


def _order(settings: DistilSettings, encoder: Any, teacher: PreTrainedModel, evaluation: PackedBlocks) -> list[int]:
    """The order of ``greedy``, from the newly converted weights, so that a run that goes on finds the same."""
    if settings.order == "all":
        return []
    converted: Any = load_saved("model", settings.model, settings.dtype)
    batch = collate([evaluation[item] for item in range(min(len(evaluation), settings.batch_size))])
    return easiest_first(converted.base_model, teacher, batch["input_ids"])


def _blocks(caches: list[TokenCache], settings: DistilSettings, **options: Any) -> PackedBlocks:
    return PackedBlocks(caches, length=settings.length, masking=_unmasked, seed=settings.seed, **options)


def _unmasked(ids: np.ndarray, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """In place of a ``Masking``: nothing is masked, nothing is predicted."""
    return ids, np.full_like(ids, IGNORED)


def _publish(
    settings: DistilSettings,
    folder: Folder,
    model: PreTrainedModel,
    tokenizer: Any,
    state: TrainerState,
    checkpoints: Checkpoints,
    console: Console,
    stored: str,
    source: Path,
) -> dict[str, Any]:
    last = checkpoints.path(state.global_step)
    best = best_weights(folder.path / "best", last, console)
    encoder: Any = model.base_model
    tensors.load_model(encoder, best)
    evaluations = evaluations_in(state, ("loss", "cosine"))
    step = read_state(best)["step"]
    results = {
        "kind": KIND,
        "format": 1,
        "steps": state.global_step,
        "tokens": state.global_step * settings.batch_size * settings.length,
        "seconds": read_state(last)["seconds"],
        "best": {"step": step, **dict(evaluations)[step]},
        "before": evaluations[0][1],
        "evaluations": evaluations,
        "environment": describe_environment(model.device),
    }

    def write(target: Path) -> None:
        inner = carry(source, target, None)
        model.save_pretrained(inner)
        forget_limits(tokenizer)
        tokenizer.save_pretrained(inner)
        shutil.copyfile(folder.path / PLAN, target / PLAN)
        card = distilled_card(source, folder.path.name, results, settings, stored)
        (target / CARD).write_text(card, encoding="utf-8")

    write_folder(folder.path / MODEL, write, intact=f"{last} is intact")
    folder.write(RESULTS, json.dumps(results, indent=1) + "\n")
    return results


def conclude(results: dict[str, Any], path: Path, console: Console) -> None:
    """Say what came out, where it is, and what to do next."""
    before, best = results["before"], results["best"]
    console.print(
        f"Cosine of the last hidden states to the teacher's, on held-out text: {before['cosine']:.4f} before, "
        f"{best['cosine']:.4f} after ({results['tokens']:,} tokens in {results['seconds']:,.0f} s).\n"
        + ("It came no closer, and is as it was: use a lower --learning-rate.\n" if best["step"] == 0 else "")
        + f"Model and card: {path / MODEL}\nNext: linformers finetune --model {path / MODEL} --task FILE --output DIR",
        highlight=False,
        soft_wrap=True,
    )
