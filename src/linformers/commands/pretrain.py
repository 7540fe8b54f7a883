"""One pretraining run from its recipe: prepare, train or go on, and publish the model."""

import json
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch.distributed as dist
from rich.console import Console
from transformers import PreTrainedTokenizerFast, TrainerState, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback

from linformers.files.checkpoints import Checkpoints
from linformers.files.environment import describe_environment
from linformers.files.folders import write_folder
from linformers.files.run_folder import (
    MODEL,
    RECIPE,
    RESULTS,
    RUN,
    Folder,
    best_weights,
    newest_checkpoint,
)
from linformers.models import LinformerForMaskedLM
from linformers.report.cards import CARD, pretrained_card
from linformers.training import tensors
from linformers.training.arguments import training_arguments
from linformers.training.corpus import Corpus, prepare_corpus, prepare_tokenizer, token_ids
from linformers.training.processes import Layout, lay_out, split_batch
from linformers.training.progress import TrainProgress
from linformers.training.recipe import Recipe, load_recipe
from linformers.training.resumable import evaluations_in, history_at, losses_in, read_state
from linformers.training.stopping import StopEarly, StopOnSignal, is_over, say_stopped
from linformers.training.trainer import PretrainTrainer

KIND = "linformers pretrain"


def run_recipe(recipe: Recipe, *, console: Console | None = None) -> int:
    """Run a recipe, or go on with the run in its folder.

    Returns:
        0, or 143 or 130 after SIGTERM or Ctrl-C, when a checkpoint has been written.

    Raises:
        ValueError: something in the recipe, its data or its folder does not do; nothing has been changed.
        DiskFullError: no space left; the last checkpoint is intact.
    """
    console = console or Console()
    path = Path(recipe.output.folder)
    folder = Folder(path)
    folder.check(lambda plan: load_recipe(plan).differences(recipe))
    arguments = training_arguments(recipe.training, path / "checkpoints")
    layout = lay_out(recipe.training.sequence_parallel_size)
    split_batch(recipe.training, layout)  # refuses what cannot be shared, before anything is made
    if layout.rank > 0:
        console = Console(quiet=True)
    if folder.results is not None:
        console.print(f"{path} is finished already.")
        conclude(folder.results, path, console)
        return 0
    with folder.locked() if layout.rank == 0 else nullcontext():
        return _Job(recipe, folder, arguments, layout, console).run()


