"""One GPU in a few minutes: layer, encoder and training step beside PyTorch's fused softmax and FlashAttention.

    make gpu                     tests/gpu first, then this; together at most eight minutes
    python benchmarks/gpu_times.py [--device cuda] [--lengths 512 2048 ...] [--minutes 5]
    python benchmarks/gpu_times.py --device cpu --lengths 128 512 --layers 1 --hidden-size 64 --output runs/gpu

bfloat16, one sequence, random weights. ``softmax, fused`` is ``scaled_dot_product_attention`` with PyTorch's
memory-efficient kernel, ``softmax, flash`` the same with FlashAttention; both are this package's classes around them,
as ours are. A layer has no gradients; an encoder reads token ids without gradients; a training step is forward,
backward and AdamW. ``causal`` is beside FlashAttention with a causal mask. Short lengths come first; when the minutes
are over, what is left is listed as not measured. Milliseconds are medians, peak memory is what a pass takes beyond the
weights.
"""

import argparse
import itertools
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from result_files import write_csv
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from linformers import CausalLinformerAttention, KFreeAttention, LinformerAttention, SoftmaxAttention
from linformers.files.environment import describe_environment
from linformers.measure.cell import Workload, measure_cell, reports_lack_of_memory
from linformers.measure.memory import DoesNotFit, peak_bytes, start_peak

LENGTHS = (512, 2048, 8192, 32768, 131072)
FUSED, FLASH = SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION
RIVALS = {"softmax, fused": FUSED, "softmax, flash": FLASH}
TRAINED_UP_TO = 32768  # tokens: beyond, activations of an encoder take more than most cards have
REPEATS, SECONDS = 7, 1.5


@dataclass(frozen=True)
class Sizes:
    """Shape of all contenders."""

    hidden_size: int = 768
    heads: int = 12
    layers: int = 6


class CausalSoftmax(nn.Module):
    """Causal softmax attention by the kernel of PyTorch, over the projections of ``SoftmaxAttention``."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.attention = SoftmaxAttention(hidden_size, heads)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n, hidden) to the same."""
        a = self.attention
        query, keys, values = (a.split_heads(linear(x)) for linear in (a.q_proj, a.k_proj, a.v_proj))
        return a.o_proj(a.merge_heads(F.scaled_dot_product_attention(query, keys, values, is_causal=True)))


def layers(sizes: Sizes, n: int) -> dict[str, Callable[[], nn.Module]]:
    """What builds each layer, by its name in the table."""
    d, h = sizes.hidden_size, sizes.heads
    return {
        "linear, k = 256": lambda: LinformerAttention(d, h, n, 256),
        "mean_pool, k = 256": lambda: LinformerAttention(d, h, None, 256, projection_kind="mean_pool"),
        "mean_pool, k = 256, window 64": lambda: LinformerAttention(
            d, h, None, 256, projection_kind="mean_pool", local_window=64
        ),
        "cluster, k = 128": lambda: LinformerAttention(d, h, None, 128, projection_kind="cluster"),
        "k-free": lambda: KFreeAttention(d, h),
        "causal, segments of 256": lambda: CausalLinformerAttention(d, h),
        **{name: lambda: SoftmaxAttention(d, h) for name in RIVALS},
        "causal softmax, flash": lambda: CausalSoftmax(d, h),
    }


def encoders(sizes: Sizes, n: int) -> dict[str, dict[str, Any]]:
    """Fields of ``LinformerConfig`` by the name in the table."""
    shape = {
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": 4 * sizes.hidden_size,
        "vocab_size": 8192,
        "max_position_embeddings": n,
    }
    kinds: dict[str, dict[str, Any]] = {
        "linear, k = 256": {"projected_dim": 256},
        "cluster, k = 128": {"projected_dim": 128, "projection_kind": "cluster"},
        "k-free": {"attention_type": "kfree"},
        **{name: {"attention_type": "softmax"} for name in RIVALS},
    }
    return {name: shape | fields for name, fields in kinds.items()}


def kernel_of(name: str) -> Any:
    """The context in which a contender runs: rivals have the kernel that they are named after."""
    backend = FLASH if name.endswith("flash") else RIVALS.get(name)
    return nullcontext() if backend is None else sdpa_kernel(backend)


def measure_layer(build: Callable[[], nn.Module], sizes: Sizes, n: int, device: str) -> dict[str, Any]:
    """Milliseconds and peak memory of one layer without gradients.

    Raises:
        DoesNotFit: It takes more memory than there is.
    """
    place = torch.device(device)

    def wait() -> None:
        if place.type == "cuda":
            torch.cuda.synchronize()

    with reports_lack_of_memory(None), torch.inference_mode():
        torch.manual_seed(0)
        layer = build().to(place, torch.bfloat16).eval()
        x = torch.randn(1, n, sizes.hidden_size, device=place, dtype=torch.bfloat16)
        layer(x)
        wait()
        before, times, began = start_peak(place), [], time.perf_counter()
        while not times or (len(times) < REPEATS and time.perf_counter() - began < SECONDS):
            start = time.perf_counter()
            layer(x)
            wait()
            times.append(time.perf_counter() - start)
        after = peak_bytes(place)
    peak = None if before is None or after is None else max(after - before, 0)
    return _row(statistics.median(times), min(times), max(times), peak)


