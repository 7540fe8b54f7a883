"""Long Range Arena: softmax attention, Linformer, Linformer with a local window, k-free attention, and none at all.

    python benchmarks/lra.py --task listops
    python benchmarks/lra.py --task text --data FOLDER        (imdb_train.parquet, imdb_test.parquet)
    python benchmarks/lra.py --task image --data FOLDER       (CIFAR-10's binary version)
    python benchmarks/lra.py --task pathfinder

Every cell (task, model, rate, seed) gets the same steps or the same time (``--steps``, ``--seconds``): the speed of a
model's first cell says how many steps that is, and all its cells take so many. Of several learning rates (``--rates``)
each model takes the one that does best on the validation examples with the first seed; the other seeds are trained with
that. The laptop budget is a model of 2 layers of width 64 and 15 minutes of training a cell, meant for one core
(OMP_NUM_THREADS=1), with what was found to learn in that time; the full one is a larger model and 20,000 steps. A
finished cell is kept in ``runs/lra``, so the same command goes on where it stopped. The weights are those that did best
on the validation examples; accuracy is on the test examples, which chose nothing. Writes results/lra-<task>.json.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lra_tasks import PUBLISHED, RERUN, LraTask, load_task
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_training import Budget, accuracy, measure_speed, pick_device, run_cells, train_classifier, write_results
from torch import Tensor, nn
from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings

from linformers import LinformerConfig, LinformerForSequenceClassification
from linformers.attention.sharing import PROJECTION_KINDS
from linformers.files.progress import ReadProgress

ROOT = Path(__file__).parents[1]
# Defaults of the options, by budget and task. ListOps is read at its first token, the outermost operator.
_LAPTOP = {"seconds": 900.0, "evaluations": 8, "hidden_size": 64, "layers": 2, "batch_size": 16}
_LAPTOP |= {"initializer_range": 0.1, "projection_kind": "conv"}
_MEAN = _LAPTOP | {"pooling": "mean", "standardise": True}
_FULL = {"steps": 20_000}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "laptop": {
        "listops": _LAPTOP
        | {"pooling": "first", "positions": "sinusoidal", "sizes": (20_000, 1_000, 4_000), "shorter": 150_000},
        "text": _MEAN | {"positions": "zero", "sizes": (14_400, 1_000, 4_500)},
        "image": _MEAN,
        "pathfinder": _MEAN,
    },
    "full": {
        "listops": _FULL | {"sizes": (96_000, 2_000, 2_000)},
        "text": _FULL,
        "image": _FULL,
        "pathfinder": _FULL | {"sizes": (160_000, 20_000, 20_000)},
    },
}


class Batches:
    """Sequences as the models take them; with a token of its own at the start where that is what they read."""

    def __init__(self, task: LraTask, splits: Sequence[str], pooling: str) -> None:
        parts = [task.splits[split] for split in splits if split in task.splits]
        self.ids = [ids for part in parts for ids in part.ids]
        self.labels = np.concatenate([part.labels for part in parts])
        if pooling == "cls":
            self.ids = [np.concatenate([[task.vocab_size], ids]) for ids in self.ids]
        self.lengths = np.array([len(ids) for ids in self.ids])

    def batch(self, rows: list[int], training: bool) -> dict[str, Tensor]:
        """Padded to a multiple of 64, so that few shapes occur."""
        width = min(-(-int(self.lengths[rows].max()) // 64) * 64, int(self.lengths.max()))
        ids = np.zeros((len(rows), width), dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : self.lengths[row]] = self.ids[row]
        tokens = torch.from_numpy(ids)
        found = {"input_ids": tokens, "labels": torch.from_numpy(self.labels[rows])}
        return found if (tokens != 0).all() else {**found, "attention_mask": tokens != 0}


def config_of(model: str, task: LraTask, options: argparse.Namespace) -> LinformerConfig:
    """The same encoder but for its attention."""
    kinds: dict[str, dict[str, Any]] = {
        "softmax": {"attention_type": "softmax"},
        "kfree": {"attention_type": "kfree"},
        "none": {"attention_type": "none"},
        "linformer": {"projected_dim": options.projected_dim},
        "linformer-window": {"projected_dim": options.projected_dim, "local_window": options.local_window},
    }
    return LinformerConfig(
        vocab_size=task.vocab_size + 1,
        hidden_size=options.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden_size // 32,
        intermediate_size=4 * options.hidden_size,
        max_position_embeddings=task.max_length + 1,
        norm_position="pre",
        classifier_pooling="mean" if options.pooling == "mean" else "cls",
        initializer_range=options.initializer_range,
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=options.dropout,
        projection_kind=options.projection_kind,
        classifier_activation="gelu",
        pad_token_id=0,
        num_labels=task.classes,
        **kinds[model],
    )


def build(model_name: str, task: LraTask, options: argparse.Namespace) -> LinformerForSequenceClassification:
    """A fresh model.

    What tells classes apart is small in the mean of a thousand tokens: beside what all sequences share, which
    ``--standardise`` takes away, and beside the mean of their random positions, which ``--positions zero`` does.
    Sinusoidal positions, as Long Range Arena's, are alike where they are near; all positions are trained.
    """
    model = LinformerForSequenceClassification(config_of(model_name, task, options))
    positions = model.linformer.embeddings.position_embeddings.weight
    if options.positions == "zero":
        nn.init.zeros_(positions)
    elif options.positions == "sinusoidal":
        waves = create_sinusoidal_embeddings(*positions.shape, out=torch.empty(positions.shape))
        positions.data.copy_(2**0.5 * options.initializer_range * waves)
    if options.standardise:
        head = model.classifier
        head.dense = nn.Sequential(nn.BatchNorm1d(options.hidden_size, affine=False), head.dense)
    return model


def steps_of(folder: Path, task: str, model: str) -> int | None:
    """Steps of a model's finished cells, so that its rates and seeds differ in nothing else; None before the first."""
    first = next(iter(sorted(folder.glob(f"{task}-{model}-rate*.json"))), None)
    return None if first is None else json.loads(first.read_text())["steps"]