class _Job:
    """A run on this process."""

    def __init__(self, recipe: Recipe, folder: Folder, arguments: Any, layout: Layout, console: Console) -> None:
        self.recipe, self.folder, self.path, self.layout, self.console = recipe, folder, folder.path, layout, console
        self.arguments = arguments
        self.checkpoints = Checkpoints(self.path / "checkpoints", keep=recipe.training.keep_checkpoints)

    def run(self) -> int:
        """Prepare, train, publish."""
        self.layout.from_first(lambda: self._tidy())
        tokenizer = prepare_tokenizer(self.recipe, self.path / "tokenizer", self.layout)
        corpus = prepare_corpus(self.recipe, tokenizer, self.layout, self.console)
        set_seed(self.recipe.training.seed)
        model = LinformerForMaskedLM(self.recipe.config(vocab_size=len(tokenizer), **token_ids(tokenizer)))
        self.layout.from_first(lambda: self._begin_or_continue(corpus))
        checkpoint = self.layout.from_first(lambda: newest_checkpoint(self.checkpoints, self.console))
        if checkpoint is not None:
            tensors.load_model(model, Path(checkpoint))
        parameters = model.num_parameters()
        self.console.print(
            f"[bold]{self.path}[/bold]: {parameters:,} parameters, {corpus.facts['train']}"
            + (f", {corpus.facts['train_tokens']:,} tokens" if corpus.facts["train_tokens"] else ""),
            highlight=False,
            soft_wrap=True,
        )
        state = history_at(checkpoint)
        with StopOnSignal(self.layout) as signals:
            if state is None or not is_over(state, self.recipe.training.steps, self.recipe.training.early_stopping):
                state = self._train(model, corpus, checkpoint, signals)
        if signals.received is not None:
            return say_stopped(signals.received, state.global_step, self.console)
        results = self.layout.from_first(lambda: self._publish(model, tokenizer, corpus, state, parameters))
        conclude(results, self.path, self.console)
        return 0

    def _tidy(self) -> None:
        self.checkpoints.tidy()
        if not self.folder.begun:
            shutil.rmtree(self.path / "tokenizer", ignore_errors=True)

    def _begin_or_continue(self, corpus: Corpus) -> None:
        environment = describe_environment(self.arguments.device)
        facts = {"processes": self.layout.world, "environment": environment}
        self.folder.begin_or_continue(KIND, self.recipe.as_yaml(), corpus.fingerprint, **facts)

    def _train(self, model: Any, corpus: Corpus, checkpoint: str | None, signals: StopOnSignal) -> TrainerState:
        training, data = self.recipe.training, self.recipe.data
        progress = TrainProgress(self.console, "training", training.batch_size * data.length)
        callbacks: list[Any] = [progress]
        if training.early_stopping is not None:
            callbacks.append(StopEarly(training.steps, training.early_stopping))
        if self.recipe.output.report_to == "tensorboard" and self.layout.rank == 0:
            callbacks.append(TensorBoardCallback(_summary_writer(self.path / "logs", checkpoint)))
        trainer = PretrainTrainer(
            model,
            self.arguments,
            training,
            self.layout,
            train=corpus.train,
            evaluation=corpus.evaluation,
            collate=corpus.collate,
            checkpoints=self.checkpoints,
            best=self.path / "best",
            workers=data.workers,
            callbacks=[*callbacks, signals],
        )
        with progress:
            trainer.train(resume_from_checkpoint=checkpoint)
        return trainer.state

    def _publish(
        self, model: Any, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, state: TrainerState, parameters: int
    ) -> dict[str, Any]:
        last = self.checkpoints.path(state.global_step)
        best = best_weights(self.path / "best", last, self.console)
        seconds = read_state(last)["seconds"]
        found = read_state(best)
        results = summary(self.recipe, state, corpus, seconds, found["step"], parameters, self.layout.world)
        results["environment"] = describe_environment(self.arguments.device)

        def write(target: Path) -> None:
            for name in (tensors.WEIGHTS, "config.json"):
                shutil.copyfile(best / name, target / name)
            tokenizer.save_pretrained(target)
            for name in (RECIPE, RUN):
                shutil.copyfile(self.path / name, target / name)
            pretrained_card(self.recipe, results).save(target / CARD)

        write_folder(self.path / MODEL, write, intact=f"{last} is intact")
        self.folder.write(RESULTS, json.dumps(results, indent=1) + "\n")
        return results


def _summary_writer(folder: Path, checkpoint: str | None) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # Steps after the checkpoint are logged again; the viewer drops what came before.
    step = None if checkpoint is None else int(checkpoint.rpartition("-")[2]) + 1
    return SummaryWriter(str(folder), purge_step=step)


def summary(
    recipe: Recipe,
    state: TrainerState,
    corpus: Corpus,
    seconds: float,
    best_step: int,
    parameters: int,
    processes: int,
) -> dict[str, Any]:
    """What ``results.json`` holds."""
    evaluations = evaluations_in(state, ("loss", "perplexity"))
    return {
        "kind": KIND,
        "format": 1,
        "steps": state.global_step,
        "tokens": state.global_step * recipe.training.batch_size * recipe.data.length,
        "seconds": round(seconds, 3),
        "processes": processes,
        "parameters": parameters,
        "best": {"step": best_step, **dict(evaluations)[best_step]},
        "evaluations": evaluations,
        "losses": losses_in(state),
        "data": {**corpus.facts, "fingerprint": corpus.fingerprint},
    }


def conclude(results: dict[str, Any], path: Path, console: Console) -> None:
    """Say what came out, where it is, and what to do next."""
    best = results["best"]
    console.print(
        f"Held-out perplexity {best['perplexity']:.2f} at step {best['step']:,} "
        f"({results['tokens']:,} tokens in {results['seconds']:,.0f} s).\n"
        f"Model and card: {path / MODEL}\nLosses: {path / RESULTS}"
        + (f"; curves: tensorboard --logdir {path / 'logs'}" if (path / "logs").is_dir() else "")
        + "\nNext: import linformers, then transformers.pipeline('fill-mask', model="
        + f"'{path / MODEL}')",
        highlight=False,
        soft_wrap=True,
    )


def leave() -> None:
    """Part from the other processes in good order."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    sys.stdout.flush()
