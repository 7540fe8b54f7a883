"""Training tokens per second of masked language modelling, against transformers' RobertaForMaskedLM.

    python benchmarks/training_throughput.py [--lengths 512 4096] [--rounds 3] [--device cpu]

The same shape (hidden 768, 12 heads, vocabulary 50,265), the same batches of 4,096 tokens with 15 % predicted, and the
same loop and AdamW for all. In each round every contender trains for some steps; the first of them is not counted.
The table gives medians over the steps of all rounds. Attention dropout is 0 by default, in all contenders: with it
PyTorch has no fused softmax attention on the CPU and RoBERTa would be slower still.
"""

import argparse
import gc
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from result_files import write_csv
from rich.console import Console
from rich.table import Table
from small_training import Clock
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel, RobertaConfig, RobertaForMaskedLM

from linformers import LinformerConfig, LinformerForMaskedLM
from linformers.data.streams import collate
from linformers.training.engine import Batches, Engine, Objective
from linformers.training.masked_lm import MaskedLM
from linformers.training.processes import Layout, pick_device, step_batches
from linformers.training.recipe import TrainingRecipe

VOCABULARY, HIDDEN, HEADS, INTERMEDIATE = 50265, 768, 12, 3072
TOKENS = 4096  # of a step
ROBERTA = "RobertaForMaskedLM (sdpa)"


class RandomTokens(Dataset):
    """Random tokens of which 15 % are predicted: what is learned is no matter, only what it costs."""

    def __init__(self, length: int, size: int) -> None:
        self.length, self.size = length, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(5, VOCABULARY, (self.length,), generator=generator)
        predicted = torch.rand(self.length, generator=generator) < 0.15
        return {"input_ids": ids, "labels": torch.where(predicted, ids, -100)}


def contenders(length: int, layers: int, dropout: float) -> dict[str, PreTrainedModel]:
    """The models by the names used in the table."""
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "intermediate_size": INTERMEDIATE,
        "attention_probs_dropout_prob": dropout,
    }

    def ours(**options: Any) -> PreTrainedModel:
        return LinformerForMaskedLM(LinformerConfig(max_position_embeddings=length, **shape, **options))

    return {
        ROBERTA: RobertaForMaskedLM(RobertaConfig(max_position_embeddings=length + 2, type_vocab_size=1, **shape)),
        "ours, softmax": ours(attention_type="softmax"),
        "ours, linformer k = 256": ours(projected_dim=256),
        "ours, linformer k = 128": ours(projected_dim=128),
    }


def measure(models: dict[str, PreTrainedModel], length: int, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each counted step."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    training = TrainingRecipe(steps=steps + 1, batch_size=TOKENS // length, learning_rate=1e-4)
    layout, data = Layout(device=pick_device("auto")), RandomTokens(length, TOKENS * (steps + 1))
    for _ in range(rounds):
        for name, model in models.items():
            objective = Objective() if isinstance(model, RobertaForMaskedLM) else MaskedLM(None, collate, 1, layout)
            batches = Batches(data, step_batches(training, layout), collate)
            clock = Clock()
            Engine(model, objective, training, batches, layout=layout, watchers=[clock]).train()
            seconds[name] += clock.seconds
            model.zero_grad(set_to_none=True)
            gc.collect()
    return seconds


def main() -> None:
    """Measure, print, and write results/training_throughput-<device>.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 4096], help="tokens; each divides 4,096")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--attention-dropout", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="counted steps of a round")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    console = Console(width=None if sys.stdout.isatty() else 140)

    rows = []
    for length in arguments.lengths:
        torch.manual_seed(0)
        models = contenders(length, arguments.layers, arguments.attention_dropout)
        seconds = measure(models, length, arguments.rounds, arguments.steps)
        table = Table(title=f"n = {length:,}, {TOKENS // length} sequences a step", title_justify="left")
        for name in ("model", "s a step (quartiles)", "tokens/s", f"x {ROBERTA}"):
            table.add_column(name, justify="left" if name == "model" else "right")
        rival = statistics.median(seconds[ROBERTA])
        for name, kept in seconds.items():
            median = statistics.median(kept)
            low, _, high = statistics.quantiles(kept, n=4)
            row = {"length": length, "model": name, "seconds": median, "q1": low, "q3": high}
            row |= {"tokens_per_second": TOKENS / median, "x roberta": rival / median}
            rows.append(row)
            speed, ratio = f"{row['tokens_per_second']:,.0f}", f"{row['x roberta']:.2f}"
            table.add_row(name, f"{median:.2f} ({low:.2f}-{high:.2f})", speed, ratio)
        console.print(table)

    path = arguments.output / f"training_throughput-{device.type}.csv"
    note = (
        f"hidden {HIDDEN}, {HEADS} heads, intermediate {INTERMEDIATE}, {arguments.layers} layers, vocabulary "
        f"{VOCABULARY}, {TOKENS} tokens a step, attention dropout {arguments.attention_dropout:g}"
    )
    write_csv(path, rows, console, notes=[note], device=device.type)


if __name__ == "__main__":
    main()
