"""Distil a converted encoder on plain text: no labels, only its teacher's hidden states."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from rich.console import Console
from torch import Tensor, nn
from transformers import PreTrainedModel

from linformers.convert.interface import exact_length
from linformers.convert.load import longest_input
from linformers.convert.surroundings import carry, with_surroundings
from linformers.data.cache import TokenCache, tokenise
from linformers.data.corpus import PackedBlocks
from linformers.data.masking import unmasked
from linformers.data.streams import collate
from linformers.data.tokenise import forget_limits
from linformers.files.run_folder import MODEL, Folder
from linformers.files.settings import Count, Natural, Positive, RunSettings, Share
from linformers.files.sources import Source
from linformers.models.silence import silenced
from linformers.report.cards import CARD, distilled_card
from linformers.training import tensors
from linformers.training.corpus import cache_folder
from linformers.training.distil import hidden_state_loss
from linformers.training.engine import Batch, Batches, Objective
from linformers.training.job import Job, Prepared
from linformers.training.layer_order import LayerOrder, easiest_first
from linformers.training.loading import check_pair, load_encoder, load_saved, load_tokenizer, reported, stored_dtype
from linformers.training.processes import Layout, evaluation_batches, pick_device, refuse_launcher, step_batches
from linformers.training.recipe import TrainingRecipe

KIND, PLAN = "linformers distil", "distil.json"


class DistilSettings(RunSettings):
    """A distillation run.

    Args:
        model: Path of the folder of the converted model, with any head; the head is not changed.
        teacher: Path or hub id of the encoder that it was converted from; of a classifier, the encoder.
        texts: Paths of files or folders, or globs, with text of the kind to come.
        text: The column of the texts; None = found by its usual name.
        delimiter: What stands between the fields of CSV; None = found, as for the next.
        encoding: The encoding of CSV, JSON and text.
        max_reject_share: The largest share of records that cannot be read; with more the run stops.
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
    text: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    max_reject_share: Share = 0.01
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


def run_distil(settings: DistilSettings, *, console: Console | None = None) -> int:
    """Distil, or go on with the run in the output folder; see ``Job.run``."""
    refuse_launcher(KIND)
    return DistilJob(settings, console).run()


class HiddenStates(Objective):
    """The hidden states of all layers of a teacher.

    Args:
        teacher: Encoder without gradients.
        evaluation: Held-out sequences.
        order: When the student's layers become linear.
        batch_size: Number of sequences to measure at once.
        layout: The one process.
    """

    def __init__(
        self, teacher: PreTrainedModel, evaluation: PackedBlocks, order: LayerOrder, batch_size: int, layout: Layout
    ) -> None:
        self.teacher = teacher.to(layout.device)  # type: ignore[arg-type]  (a decorator hides the signature)
        self.evaluation, self.order, self.batch_size, self.layout = evaluation, order, batch_size, layout

    def _states(self, model: nn.Module, input_ids: Tensor) -> tuple[Any, Any]:
        own = model(input_ids, output_hidden_states=True).hidden_states
        with torch.no_grad():
            return own, self.teacher(input_ids, output_hidden_states=True).hidden_states

    def loss(self, model: nn.Module, batch: Batch, items: int, step: int) -> Tensor:
        """Distance of the hidden states of all layers, without dropout, as the teacher is read without it."""
        model.eval()
        with self.order.at(step):
            return hidden_state_loss(*self._states(model, batch["input_ids"]), None) / items

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """The loss, and the cosine of the last hidden states, over all held-out tokens."""
        losses, cosines = [], []
        for items in evaluation_batches(len(self.evaluation), self.batch_size, self.layout):
            batch = collate([self.evaluation[item] for item in items])
            own, taught = self._states(model, batch["input_ids"].to(self.layout.device))
            losses += [hidden_state_loss(own, taught, None).item()] * len(items)
            cosines += F.cosine_similarity(own[-1], taught[-1], dim=-1).mean(1).tolist()
        return {"loss": float(np.mean(losses)), "cosine": float(np.mean(cosines))}


