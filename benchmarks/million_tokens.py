"""A base-size model over a million tokens: seconds a token and memory, against 16,384 tokens.

    python benchmarks/million_tokens.py [--length 1048576]

12 layers, hidden 768, 12 heads, k = 256, mean-pooled slots, float32, random weights and tokens. The position table of a
model for 16,384 tokens is tiled to the full length, as in a converted model. Peak memory is the resident set.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from linformers import LinformerConfig, LinformerModel
from linformers.files.environment import command_line, describe_environment

SHORT = 16_384


def gigabytes() -> float:
    """The most memory the process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


@torch.inference_mode()
def seconds(model: LinformerModel, length: int, repeats: int) -> list[float]:
    """Of passes over one text."""
    tokens, found = torch.randint(5, model.config.vocab_size, (1, length)), []
    for _ in range(repeats):
        start = time.perf_counter()
        states = model(tokens).last_hidden_state
        found.append(time.perf_counter() - start)
        assert states[0, ::1024].isfinite().all()  # of all of them it would take memory of its own
    return found


def main() -> None:
    """Measure, and write results/million_tokens.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=2**20, help="tokens")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    torch.manual_seed(0)
    config = LinformerConfig(
        vocab_size=30_000,
        num_hidden_layers=arguments.layers,
        max_position_embeddings=SHORT,
        projected_dim=256,
        projection_kind="mean_pool",
    )
    model = LinformerModel(config).eval()
    # Before and after: what else the machine does changes over the minutes.
    short = seconds(model, SHORT, 4)[1:]
    model.resize_max_length(arguments.length)
    held = gigabytes()
    console.print(f"{SHORT:,} tokens: {statistics.median(short):.1f} s; reading {arguments.length:,} ...")
    (long,) = seconds(model, arguments.length, 1)
    peak = gigabytes()
    short += seconds(model, SHORT, 3)
    per_token = {SHORT: statistics.median(short) / SHORT, arguments.length: long / arguments.length}
    found: dict[str, Any] = {
        "command": command_line(),
        "environment": describe_environment(torch.device("cpu")),
        "layers": arguments.layers,
        "seconds": {SHORT: short, arguments.length: long},
        "microseconds_per_token": {length: 1e6 * value for length, value in per_token.items()},
        "ratio": per_token[arguments.length] / per_token[SHORT],
        "gigabytes": {
            "weights": sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9,
            "hidden states": 4 * 768 * arguments.length / 1e9,
            "peak before": held,
            "peak": peak,
        },
    }
    path = arguments.output / "million_tokens.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    console.print(
        f"{arguments.length:,} tokens: {long:.0f} s, {1e6 * per_token[arguments.length]:.0f} us a token, "
        f"{found['ratio']:.2f} of that at {SHORT:,}; peak {peak:.1f} GB\nwritten: {path}"
    )


if __name__ == "__main__":
    main()
