"""ONNX Runtime in float32 and int8 against PyTorch: time by length, and what int8 costs in accuracy.

    pip install -c constraints.txt -e '.[onnx]'
    python benchmarks/onnx_int8.py --model runs/sst2/model --data DIR [--task sst2] [--lengths 512 4096]

``--model`` is a Linformer fine-tuned on the task, ``DIR`` holds the task's files as for ``linformers finetune``. A
model that reads less than the longest length is made longer first (``resize_max_length``, positions tiled); accuracy
is measured on that model too. Slots read short texts too (``exact_length=0``), as in a graph, which serves every
length. The second model has the size of RoBERTa-base, k = 256 and random weights: for times
only. Rounds are interleaved, torch (eval, inference mode), ONNX Runtime in float32, in int8, all with as many threads;
medians and quartiles.
"""

import argparse
import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from linformers import LinformerConfig, LinformerForSequenceClassification
from linformers.commands.export import PACKAGES
from linformers.convert.load import name_of
from linformers.export.check import Session, check, run
from linformers.export.graph import random_inputs, trace, translate
from linformers.export.int8 import SETTINGS, float_products, quantise
from linformers.export.measure import labelled_rows, measure_accuracy
from linformers.files.environment import describe_environment
from linformers.files.progress import ReadProgress

PAUSE = 0.05  # seconds, in which the threads of the one before stop spinning
SHAPE = ("num_hidden_layers", "hidden_size", "num_attention_heads", "projection_kind", "projected_dim", "local_window")


def sessions(model: Any) -> tuple[Session, Session, dict[str, Any]]:
    """Export a model, in float32 and int8."""
    graph = translate(trace(model), model, ["logits"])
    checks = check(graph, model)
    small = quantise(graph)
    facts = {
        "config": {name: getattr(model.config, name) for name in (*SHAPE, "max_position_embeddings")},
        "largest_difference": max(one.difference for one in checks),
        "bytes": {"onnx": graph.ByteSize(), "onnx-int8": small.ByteSize()},
        "left_in_float32": float_products(small),
    }
    return Session(graph), Session(small), facts


def measure(contenders: dict[str, Any], model: Any, length: int, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Time all of them on the same random tokens, in turns."""
    inputs = random_inputs(model, batch, length)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 2):  # two to warm up
        for name, call in contenders.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            call(inputs)
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, found in seconds.items():
        low, median, high = statistics.quantiles(found, n=4)
        rows.append({"tokens": length, "batch": batch, "engine": name, "seconds": median, "low": low, "high": high})
    for row in rows:
        row["times_faster"] = rows[0]["seconds"] / row["seconds"]
    return rows


def main() -> None:
    """Export both models, measure, and write results/onnx_int8.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a Linformer fine-tuned on the task")
    parser.add_argument("--task", default="sst2", help="or a file of labelled texts")
    parser.add_argument("--data", help="folder with the task's files")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 4096], help="tokens")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)

    longest = max(arguments.lengths)
    tuned: Any = AutoModelForSequenceClassification.from_pretrained(arguments.model, exact_length=0)
    if tuned.config.max_position_embeddings < longest:
        tuned.resize_max_length(longest)
    torch.manual_seed(0)
    base = LinformerForSequenceClassification(LinformerConfig(max_position_embeddings=longest))
    models = {name_of(arguments.model): tuned, "base size, random weights": base}
    rows, exports, accuracy = [], {}, None
    for name, model in models.items():
        console.print(f"exporting: {name}")
        model.eval().requires_grad_(False)
        full, small, exports[name] = sessions(model)
        if accuracy is None:
            with ReadProgress(console, "measuring the accuracy", unit="rows") as progress:
                part = labelled_rows(arguments.task, arguments.data, model, progress)
                tokenizer = AutoTokenizer.from_pretrained(arguments.model)
                accuracy = measure_accuracy(small, model, tokenizer, part, progress)
        contenders = {"torch": lambda inputs, model=model: run(model, inputs), "onnx": full, "onnx-int8": small}
        for length in arguments.lengths:
            console.print(f"measuring: {name}, {length:,} tokens")
            found = measure(contenders, model, length, arguments.batch_size, arguments.rounds)
            rows += [{"model": name, **row} for row in found]

    table = Table(title="Seconds a pass, medians and quartiles")
    for name in rows[0]:
        table.add_column(name, justify="left" if name in ("model", "engine") else "right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)
    assert accuracy is not None
    console.print(
        f"{accuracy['metric']} on {accuracy['source']}, {accuracy['rows']:,} rows: torch {accuracy['torch']:.4f}, int8 "
        f"{accuracy['onnx']:.4f}"
    )
    facts = {
        "command": " ".join(
            name_of(one) if Path(one).is_absolute() else one for one in [Path(__file__).name, *sys.argv[1:]]
        ),
        "environment": describe_environment(torch.device("cpu")),
        "onnx_versions": {name: version(name) for name in PACKAGES},
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "int8": SETTINGS,
        "exports": exports,
        "accuracy": accuracy,
        "times": rows,
    }
    path = arguments.output / "onnx_int8.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    console.print(f"written: {path}")


if __name__ == "__main__":
    main()
