"""Other attention with the properties that the k-free paper promises, against the one that the library has.

    python benchmarks/kfree_alternatives.py --data FOLDER      (fsdd.parquet, for the spoken digits)
    python benchmarks/kfree_alternatives.py --time             also the time of a layer; on a quiet machine

The abstract of arXiv 2101.10277 names properties (linear in n, no k, any length), not a formula. Four have them, each
with a d x d memory a head and no weights but the four feature projections (the last has a temperature a head, too):
``softmax_d(Q) (softmax_n(K)^T V)``, ours;
``softmax(Q K'^T) V'`` over slots whose E and F are ``softmax_n(K)^T``; the same with ``K^T / n``, so that K' is
``K^T K``; and cross-covariance attention (arXiv 2106.09681), which mixes channels and not tokens. Each takes the place
of k-free attention in the recipe ``laptop/kfree`` (masked language modelling, a cell of Figure 3) and in tasks of
``modalities.py``. Finished cells are kept in ``runs/kfree``. Writes results/kfree-alternatives.json.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import modalities
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from small_training import run_cells, write_results
from torch import Tensor, nn

from linformers.attention import Attention, Documents, KFreeAttention, SoftmaxAttention
from linformers.commands.pretrain import run_recipe
from linformers.models import encoder
from linformers.training.recipe import load_recipe

ROOT = Path(__file__).parents[1]


class Alternative(Attention):
    """Queries are read against a memory that is computed from all tokens at once."""

    def keys_and_values(self, source: Tensor, documents: Documents) -> tuple[Tensor, Tensor, Tensor | None]:
        """(batch, heads, source, head_dim), and which tokens count."""
        usable = (documents.keep | documents.empty[:, None])[:, None, :, None] if documents.padded else None
        return self.split_heads(self.k_proj(source)), self.split_heads(self.v_proj(source)), usable

    def _check_source(self, documents: Documents, is_self: bool) -> None:
        """Any length will do."""


class SoftmaxSlots(Alternative):
    """Linformer with ``E = F = softmax_n(K)^T``: head_dim slots, read by softmax attention."""

    def build_memory(
        self, source: Tensor, documents: Documents, readers: Tensor | None = None, return_weights: bool = False
    ) -> Any:
        """Slots of keys and of values."""
        keys, values, usable = self.keys_and_values(source, documents)
        projection = self.projection(keys, usable).transpose(-1, -2)
        return projection @ keys, projection @ values

    def projection(self, keys: Tensor, usable: Tensor | None) -> Tensor:
        """(batch, heads, source, head_dim), in place of E and F."""
        return (keys if usable is None else keys.masked_fill(~usable, -torch.inf)).softmax(-2)

    def read(
        self, hidden_states: Tensor, memory: Any, start: int = 0, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend to the slots."""
        queries = self.split_heads(self.q_proj(hidden_states))
        return self.merge_heads(F.scaled_dot_product_attention(queries, *memory)), None


class KeySlots(SoftmaxSlots):
    """Linformer with ``E = F = K^T / n``: the slots of keys are ``K^T K / n``."""

    def projection(self, keys: Tensor, usable: Tensor | None) -> Tensor:
        """The keys, over how many there are."""
        if usable is None:
            return keys / keys.shape[-2]
        return keys * (usable / usable.sum(-2, keepdim=True))


