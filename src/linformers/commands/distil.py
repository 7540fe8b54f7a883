"""Distil a converted encoder on plain text: no labels, only its teacher's hidden states."""

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from transformers import PreTrainedModel

from linformers.commands.plain_text import PlainTextJob, PlainTextSettings
from linformers.convert.interface import exact_length
from linformers.convert.load import longest_input
from linformers.data.corpus import PackedBlocks
from linformers.data.streams import collate
from linformers.files.run_folder import MODEL
from linformers.files.settings import Count
from linformers.training.distil import hidden_state_loss
from linformers.training.engine import Batch, Batches, Objective
from linformers.training.job import Prepared
from linformers.training.layer_order import LayerOrder, easiest_first
from linformers.training.loading import check_pair, load_encoder
from linformers.training.processes import Layout, evaluation_batches, refuse_launcher, step_batches

KIND = "linformers distil"


class DistilSettings(PlainTextSettings):
    """A distillation run; more of it in ``PlainTextSettings``.

    Args:
        teacher: Path or hub id of the encoder that the model was converted from; of a classifier, the encoder.
        order: The order of the layers: ``all`` are linear from the start, or ``greedy``: one after another over the
            first half of the steps, that first which loses least by it, while softmax attention stands in for the
            others.
        evaluation_sequences: The most of the held-out sequences that are read.
    """

    teacher: str
    order: Literal["all", "greedy"] = "all"
    evaluation_sequences: Count = 32


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

    evaluation: PackedBlocks
    order: LayerOrder
    batch_size: int
    layout: Layout

    def __init__(
        self, teacher: PreTrainedModel, evaluation: PackedBlocks, order: LayerOrder, batch_size: int, layout: Layout
    ) -> None:
        self.teacher: PreTrainedModel = teacher.to(layout.device)  # type: ignore[arg-type]  (a decorator hides the signature)
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


class DistilJob(PlainTextJob):
    """A distillation run."""

    kind: str
    title: str
    plan_name: str
    template: str

    kind, title, plan_name, template = KIND, "distilling", "distil.json", "distilled.md"

    def prepare(self) -> Prepared:
        """Load student and teacher, and tokenise the text."""
        settings, training = self.settings, self.settings.training()
        self.take(self.load())
        teacher = load_encoder("teacher", settings.teacher, settings.dtype)
        self._check_length(teacher)
        texts, held_out, fingerprint = self.read_texts()
        train = self.blocks(texts, total=settings.steps * settings.batch_size)
        evaluation = self.blocks(held_out, limit=settings.evaluation_sequences)
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
            fingerprint=fingerprint,
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
                f"length={settings.length}: texts of up to {exact} tokens are read by softmax attention, as its "
                "teacher does, so there is nothing to learn; give a greater length, or convert with a smaller "
                "--exact-length or --segment-length"
            )
        check_pair(settings.teacher, teacher, self.model, self.tokenizer, "length", settings.length)

    def conclude(self, results: dict[str, Any]) -> None:
        """Say how much closer the student came, and what to do next."""
        before, best, model = results["before"], results["best"], self.path / MODEL
        self.say(
            f"Cosine of the last hidden states to the teacher's, on held-out text: {before['cosine']:.4f} before, "
            f"{best['cosine']:.4f} after ({results['tokens']:,} tokens in {results['seconds']:,.0f} s).\n"
            + ("It came no closer, and is as it was: use a lower --learning-rate.\n" if best["step"] == 0 else "")
            + f"Model and card: {model}\nNext: linformers finetune --model {model} --task FILE --output DIR"
        )
