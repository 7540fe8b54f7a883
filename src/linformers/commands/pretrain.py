"""``linformers pretrain``: a masked language model from its recipe."""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from rich.console import Console
from transformers import PreTrainedTokenizerFast, set_seed

from linformers.files.run_folder import MODEL, RESULTS, Folder
from linformers.models import LinformerForMaskedLM
from linformers.report.cards import CARD, pretrained_card
from linformers.training.corpus import Corpus, prepare_corpus, prepare_tokenizer, token_ids
from linformers.training.engine import Batches
from linformers.training.job import Job, Prepared, copy_weights
from linformers.training.masked_lm import MaskedLM
from linformers.training.processes import lay_out, split_batch, step_batches
from linformers.training.recipe import Recipe, load_recipe
from linformers.training.watchers import TensorBoard

KIND = "linformers pretrain"


def run_recipe(recipe: Recipe, *, console: Console | None = None) -> int:
    """Run a recipe, or go on with the run in its folder; see ``Job.run``."""
    return PretrainJob(recipe, console).run()


class PretrainJob(Job):
    """A run of a recipe."""

    kind = KIND

    def __init__(self, recipe: Recipe, console: Console | None) -> None:
        layout = lay_out(recipe.training.device, recipe.training.sequence_parallel_size)
        split_batch(recipe.training, layout)  # refuses what cannot be shared, before anything is made
        super().__init__(
            Folder(Path(recipe.output.folder)),
            recipe.as_yaml(),
            lambda plan: load_recipe(plan).differences(recipe),
            layout,
            console,
            recipe.training.keep_checkpoints,
        )
        self.recipe = recipe

    def tidy(self) -> None:
        """Also remove the tokenizer of a run that has not begun."""
        super().tidy()
        if not self.folder.begun:
            shutil.rmtree(self.path / "tokenizer", ignore_errors=True)

    def prepare(self) -> Prepared:
        """Train the tokenizer, tokenise the text, and build the model."""
        recipe, training, layout = self.recipe, self.recipe.training, self.layout
        self.tokenizer: PreTrainedTokenizerFast = prepare_tokenizer(recipe, self.path / "tokenizer", layout)
        self.corpus: Corpus = prepare_corpus(recipe, self.tokenizer, layout, self.console)
        corpus = self.corpus
        set_seed(training.seed)
        tokens = corpus.facts["train_tokens"]
        logs = recipe.output.report_to == "tensorboard" and layout.rank == 0
        order = split_batch(training, layout)[0] if recipe.data.streaming else step_batches(training, layout)
        return Prepared(
            model=LinformerForMaskedLM(recipe.config(vocab_size=len(self.tokenizer), **token_ids(self.tokenizer))),
            training=training,
            objective=MaskedLM(corpus.evaluation, corpus.collate, training.evaluation_batch_size, layout),
            batches=Batches(corpus.train, order, corpus.collate, recipe.data.workers),
            fingerprint=corpus.fingerprint,
            says=corpus.facts["train"] + (f", {tokens:,} tokens" if tokens else ""),
            per_step=training.batch_size * recipe.data.length,
            watchers=[TensorBoard(self.path / "logs")] if logs else [],
        )

    def results(self, found: dict[str, Any], best: Path) -> dict[str, Any]:
        """The tokens that were read, and what they are."""
        return {
            "tokens": found["steps"] * self.recipe.training.batch_size * self.recipe.data.length,
            "processes": self.layout.world,
            "data": {**self.corpus.facts, "fingerprint": self.corpus.fingerprint},
        }

    def write_model(self, target: Path, results: dict[str, Any], best: Path) -> None:
        """Write the best weights, the tokenizer and the card."""
        copy_weights(best, target)
        self.tokenizer.save_pretrained(target)
        pretrained_card(self.recipe, results).save(target / CARD)

    def conclude(self, results: dict[str, Any]) -> None:
        """Say the perplexity, and what to do with the model."""
        best, model, logs = results["best"], self.path / MODEL, self.path / "logs"
        self.say(
            f"Held-out perplexity {best['perplexity']:.2f} at step {best['step']:,} "
            f"({results['tokens']:,} tokens in {results['seconds']:,.0f} s).\n"
            f"Model and card: {model}\nLosses: {self.path / RESULTS}"
            + (f"; curves: tensorboard --logdir {logs}" if logs.is_dir() else "")
            + f"\nNext: import linformers, then transformers.pipeline('fill-mask', model='{model}')"
        )


def leave() -> None:
    """Part from the other processes in good order."""
    if dist.is_initialized():
        dist.destroy_process_group()
    sys.stdout.flush()