class DistilJob(Job):
    """A distillation run."""

    kind, title = KIND, "distilling"

    def __init__(self, settings: DistilSettings, console: Console | None) -> None:
        folder = Folder(Path(settings.output), option="output", plan=PLAN, before=())
        layout = Layout(device=pick_device(settings.device))
        super().__init__(folder, settings.as_json(), settings.differences, layout, console)
        self.settings = settings

    def prepare(self) -> Prepared:
        """Load student and teacher, and tokenise the text."""
        settings, training = self.settings, self.settings.training()
        self.model = load_saved("model", settings.model, settings.dtype)
        teacher = load_encoder("teacher", settings.teacher, settings.dtype)
        with reported("model", settings.model):
            self.source = Path(with_surroundings(settings.model))
        self.stored = stored_dtype("model", settings.model, settings.dtype, self.console)
        self.tokenizer: Any = load_tokenizer("model", settings.model)
        self._check_length(teacher)
        given: Any = {"text_column": settings.text, "delimiter": settings.delimiter, "encoding": settings.encoding}
        sources = [Source(path=path, **given) for path in settings.texts]
        more: Any = {"max_reject_share": settings.max_reject_share, "console": self.console}
        caches = tokenise(sources, self.tokenizer, cache_folder(), **more)
        cut = [cache.split(settings.evaluation_share) for cache in caches]
        train = _blocks([part for part, _ in cut], settings, total=settings.steps * settings.batch_size)
        evaluation = _blocks([part for _, part in cut], settings, limit=settings.evaluation_sequences)
        prints = "\n".join(part.fingerprint for pair in cut for part in pair)
        self.encoder: Any = self.model.base_model  # what is trained; the head stays as it is
        order: list[int] = []
        if settings.order == "greedy":
            batch = collate([evaluation[item] for item in range(min(len(evaluation), settings.batch_size))])
            order = easiest_first(self.encoder, teacher, batch["input_ids"])
        return Prepared(
            model=self.encoder,
            training=training,
            objective=HiddenStates(
                teacher, evaluation, LayerOrder(self.encoder, order, settings.steps), settings.batch_size, self.layout
            ),
            batches=Batches(train, step_batches(training, self.layout), collate),
            fingerprint=hashlib.sha256(prints.encode()).hexdigest()[:16],
            says=f"{settings.steps:,} steps of {settings.batch_size} sequences of {settings.length:,} tokens",
            per_step=settings.batch_size * settings.length,
            measure_start=True,
        )

    def _check_length(self, teacher: PreTrainedModel) -> None:
        settings, longest = self.settings, longest_input(self.model)
        if longest < settings.length:
            raise ValueError(f"length={settings.length} is more than the {longest:,} tokens the model can read")
        exact = exact_length(self.model.config)
        if settings.length <= exact:
            raise ValueError(
                f"length={settings.length}: texts of up to exact_length={exact} tokens are read by softmax attention, "
                "as its teacher does, so there is nothing to learn; give a greater length, or convert with "
                "--exact-length 0"
            )
        check_pair(settings.teacher, teacher, self.model, self.tokenizer, "length", settings.length)

    def results(self, found: dict[str, Any], best: Path) -> dict[str, Any]:
        """The tokens that were read, and how far off the student was before."""
        tokens = found["steps"] * self.settings.batch_size * self.settings.length
        return {"tokens": tokens, "before": found["evaluations"][0][1]}

    def write_model(self, target: Path, results: dict[str, Any], best: Path) -> None:
        """Write the best weights with the head and all that is around the model, and what was done on its card."""
        tensors.load_weights(self.encoder, best)
        inner = carry(self.source, target, None)
        with silenced():
            self.model.save_pretrained(inner)
        forget_limits(self.tokenizer)
        self.tokenizer.save_pretrained(inner)
        card = distilled_card(self.source, self.path.name, results, self.settings, self.stored)
        (target / CARD).write_text(card, encoding="utf-8")

    def conclude(self, results: dict[str, Any]) -> None:
        """Say how much closer the student came, and what to do next."""
        before, best, model = results["before"], results["best"], self.path / MODEL
        self.say(
            f"Cosine of the last hidden states to the teacher's, on held-out text: {before['cosine']:.4f} before, "
            f"{best['cosine']:.4f} after ({results['tokens']:,} tokens in {results['seconds']:,.0f} s).\n"
            + ("It came no closer, and is as it was: use a lower --learning-rate.\n" if best["step"] == 0 else "")
            + f"Model and card: {model}\nNext: linformers finetune --model {model} --task FILE --output DIR"
        )


def _blocks(caches: list[TokenCache], settings: DistilSettings, **options: Any) -> PackedBlocks:
    return PackedBlocks(caches, length=settings.length, masking=unmasked, seed=settings.seed, **options)