def measure_encoder(name: str, fields: dict[str, Any], n: int, device: str, training: bool) -> dict[str, Any]:
    """Milliseconds and peak memory of an encoder or of a step of its training.

    Raises:
        DoesNotFit: It takes more memory than there is.
    """
    found = measure_cell(
        Workload(
            name=name,
            fields=fields,
            length=n,
            device=device,
            dtype="bfloat16",
            training=training,
            repeats=REPEATS,
            seconds_limit=SECONDS,
        )
    )
    return _row(found.seconds, found.seconds_min, found.seconds_max, found.peak_bytes)


def _row(median: float, lowest: float, highest: float, peak: int | None) -> dict[str, Any]:
    megabytes = "" if peak is None else peak / 1e6
    return {"ms": median * 1e3, "ms_min": lowest * 1e3, "ms_max": highest * 1e3, "peak_mb": megabytes, "problem": ""}


def cells(
    sizes: Sizes, lengths: list[int], device: str
) -> Iterator[tuple[str, int, str, Callable[[], dict[str, Any]]]]:
    """Everything to measure, the short texts first: what, tokens, name, and what measures it."""
    for n in sorted(lengths):
        for name, build in layers(sizes, n).items():
            yield "layer", n, name, lambda build=build, n=n: measure_layer(build, sizes, n, device)
        for what in ("encoder", "training step") if n <= TRAINED_UP_TO else ("encoder",):
            for name, fields in encoders(sizes, n).items():
                training = what != "encoder"
                yield (
                    what,
                    n,
                    name,
                    lambda name=name, fields=fields, n=n, training=training: measure_encoder(
                        name, fields, n, device, training
                    ),
                )


def measure(sizes: Sizes, lengths: list[int], device: str, minutes: float, console: Console) -> list[dict[str, Any]]:
    """Every cell, until the minutes are over; what fails or is left out says so in its row."""
    end = time.perf_counter() + 60 * minutes
    none = {"ms": "", "ms_min": "", "ms_max": "", "peak_mb": ""}
    rows = []
    for what, n, name, run in cells(sizes, lengths, device):
        found: dict[str, Any]
        if time.perf_counter() > end:
            found = none | {"problem": "not measured: time was over"}
        else:
            try:
                with kernel_of(name):
                    found = run()
            except DoesNotFit as error:
                found = none | {"problem": str(error)}
            except RuntimeError as error:  # no kernel of that name on this device, for this type or size
                found = none | {"problem": str(error).splitlines()[0]}
            if device == "cuda":
                torch.cuda.empty_cache()
        rows.append({"what": what, "length": n, "name": name, **found})
        said = found["problem"] or f"{found['ms']:.3g} ms"
        console.print(f"{what}, {n:,} tokens, {name}: {said}")
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """A table for each thing measured: milliseconds by length."""
    for what, group in itertools.groupby(sorted(rows, key=lambda row: row["what"]), key=lambda row: row["what"]):
        found = list(group)
        lengths = sorted({row["length"] for row in found})
        table = Table(title=f"{what}, ms", title_justify="left")
        table.add_column("")
        for n in lengths:
            table.add_column(f"{n:,}", justify="right")
        for name in dict.fromkeys(row["name"] for row in found):
            of = {row["length"]: row["ms"] for row in found if row["name"] == name}
            table.add_row(name, *(f"{of[n]:.3g}" if of.get(n) else "" for n in lengths))
        console.print(table)


def main() -> None:
    """Measure, print, and write results/gpu-<card>.csv."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to see that the script runs")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="tokens")
    parser.add_argument("--minutes", type=float, default=5.0, help="no cell starts after so many")
    parser.add_argument("--hidden-size", type=int, default=Sizes.hidden_size)
    parser.add_argument("--heads", type=int, default=Sizes.heads)
    parser.add_argument("--layers", type=int, default=Sizes.layers, help="of encoders")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device: run where there is one, or give --device cpu and small sizes")
    sizes = Sizes(arguments.hidden_size, arguments.heads, arguments.layers)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    machine = describe_environment(torch.device(arguments.device))
    card = machine["device"] if arguments.device == "cuda" else machine["processor"]
    console.print(f"{card}; torch {torch.__version__}; {sizes}")
    rows = measure(sizes, arguments.lengths, arguments.device, arguments.minutes, console)
    show(rows, console)
    slug = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    notes = [f"{sizes}, bfloat16, batch 1; layers and encoders without gradients; peak_mb: beyond the weights"]
    write_csv(arguments.output / f"gpu-{slug}.csv", rows, console, notes=notes, device=arguments.device)


if __name__ == "__main__":
    main()
