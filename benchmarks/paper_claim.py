"""Is the paper's Linformer on par with softmax attention? A trained masked LM goes on in the paper's form.

    python benchmarks/paper_claim.py --data DIR        (gutenberg_train.parquet and gutenberg_valid.parquet)

A small softmax Transformer learns to predict masked tokens of books (n = 256), beside a control without attention. Its
heads begin at the neighbours (``start_near``): without that start no model here left the plateau in minutes. Then its
weights go on, for the same number of steps on the same text and masks, with softmax attention and in the paper's
form: slots only, E and F learned, from a start as pooling or fitted to the teacher's attention; also with one E for all
layers, with slots of which each head holds every second or fourth token ("in turns"), and taught by the teacher.
Beside them: means as slots (nothing of E is learned), slots that follow the content, and the paper's form with a
window, or above a first layer of softmax. Others are trained from nothing, with the teacher's start and recipe.
Finished cells are kept in ``runs/paper_claim``; what was interrupted goes on. All of it took 5.6 hours on cores
that other programs used too, the teacher 25 minutes of that.

Writes results/paper_claim.json and its plots. Held-out books are the same for all, masked alike; a gap is the ratio of
perplexities to softmax attention trained alike, with a 95 % interval over paired sequences.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from small_training import run_cells, write_results
from torch import Tensor, nn
from transformers.utils import logging

from linformers import LinformerForMaskedLM
from linformers.attention import LinformerAttention
from linformers.attention.projection import LinearProjection
from linformers.commands.pretrain import PretrainJob
from linformers.convert.fit import fit_projections
from linformers.convert.linformer import start_as_pooling
from linformers.files.run_folder import MODEL, RESULTS
from linformers.report.plots import plot_lines, save_png
from linformers.training.distil import hidden_state_loss
from linformers.training.engine import Batch
from linformers.training.job import Prepared
from linformers.training.masked_lm import MaskedLM
from linformers.training.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[1]
LENGTH = 256
TEACHER, CONTROL, ON = "teacher", "no attention", "softmax"
FIT_TEXTS, FIT_CHARACTERS = 200, 1500  # more than LENGTH tokens each


@dataclass(frozen=True)
class Cell:
    """What is trained.

    Args:
        model: Fields of the configuration; None = those of the softmax teacher.
        start: Start of E and F: ``pooling``, ``fit`` or ``turns``; None where nothing is learned.
        taught: Whether the teacher's hidden states are a part of the loss.
        scratch: Whether it is trained from nothing, by the teacher's recipe.
        short: Whether that is for as many steps as the others go on.
        times: So many times the steps of the others that go on.
        seed: Of the order of the text and of the masks.
        after: The cell whose weights go on.
    """

    model: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    taught: bool = False
    scratch: bool = False
    short: bool = False
    times: int = 1
    seed: int = 1
    after: str = "teacher"


def slots(k: int | list[int | None], kind: str = "linear", **fields: Any) -> dict[str, Any]:
    """Fields of a model that has slots."""
    return {"attention_type": "linformer", "projected_dim": k, "projection_kind": kind, **fields}


HALF, QUARTER = LENGTH // 2, LENGTH // 4
UNEVEN: list[int | None] = [None, 3 * LENGTH // 8, LENGTH // 8]
CELLS: dict[str, Cell] = {
    TEACHER: Cell(scratch=True),
    ON: Cell(),
    "paper, k = n/2": Cell(slots(HALF), "fit"),
    "paper, k = n/4": Cell(slots(QUARTER), "fit"),
    "in turns, k = n/2": Cell(slots(HALF, projection_sharing="none"), "turns"),
    "in turns, k = n/4": Cell(slots(QUARTER, projection_sharing="none"), "turns"),
    "means, k = n/4": Cell(slots(QUARTER, "mean_pool")),
    "content, k = n/4": Cell(slots(QUARTER, "cluster")),
    CONTROL: Cell({"attention_type": "none"}, scratch=True),
    "window of 8, k = n/4": Cell(slots(QUARTER, local_window=8), "fit"),
    "first layer softmax, k = n/4": Cell(slots([None, QUARTER, QUARTER]), "fit"),
    "window of 8, content, k = n/4": Cell(slots(QUARTER, "cluster", local_window=8)),
    "paper, k = n/2, longer": Cell(slots(HALF), "fit", times=3),
    "softmax, from nothing": Cell(scratch=True, short=True),
    "paper, k = n/2, from nothing": Cell(slots(HALF), "pooling", scratch=True, short=True),
    "taught, k = n/4": Cell(slots(QUARTER), "fit", taught=True),
    "as pooling, k = n/4": Cell(slots(QUARTER), "pooling"),
    "one E for all layers, k = n/4": Cell(slots(QUARTER, projection_sharing="layerwise"), "fit"),
    "in turns, k = n/2, from nothing": Cell(slots(HALF, projection_sharing="none"), "turns", scratch=True, short=True),
    "first layer softmax, k = n/2": Cell(slots([None, HALF, HALF]), "fit"),
    "first layer softmax, content, k = n/4": Cell(slots([None, QUARTER, QUARTER], "cluster")),
    "first layer softmax, content, k = n/2": Cell(slots([None, HALF, HALF], "cluster")),
    # more slots where the rank is high (paper, section 4: nonuniform projected dimension): n, 3n/8 and n/8
    "uneven, mean k = n/2": Cell(slots(UNEVEN), "fit"),
    "uneven, mean k = n/2, longer": Cell(slots(UNEVEN), "fit", times=3),
    "softmax, longer": Cell(times=3),
    "annealed, k = n/2": Cell(slots(HALF), "fit", after="softmax, from nothing"),
    "softmax, on from nothing": Cell(after="softmax, from nothing"),
    "annealed, k = n/4": Cell(slots(QUARTER), "fit", after="softmax, from nothing"),
    # attention that needs no k (arXiv 2101.10277), and slots that follow the content, going on and from nothing
    "k-free": Cell({"attention_type": "kfree"}),
    "k-free, from nothing": Cell({"attention_type": "kfree"}, scratch=True, short=True),
    "content, k = n/2, from nothing": Cell(slots(HALF, "cluster"), scratch=True, short=True),
    # from nothing for as long as the teacher
    "paper, k = n/2, from nothing, longer": Cell(slots(HALF), "pooling", scratch=True),
    "first layer softmax, content, k = n/4, from nothing, longer": Cell(
        slots([None, QUARTER, QUARTER], "cluster"), scratch=True
    ),
    "window of 8, k = n/4, from nothing": Cell(slots(QUARTER, local_window=8), "pooling", scratch=True, short=True),
    "window of 8, content, k = n/4, from nothing": Cell(
        slots(QUARTER, "cluster", local_window=8), scratch=True, short=True
    ),
    "first layer softmax, content, k = n/4, from nothing": Cell(
        slots([None, QUARTER, QUARTER], "cluster"), scratch=True, short=True
    ),
    **{
        f"{name}, seed {seed}": Cell(model, start, seed=seed)
        for seed in (2, 3)
        for name, model, start in (
            (ON, {}, None),
            ("paper, k = n/2", slots(HALF), "fit"),
            ("first layer softmax, content, k = n/4", slots([None, QUARTER, QUARTER], "cluster"), None),
        )
    },
}

# Lines of the picture, as all of them cannot be told apart.
DRAWN = (
    *(ON, "softmax, longer", "paper, k = n/2", "paper, k = n/2, longer", "paper, k = n/4", "content, k = n/4"),
    *("window of 8, k = n/4", "window of 8, content, k = n/4", "first layer softmax, content, k = n/4"),
)


def reference_of(name: str) -> str | None:
    """The cell with softmax attention that began with the same weights, on the same batches."""
    same = dataclasses.replace(CELLS[name], model={}, start=None, taught=False)
    return next((other for other, one in CELLS.items() if one == same), None)


def recipe_of(name: str, options: argparse.Namespace) -> Recipe:
    """The recipe of a cell: the laptop's, with a larger model and vocabulary."""
    cell = CELLS[name]
    values: dict[str, Any] = {
        "model.hidden_size": options.hidden_size,
        "model.num_hidden_layers": options.layers,
        "model.num_attention_heads": 4,
        "model.intermediate_size": 4 * options.hidden_size,
        "data.train": [str(options.data / "gutenberg_train.parquet")],
        "data.evaluation": [str(options.data / "gutenberg_valid.parquet")],
        "data.evaluation_sequences": options.sequences,
        "data.stages": [],
        "tokenizer.vocab_size": options.vocabulary,
        "tokenizer.sample_characters": 5_000_000,
        "training.batch_size": 8,
        "training.learning_rate": options.rate,
        "training.steps": options.steps,
        "training.evaluate_every": max(1, options.steps // 20),
        "training.save_every": 500,
        "output.folder": str(options.runs / name.replace(" ", "-").replace("/", "-").replace(",", "")),
        "output.report_to": "none",
        **{f"model.{key}": value for key, value in cell.model.items()},
    }
    if cell.short or not cell.scratch:
        values |= {"training.steps": cell.times * options.more, "training.evaluate_every": max(1, options.more // 8)}
    if not cell.scratch:
        values |= {"training.learning_rate": options.more_rate, "training.seed": cell.seed}
    return load_recipe(
        ROOT / "recipes" / "laptop" / "softmax.yaml", [f"{key}={json.dumps(value)}" for key, value in values.items()]
    )


@torch.no_grad()
def start_near(model: Any, gain: float = 1.4) -> None:
    """Turn the heads of the first two layers to the tokens 1, 2 and 3 before and behind.

    Positions start as sinusoids, and a rotation of their waves is a step to the side (Vaswani et al. 2017, section
    3.5). Queries take positions so turned, keys take them as they are, and positions count twice beside the words.
    """
    encoder = model.base_model
    encoder.embeddings.position_embeddings.weight.mul_(2)
    hidden, heads = encoder.config.hidden_size, encoder.config.num_attention_heads
    size = hidden // heads
    waves = torch.exp(torch.arange(0, size, 2) * (-math.log(10_000) / hidden))  # those of the first features
    identity = gain * torch.eye(size, hidden)
    for layer, steps in zip(encoder.encoder.layers, ((-1, 1, -2, 2), (-1, 1, -3, 3)), strict=False):
        if layer.attention is None:
            continue
        turned = []
        for number in range(heads):
            angles = waves * steps[number % len(steps)]
            sin, cos = angles.sin(), angles.cos()
            turns = torch.stack([cos, sin, -sin, cos], dim=-1).view(-1, 2, 2)
            turned.append(torch.block_diag(*turns) @ identity)
        layer.attention.q_proj.weight.copy_(torch.cat(turned))
        layer.attention.k_proj.weight.copy_(identity.repeat(heads, 1))


@torch.no_grad()
def start_in_turns(model: nn.Module) -> None:
    """Slot j of head h is token ``j s + (h mod s)``, s = n / k: each head holds every s-th token, and all hold all."""
    for attention in model.modules():
        if isinstance(attention, LinformerAttention):
            for projection in (attention.key_projection, attention.value_projection):
                assert isinstance(projection, LinearProjection) and projection.per_head
                heads, n, k = projection.weight.shape
                stride, slot = n // k, torch.arange(k)
                projection.weight.zero_()
                for head in range(heads):
                    projection.weight[head, slot * stride + head % stride, slot] = 1


class Taught(MaskedLM):
    """Masked tokens, and in training also the hidden states of a teacher."""

    def __init__(self, plain: MaskedLM, teacher: LinformerForMaskedLM) -> None:
        super().__init__(plain.evaluation, plain.collate, plain.batch_size, plain.layout)
        self.teacher = teacher

    def loss(self, model: nn.Module, batch: Batch, items: int, step: int) -> Tensor:
        """Cross-entropy, and in training the distance of the hidden states."""
        if not model.training:
            return super().loss(model, batch, items, step)
        own = model(**batch, num_items_in_batch=items, return_logits=False, output_hidden_states=True)
        with torch.no_grad():
            states = self.teacher.base_model(batch["input_ids"], output_hidden_states=True).hidden_states
        return own.loss + hidden_state_loss(own.hidden_states, states, None)


class ClaimJob(PretrainJob):
    """A pretraining run that begins from the teacher, or with another E."""

    def __init__(self, recipe: Recipe, console: Console, cell: Cell, teacher: Path, texts: Sequence[str]) -> None:
        super().__init__(recipe, console)
        self.cell, self.teacher, self.texts = cell, teacher, texts

    def prepare(self) -> Prepared:
        """As in pretraining, but for the weights and the objective."""
        prepared, cell = super().prepare(), self.cell
        model: Any = prepared.model
        if cell.start == "turns":
            start_in_turns(model)
        elif cell.start is not None:
            start_as_pooling(model)
        if cell.scratch:
            start_near(model)
            return prepared
        teacher = LinformerForMaskedLM.from_pretrained(self.teacher).eval()
        missing, unexpected = model.load_state_dict(teacher.state_dict(), strict=False)
        assert not unexpected and all(".projections." in key for key in missing), (missing, unexpected)
        if cell.start == "fit":
            model.eval()
            fit_projections(model, teacher, self.tokenizer, self.texts)
        objective: Any = prepared.objective
        return dataclasses.replace(
            prepared, objective=Taught(objective, teacher) if cell.taught else objective, measure_start=True
        )


@torch.no_grad()
def losses_of(job: ClaimJob) -> list[float]:
    """Of each held-out sequence, the mean loss of its masked tokens."""
    model = LinformerForMaskedLM.from_pretrained(job.path / MODEL).eval()
    corpus, found = job.corpus, []
    for item in range(len(corpus.evaluation)):  # type: ignore[arg-type]
        batch = corpus.collate([corpus.evaluation[item]])
        found.append(round(model(**batch, return_logits=False).loss.item(), 5))
    return found


def train(name: str, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """One cell, to its end; a run that was interrupted goes on."""
    texts = options.texts() if CELLS[name].start == "fit" else []
    teacher = Path(recipe_of(CELLS[name].after, options).output.folder) / MODEL
    job = ClaimJob(recipe_of(name, options), console, CELLS[name], teacher, texts)
    if code := job.run():
        raise SystemExit(code)
    if not hasattr(job, "corpus"):  # it was finished, but not measured
        job.prepare()
    found = json.loads((job.path / RESULTS).read_text())
    losses = losses_of(job)
    kept = {key: found[key] for key in ("steps", "tokens", "seconds", "parameters", "evaluations", "data")}
    kept["data"].pop("train"), kept["data"].pop("evaluation")  # paths of this machine
    return {"perplexity": math.exp(np.mean(losses)), **kept, "by_sequence": losses}


def gap(losses: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """How much higher a perplexity is than another, in percent, with its 95 % interval over paired sequences."""
    differences = np.subtract(losses, others)
    mean, error = differences.mean(), 1.96 * differences.std(ddof=1) / len(differences) ** 0.5
    low, middle, high = (round(100 * math.expm1(x), 2) for x in (mean - error, mean, mean + error))
    return {"percent": middle, "low": low, "high": high}


def draw(found: dict[str, dict[str, Any]], output: Path) -> None:
    """Held-out perplexity against tokens, after the teacher's training and from nothing."""
    for scratch, stem, x in (
        (False, "paper_claim", "million tokens after the teacher's training"),
        (True, "paper_claim-from-nothing", "million tokens"),
    ):
        lines = {}
        for name, cell in found.items():
            covered = name == "softmax, from nothing" or f"{name}, longer" in found
            if CELLS[name].scratch == scratch and (not covered if scratch else name in DRAWN):
                each = cell["tokens"] / cell["steps"] / 1e6
                points = [(step * each, metrics["perplexity"]) for step, metrics in cell["evaluations"]]
                label = name.replace("k = ", "").replace("first layer softmax", "softmax below")
                label = label.partition(", from nothing")[0].replace(TEACHER, "softmax")
                lines[label.replace("window of 8", "window")] = tuple(zip(*points, strict=True))
        if lines:
            figure = plot_lines(lines, x, "held-out perplexity", log_y=True)
            figure.axes[0].set_yticks([25, 50, 100, 200, 400])
            save_png(figure, output / f"{stem}.png")


def main() -> None:
    """Train what is not trained yet, and write up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the books; default: LINFORMERS_DATA")
    parser.add_argument("--steps", type=int, default=7000, help="of 2,048 tokens, from nothing")
    parser.add_argument("--more", type=int, default=1000, help="steps after the teacher's training")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak of the learning rate, from nothing")
    parser.add_argument("--more-rate", type=float, default=1e-3, help="the same, after the teacher's training")
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=2000, help="tokens of the vocabulary")
    parser.add_argument("--sequences", type=int, default=256, help="held-out sequences")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS), help="these, in this order")
    parser.add_argument("--runs", type=Path, default=Path("runs/paper_claim"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    data = options.data or os.environ.get("LINFORMERS_DATA")
    if not data:
        parser.error("the books are not in the package: give --data, or set LINFORMERS_DATA")
    options.data = Path(data)
    names = [TEACHER, *(CELLS[name].after for name in options.cells)]
    names += [reference for name in options.cells if (reference := reference_of(name))]
    names = list(dict.fromkeys([*names, *options.cells]))

    def texts() -> list[str]:
        books = pq.read_table(options.data / "gutenberg_train.parquet").column("text").to_pylist()
        each = -(-FIT_TEXTS // len(books))
        starts = [(book, len(book) * (part + 1) // (each + 1)) for book in books for part in range(each)]
        return [book[start:][:FIT_CHARACTERS] for book, start in starts[:FIT_TEXTS]]

    options.texts = texts
    logging.disable_progress_bar()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    quiet = Console(quiet=True)
    cells: dict[str, Callable[[], dict[str, Any]]] = {
        name.replace("/", "-"): partial(train, name, options, quiet) for name in names
    }
    found = run_cells(cells, options.runs / "cells", console, torch.device("cpu"))
    found = {name: found[name.replace("/", "-")] for name in names}
    table = Table(title="Held-out perplexity, and how much it is above softmax attention that was trained alike")
    for column in ("cell", "parameters", "steps", "before", "after", "gap, %", "95 %"):
        table.add_column(column, justify="left" if column == "cell" else "right")
    by_sequence = {name: cell.pop("by_sequence") for name, cell in found.items()}
    for name, cell in found.items():
        losses = by_sequence[name]
        if reference := reference_of(name):
            cell["gap"] = {"to": reference, **gap(losses, by_sequence[reference])}
        of = cell.get("gap", {"percent": math.nan, "low": math.nan, "high": math.nan})
        before = cell["evaluations"][0][1]["perplexity"]
        figures = (f"{before:.2f}", f"{cell['perplexity']:.2f}", f"{of['percent']:.1f}")
        interval = f"{of['low']:.1f} to {of['high']:.1f}"
        table.add_row(name, f"{cell['parameters']:,}", f"{cell['steps']:,}", *figures, interval)
    console.print(table)
    settings = {key: value for key, value in vars(options).items() if isinstance(value, int | float)}
    write_results(options.output / "paper_claim.json", console, torch.device("cpu"), settings=settings, cells=found)
    draw(found, options.output)


if __name__ == "__main__":
    main()
