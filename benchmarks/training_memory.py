"""Peak memory of one masked-LM training step at a long length: plain, activation checkpointing, streamed.

    python benchmarks/training_memory.py [--length 16384] [--chunk 1024] [--projected-dim 256]

Each cell runs in a fresh process: model, optimiser and gradients are made by a step at 64 tokens; then the peak
resident set (on CUDA the allocator's peak) of two steps at the full length, less what was held before them. Blocks of
1 MB and more go back to the system when they are freed (glibc's MALLOC_MMAP_THRESHOLD_), so that the peak is of memory
in use, not of what the allocator keeps: without that, a small working set between large tensors looks twice its size.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from result_files import write_csv
from rich.console import Console
from rich.table import Table

MODES = ("plain", "activation checkpointing", "streamed")


def cell(mode: str, arguments: argparse.Namespace) -> None:
    """Measure one mode in this process and print it as JSON."""
    import torch

    from linformers import LinformerConfig, LinformerForMaskedLM

    torch.manual_seed(0)
    device = torch.device(arguments.device)
    config = LinformerConfig(
        vocab_size=8192,
        hidden_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=2048,
        max_position_embeddings=arguments.length,
        projected_dim=arguments.projected_dim,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        stream_chunk_size=arguments.chunk if mode == "streamed" else None,
    )
    model = LinformerForMaskedLM(config).to(device).train()
    if mode == "activation checkpointing":
        model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(length: int) -> float:
        ids = torch.randint(5, 8192, (1, length), device=device)
        labels = torch.where(torch.rand(1, length, device=device) < 0.15, ids, -100)
        loss = model(ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return loss.item()

    def peak() -> int:
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    step(64)
    before = peak()
    losses, seconds = [], []
    for _ in range(2):
        start = time.perf_counter()
        losses.append(step(arguments.length))
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"mode": mode, "peak_mb": (peak() - before) / 1e6, "seconds": min(seconds), "loss": losses[0]}))


def main() -> None:
    """Measure all modes, print a table, write results/training_memory-<device>.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=16384, help="tokens")
    parser.add_argument("--chunk", type=int, default=1024, help="stream_chunk_size of the streamed cell")
    parser.add_argument("--projected-dim", type=int, default=256)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--cell", choices=MODES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        cell(arguments.cell, arguments)
        return

    console = Console()
    rows = []
    for mode in MODES:
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--cell", mode],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        console.print(f"{mode}: {rows[-1]['peak_mb']:.0f} MB, {rows[-1]['seconds']:.1f} s", highlight=False)
    table = Table(
        title=f"One training step, n = {arguments.length:,}, hidden 512, 4 layers, k = {arguments.projected_dim}"
    )
    for name in ("mode", "peak MB", "of checkpointing", "s a step", "loss"):
        table.add_column(name)
    reference = rows[1]["peak_mb"]
    for row in rows:
        row["of_checkpointing"] = row["peak_mb"] / reference
        table.add_row(
            row["mode"],
            f"{row['peak_mb']:.0f}",
            f"{row['of_checkpointing']:.2f}",
            f"{row['seconds']:.1f}",
            f"{row['loss']:.5f}",
        )
    console.print(table)

    notes = [
        "each cell in a process of its own with MALLOC_MMAP_THRESHOLD_=1000000",
        "hidden 512, 4 layers, intermediate 2048, vocabulary 8,192, batch 1, float32, AdamW",
    ]
    path = arguments.output / f"training_memory-{arguments.device}.csv"
    write_csv(path, rows, console, notes=notes, device=arguments.device)


if __name__ == "__main__":
    main()