class CrossCovariance(Alternative):
    """``V softmax_d(T K^T Q)``, columns of K and Q of length 1: channels attend to channels."""

    def __init__(self, hidden_size: int, num_attention_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__(hidden_size, num_attention_heads, dropout=dropout)
        self.temperature = nn.Parameter(torch.ones(num_attention_heads, 1, 1))

    def build_memory(
        self, source: Tensor, documents: Documents, readers: Tensor | None = None, return_weights: bool = False
    ) -> Tensor:
        """(batch, heads, head_dim, head_dim): which channel of V takes part in which of the output."""
        keys, _, usable = self.keys_and_values(source, documents)
        queries = self.split_heads(self.q_proj(source))
        if usable is not None:
            keys, queries = keys * usable, queries * usable
        keys, queries = F.normalize(keys, dim=-2), F.normalize(queries, dim=-2)
        return (self.temperature * (keys.transpose(-1, -2) @ queries)).softmax(-2)

    def read(
        self, hidden_states: Tensor, memory: Tensor, start: int = 0, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Mix the channels of each token's own value."""
        return self.merge_heads(self.split_heads(self.v_proj(hidden_states)) @ memory), None


KINDS: dict[str, type[Attention]] = {
    "ours": KFreeAttention,
    "softmax-slots": SoftmaxSlots,
    "key-slots": KeySlots,
    "cross-covariance": CrossCovariance,
}


@contextmanager
def as_kfree(kind: type[Attention]) -> Any:
    """Models of k-free attention are built with another in its place."""
    before = encoder.KFreeAttention
    encoder.KFreeAttention = kind  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        encoder.KFreeAttention = before  # type: ignore[misc]


def masked_lm(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Held-out perplexity in the setting of Figure 3."""
    folder = options.runs / f"mlm-{name}-seed{seed}-{options.steps}"
    changes = [f"output.folder={json.dumps(str(folder))}", "output.report_to=none", f"training.seed={seed}"]
    changes += [] if options.steps is None else [f"training.steps={options.steps}"]
    recipe = load_recipe(ROOT / "recipes" / "laptop" / "kfree.yaml", changes)
    with as_kfree(KINDS[name]):
        if run_recipe(recipe, console=Console(quiet=True)):
            raise SystemExit(130)
    best = json.loads((folder / "results.json").read_text())["best"]
    return {"task": "masked-lm", "kind": name, "seed": seed, **best}


def classify(name: str, task: str, seed: int, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Test accuracy in a task of ``modalities.py``."""
    with as_kfree(KINDS[name]):
        found = modalities.cell(task, "kfree", seed, options.modalities, console)
    return {**found, "kind": name}


def times(lengths: list[int], rounds: int) -> dict[str, dict[int, float]]:
    """Milliseconds of one layer of width 768 without gradients: medians over rounds in turns."""
    layers: dict[str, Attention] = {name: kind(768, 12).eval() for name, kind in KINDS.items()}
    layers["softmax attention"] = SoftmaxAttention(768, 12).eval()
    found: dict[str, dict[int, float]] = {name: {} for name in layers}
    for length in lengths:
        x = torch.randn(1, length, 768)
        taken: dict[str, list[float]] = {name: [] for name in layers}
        for turn in range(rounds + 1):
            for name, layer in layers.items():
                begun = time.perf_counter()
                with torch.no_grad():
                    layer(x)
                if turn:  # the first warms up
                    taken[name].append(1000 * (time.perf_counter() - begun))
        for name, values in taken.items():
            found[name][length] = statistics.median(values)
    return found


def main() -> None:
    """Train what is not trained yet, and write up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of fsdd.parquet")
    parser.add_argument("--tasks", nargs="*", choices=list(modalities.TASKS), default=["digits", "speech"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, help="instead of the recipe's and the tasks' own")
    parser.add_argument("--time", action="store_true", help="measure layers, alone")
    parser.add_argument("--runs", type=Path, default=Path("runs/kfree"), help="folder of the finished cells")
    parser.add_argument("--output", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    options.modalities = modalities.parse(
        [f"--{key}={getattr(options, key)}" for key in ("data", "steps") if getattr(options, key) is not None]
    )
    for task in options.tasks:  # what is missing is said before anything is trained
        modalities.load(task, options.modalities)
    cells: dict[str, Callable[[], dict[str, Any]]] = {}
    for seed in options.seeds:
        for name in KINDS:
            cells[f"mlm-{name}-seed{seed}-{options.steps}"] = partial(masked_lm, name, seed, options)
            for task in options.tasks:
                title = f"{task}-{name}-seed{seed}-{options.steps}"
                cells[title] = partial(classify, name, task, seed, options, console)
    results = run_cells(cells, options.runs, console, torch.device("cpu"))
    layers = times([512, 2048, 8192], 7) if options.time else {}
    rows = []
    for name in (*KINDS, *(other for other in layers if other not in KINDS)):
        row: dict[str, Any] = {"kind": name}
        for task in ("masked-lm", *options.tasks):
            of_it = [found for found in results.values() if found["kind"] == name and found["task"] == task]
            if of_it:
                key, by = ("perplexity", 1) if task == "masked-lm" else ("accuracy", 100)
                row[task] = statistics.mean(by * found[key] for found in of_it)
        rows.append(row | {f"ms at {length}": value for length, value in layers.get(name, {}).items()})
    table = Table(title="Attention without k: perplexity, accuracy in percent, milliseconds of a layer of width 768")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column, justify="left" if column == "kind" else "right")
    for row in rows:
        table.add_row(row["kind"], *(f"{row[key]:.2f}" if key in row else "" for key in columns[1:]))
    console.print(table)
    path = options.output / "kfree-alternatives.json"
    write_results(path, console, torch.device("cpu"), table=rows, cells=results)


if __name__ == "__main__":
    main()