def budget_of(options: argparse.Namespace, rate: float, steps: int | None = None) -> Budget:
    """How every model is trained; for ``steps`` where these are known already."""
    return Budget(
        steps=steps or options.steps,
        seconds=None if steps else options.seconds,
        batch_size=options.batch_size,
        learning_rate=rate,
        weight_decay=0.05,
        evaluations=options.evaluations,
    )


def cell(
    task: LraTask,
    model_name: str,
    rate: float,
    seed: int,
    options: argparse.Namespace,
    console: Console,
    folder: Path,
) -> dict[str, Any]:
    """Train and test one model; ``folder`` has the cells that are finished."""
    device = pick_device(options.device)
    torch.manual_seed(seed)
    model = build(model_name, task, options)
    train = Batches(task, ("train", "shorter"), options.pooling)
    validation, test = (Batches(task, [name], options.pooling) for name in ("validation", "test"))
    title = f"{task.name} {model_name} rate {rate:g} seed {seed}"
    budget = budget_of(options, rate, steps_of(folder, task.name, model_name))
    found = train_classifier(model, train, validation, budget, device=device, seed=seed, name=title, console=console)
    size = 2 * options.batch_size
    return {
        "model": model_name,
        "learning_rate": rate,
        "seed": seed,
        "accuracy": accuracy(model, test, device=device, batch_size=size),
        "parameters": model.num_parameters(),
        "device_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20) if device.type == "cuda" else None,
        **found,
    }


def chosen_rate(cells: Sequence[dict[str, Any]], model: str) -> float:
    """The rate at which a model does best on the validation examples; of equal ones the first."""
    own = [found for found in cells if found["model"] == model]
    return max(own, key=lambda found: found["best"]["accuracy"] if found["best"] else 0)["learning_rate"]


def without_networks(task: LraTask) -> dict[str, float]:
    """Accuracy of logistic regression on the first token alone, and on how often each token occurs."""

    def table(split: str, first: bool) -> np.ndarray:
        counts = [np.bincount(ids[:1] if first else ids, minlength=task.vocab_size) for ids in task.splits[split].ids]
        return np.stack(counts) / np.sum(counts, axis=1, keepdims=True)

    found = {}
    for name, first in (("the first token", True), ("the shares of all tokens", False)):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        model.fit(table("train", first), task.splits["train"].labels)
        found[name] = float(model.score(table("test", first), task.splits["test"].labels))
    return found


def show(results: dict[str, dict[str, Any]], task: LraTask, options: argparse.Namespace, console: Console) -> None:
    """Print the table beside the published figures, and write the results."""
    table = Table(title=f"Long Range Arena, {task.name}: accuracy in percent on {len(task.splits['test']):,} test rows")
    for column in ("model", "rate", "ours", "published", "run again", "steps", "training s", "examples/s (inference)"):
        table.add_column(column, justify="left" if column == "model" else "right")
    rows, device, test = [], pick_device(options.device), Batches(task, ["test"], options.pooling)
    first = [found for found in results.values() if found["seed"] == options.seeds[0]]
    for model in options.models:
        fast = None
        if options.time:
            fresh = build(model, task, options).to(device)
            fast = measure_speed(fresh, test, device=device, batch_size=2 * options.batch_size)
        rate = chosen_rate(first, model)
        cells = [found for found in results.values() if (found["model"], found["learning_rate"]) == (model, rate)]
        values = [100 * found["accuracy"] for found in cells]
        published, again = (of[task.name].get(model.partition("-")[0]) for of in (PUBLISHED, RERUN))
        row = {"model": model, "learning_rate": rate, "accuracy": float(np.mean(values)), "seeds": len(values)}
        row |= {"deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None}
        rows.append(row | {"published": published, "run_again": again, "examples_per_second": fast})
        table.add_row(
            model,
            f"{rate:g}",
            f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""),
            *("" if value is None else f"{value:.2f}" for value in (published, again)),
            f"{np.mean([found['steps'] for found in cells]):,.0f}",
            f"{np.mean([found['seconds'] for found in cells]):,.0f}",
            "" if fast is None else f"{fast:,.0f}",
        )
    console.print(table)
    path = options.output / f"lra-{task.name}{options.suffix}.json"
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    del settings["data"], settings["runs"], settings["output"]  # places of this machine
    lengths = {name: [len(ids) for ids in split.ids] for name, split in task.splits.items()}
    data = {
        name: {"rows": len(all_), "mean_length": round(float(np.mean(all_)), 1), "longest": max(all_)}
        for name, all_ in lengths.items()
    }
    baselines = without_networks(task)
    for name, share in baselines.items():
        console.print(f"logistic regression on {name}: {100 * share:.2f}")
    references = {"published": PUBLISHED[task.name], "run_again": RERUN[task.name]}
    more = {"settings": settings, "data": data, **references, "baselines": baselines}
    write_results(path, console, device, **more, table=rows, cells=results)


def parse() -> argparse.Namespace:
    """The options of the command line; what is not given is the budget's."""
    models = ["softmax", "linformer", "linformer-window", "kfree", "none"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", required=True, choices=list(PUBLISHED))
    parser.add_argument("--data", type=Path, help="folder of the files of text and image")
    parser.add_argument("--models", nargs="+", choices=models, default=models, metavar="MODEL")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budget", choices=list(RECIPES), default="laptop", help="which defaults")
    parser.add_argument("--steps", type=int, help="instead of the budget's")
    parser.add_argument("--seconds", type=float, help="of training a cell, instead of the budget's")
    parser.add_argument("--sizes", nargs=3, type=int, metavar="N", help="examples to train, choose and test on")
    parser.add_argument("--shorter", type=int, default=0, help="lists below 500 tokens to train on as well (listops)")
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--projected-dim", type=int, default=128)
    parser.add_argument("--projection-kind", choices=PROJECTION_KINDS, default="linear")
    parser.add_argument("--local-window", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3], metavar="RATE", help="to choose from")
    parser.add_argument("--initializer-range", type=float, default=0.02)
    parser.add_argument("--positions", choices=("random", "zero", "sinusoidal"), default="random", help="initial ones")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument(
        "--pooling",
        choices=("cls", "first", "mean"),
        default="cls",
        help="what the classifier reads: a token before all others, the first, or the mean",
    )
    parser.add_argument(
        "--standardise",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="what the classifier reads, over the batch (a batch norm)",
    )
    parser.add_argument("--evaluations", type=int, default=10)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--time", action="store_true", help="measure the speed of every model; on a quiet machine")
    parser.add_argument("--runs", type=Path, default=Path("runs/lra"), help="folder of the finished cells")
    parser.add_argument("--output", type=Path, default=ROOT / "results")
    parser.add_argument("--suffix", default="", help="of the name of the results")
    first = parser.parse_args()
    given = first.steps is not None or first.seconds is not None
    recipe = RECIPES[first.budget][first.task]
    parser.set_defaults(**{name: x for name, x in recipe.items() if not given or name not in ("steps", "seconds")})
    return parser.parse_args()


def main() -> None:
    """Train what is not trained yet, and write up."""
    options = parse()
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    try:
        for rate in options.rates:
            budget_of(options, rate)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    with ReadProgress(console, f"making {options.task}", unit="examples") as progress:

        def report(share: float) -> None:
            progress.reached(share)
            progress.add(1)

        workers = max(len(os.sched_getaffinity(0)) - 1, 1)
        try:
            sizes = None if options.sizes is None else tuple(options.sizes)
            task = load_task(
                options.task,
                data=options.data,
                sizes=sizes,
                shorter=options.shorter,
                processes=workers,
                report=report,
            )
            for model in options.models:  # before any is trained
                config_of(model, task, options)
        except (ValueError, FileNotFoundError) as error:
            raise SystemExit(f"error: {error}") from error
    rows = len(task.splits["train"]) + options.shorter
    if options.standardise and rows % options.batch_size == 1:
        raise SystemExit(f"error: {rows:,} examples leave a last batch of 1, too few for a batch norm: change --sizes")
    names = "steps seconds hidden_size layers projected_dim local_window batch_size"
    names += " pooling initializer_range dropout projection_kind positions standardise"
    plan = "-".join(f"{getattr(options, name)}" for name in names.split())
    plan = "-".join([plan, *(str(len(split)) for split in task.splits.values())])
    device = pick_device(options.device)
    folder = options.runs / f"{device.type}-{plan}"

    def run(todo: list[tuple[str, float, int]]) -> dict[str, dict[str, Any]]:
        cells = {
            f"{task.name}-{model}-rate{rate:g}-seed{seed}": partial(
                cell, task, model, rate, seed, options, console, folder
            )
            for model, rate, seed in todo
        }
        return run_cells(cells, folder, console, device)

    first, *others = options.seeds
    results = run([(model, rate, first) for model in options.models for rate in options.rates])
    rates = {model: chosen_rate(list(results.values()), model) for model in options.models}
    results |= run([(model, rates[model], seed) for seed in others for model in options.models])
    show(results, task, options, console)


if __name__ == "__main__":
    main()
