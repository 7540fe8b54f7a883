"""One attention layer, forward and forward + backward, against other packages and against its bare matrix products.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/attention_layer.py [--lengths 512 2048 8192] [--repeats 9] [--device cpu]

All contenders run in one process, one call each per round, in rotating order, so that a slow spell of the machine hits
all of them; the table gives medians over the rounds with the quartiles. Every table has a fresh process, since times
depend on the memory that earlier sizes left with the allocator. ``limit`` is the time of the matrix products
alone that a layer with E = F shared by the heads cannot do without (q, E X, two on the k slots, scores, weights times
values, output; backward twice as many), each by the fastest route found: no bias, no softmax, no allocation.
"""

import argparse
import multiprocessing
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from linformer import LinformerSelfAttention
from linformer_pytorch import MHAttention
from result_files import write_csv
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from linformers import KFreeAttention, LinformerAttention, SoftmaxAttention

HIDDEN, HEADS, SLOTS = 768, 12, 256
HEAD_DIM = HIDDEN // HEADS
MODES = ("forward", "forward+backward")
LIMIT = "limit (matrix products)"
RIVALS = ("linformer", "linformer-pytorch", "softmax (torch)")
CHUNKS = (256, 512, 1024)  # rows at a time, for the routes that keep a product's output in cache


class TorchAttention(nn.Module):
    """PyTorch's own layer, softmax over all n tokens by ``scaled_dot_product_attention``."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(1, n, hidden) to the same."""
        return self.attention(x, x, x, need_weights=False)[0]


def contenders(length: int) -> dict[str, nn.Module]:
    """The layers, by the names used in the table. Rivals as their own documentation builds them."""

    def ours(**options) -> LinformerAttention:
        return LinformerAttention(HIDDEN, HEADS, length, SLOTS, **options)

    return {
        "ours, key_value": ours(),
        "ours, headwise": ours(projection_sharing="headwise"),
        "ours, key_value, window 64": ours(local_window=64),
        "ours, mean_pool": ours(projection_kind="mean_pool"),
        "ours, mean_pool, window 64": ours(projection_kind="mean_pool", local_window=64),
        "ours, k-free": KFreeAttention(HIDDEN, HEADS),
        "ours, softmax": SoftmaxAttention(HIDDEN, HEADS),
        # The function of "ours, headwise"; `same_function` below compares the two.
        "linformer": LinformerSelfAttention(HIDDEN, length, k=SLOTS, heads=HEADS),
        # A smaller function: one head of keys, which are the values too.
        "linformer, one_kv_head, share_kv": LinformerSelfAttention(
            HIDDEN, length, k=SLOTS, heads=HEADS, one_kv_head=True, share_kv=True
        ),
        "linformer-pytorch": MHAttention(
            input_size=length,
            dim=HEAD_DIM,
            channels=HIDDEN,
            dim_k=SLOTS,
            nhead=HEADS,
            dropout=0,
            checkpoint_level="C0",
            parameter_sharing="headwise",
            E_proj=None,
            F_proj=None,
            full_attention=False,
            causal_mask=None,
        ),
        "softmax (torch)": TorchAttention(),
    }


@torch.no_grad()
def same_function(length: int = 512) -> float:
    """Largest difference of our headwise layer and ``linformer``'s with the same weights, to show they are one task."""
    layers = contenders(length)
    ours, theirs = layers["ours, headwise"], layers["linformer"]
    pairs = [("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("o_proj", "to_out")]
    for our_name, their_name in pairs:
        our, their = getattr(ours, our_name), getattr(theirs, their_name)
        our.weight.copy_(their.weight)
        our.bias.copy_(torch.zeros_like(our.bias) if their.bias is None else their.bias)
    ours.key_projection.weight.copy_(theirs.proj_k)
    ours.value_projection.weight.copy_(theirs.proj_v)
    x = torch.randn(1, length, HIDDEN)
    return (ours(x) - theirs(x)).abs().max().item()


@dataclass(frozen=True)
class Product:
    """``batch`` matrix products (rows, inner) x (inner, columns), with their operands and output."""

    left: Tensor
    right: Tensor
    out: Tensor

    def routes(self) -> list[Callable[[], object]]:
        """Ways to compute it: at once, and in blocks of rows."""
        rows = self.left.shape[1]
        routes: list[Callable[[], object]] = [lambda: torch.bmm(self.left, self.right, out=self.out)]
        if self.left.shape[0] == 1:
            left, right, out = self.left[0], self.right[0], self.out[0]
            routes.append(lambda: torch.mm(left, right, out=out))
            right_t = right.t().contiguous().t()  # the layout of a weight in nn.Linear
            routes.append(lambda: torch.mm(left, right_t, out=out))
        for chunk in CHUNKS:
            if chunk < rows:
                routes.append(lambda chunk=chunk: self._in_blocks(chunk))
        return routes

    def _in_blocks(self, chunk: int) -> None:
        for start in range(0, self.left.shape[1], chunk):
            left = self.left[:, start : start + chunk]
            torch.bmm(left, self.right, out=self.out[:, : left.shape[1]])  # the same block again: it stays in cache


def products(length: int, mode: str, device: str) -> Iterator[Product]:
    """The products of one layer with E = F; backward, two more for each: the gradients of its operands."""
    shapes = [
        (1, length, HIDDEN, HIDDEN),  # queries
        (1, SLOTS, length, HIDDEN),  # E X
        (1, SLOTS, HIDDEN, HIDDEN),  # keys of the slots
        (1, SLOTS, HIDDEN, HIDDEN),  # values of the slots
        (HEADS, length, HEAD_DIM, SLOTS),  # scores
        (HEADS, length, SLOTS, HEAD_DIM),  # weights times values
        (1, length, HIDDEN, HIDDEN),  # output
    ]
    for batch, rows, inner, columns in shapes:
        needed = [(rows, inner, columns)]
        if mode != "forward":
            needed += [(rows, columns, inner), (inner, rows, columns)]
        for m, k, n in needed:
            yield Product(*(torch.randn(batch, *size, device=device) for size in ((m, k), (k, n), (m, n))))


def measure(length: int, mode: str, repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of each round of each contender, and of the limit."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")
    # In inference PyTorch's layer would take a "fast path" that writes out all n x n scores: 3.4 times slower.
    torch.backends.mha.set_fastpath_enabled(False)

    def seconds(call: Callable[[], object]) -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    x = torch.randn(1, length, HIDDEN, device=device, requires_grad=mode != "forward")
    gradient = torch.randn(1, length, HIDDEN, device=device)

    def task(layer: nn.Module) -> Callable[[], object]:
        if mode == "forward":
            return lambda: layer(x)
        return lambda: layer(x).backward(gradient)

    layers = {name: layer.to(device).train(mode != "forward") for name, layer in contenders(length).items()}
    tasks = [(name, task(layer)) for name, layer in layers.items()]
    bare = [product.routes() for product in products(length, mode, device)]
    times: dict[str, list[float]] = {name: [] for name in layers}
    bare_times: list[list[list[float]]] = [[[] for _ in routes] for routes in bare]
    for turn in range(-2, repeats):  # two rounds of warm-up
        with torch.inference_mode(mode == "forward"):
            for name, call in tasks[turn % len(tasks) :] + tasks[: turn % len(tasks)]:
                x.grad = None
                layers[name].zero_grad(set_to_none=True)
                elapsed = seconds(call)
                if turn >= 0:
                    times[name].append(elapsed)
        with torch.inference_mode():
            for routes, route_times in zip(bare, bare_times, strict=True):
                for route, kept in zip(routes, route_times, strict=True):
                    elapsed = seconds(route)
                    if turn >= 0:
                        kept.append(elapsed)
    fastest = [min(route_times, key=statistics.median) for route_times in bare_times]
    times[LIMIT] = [sum(round_times) for round_times in zip(*fastest, strict=True)]
    return times


def summarise(times: dict[str, list[float]]) -> list[dict[str, str | float]]:
    """A row per contender: median and quartiles in ms, times faster than each rival, share of the limit."""
    median = {name: statistics.median(kept) for name, kept in times.items()}
    rows = []
    for name, kept in times.items():
        low, _, high = statistics.quantiles(kept, n=4) if len(kept) > 1 else (kept[0],) * 3
        row: dict[str, str | float] = {"layer": name, "ms": median[name] * 1e3, "q1": low * 1e3, "q3": high * 1e3}
        row |= {f"x {rival}": median[rival] / median[name] for rival in RIVALS}
        rows.append(row | {"of limit": median[LIMIT] / median[name]})
    return rows


def hardware(device: str) -> str:
    """What it ran on, in words."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    model = names[0] if names else platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def show(console: Console, title: str, rows: list[dict[str, str | float]]) -> None:
    """Print one table."""
    table = Table(title=title, title_justify="left")
    for name in ("layer", "ms (quartiles)", *(f"x {rival}" for rival in RIVALS), "of limit"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for row in rows:
        ratios = [f"{row[f'x {rival}']:.2f}" for rival in RIVALS]
        milliseconds = f"{row['ms']:.1f} ({row['q1']:.1f}-{row['q3']:.1f})"
        table.add_row(str(row["layer"]), milliseconds, *ratios, f"{row['of limit']:.2f}")
    console.print(table)


def main() -> None:
    """Measure, print, and write results/attention_layer-<hardware>-torch<version>.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192], help="sequence lengths, in tokens")
    parser.add_argument("--repeats", type=int, default=9, help="rounds, after two of warm-up")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    console = Console(width=None if sys.stdout.isatty() else 140)
    machine = hardware(arguments.device)
    packages = ("linformers", "torch", "linformer", "linformer-pytorch")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    setting = f"hidden {HIDDEN}, {HEADS} heads, k = {SLOTS}, batch 1, float32"
    console.print(f"{machine}\n{versions}\n{setting}; largest difference from linformer: {same_function():.1e}\n")

    results = []
    for length in arguments.lengths:
        for mode in MODES:
            with multiprocessing.get_context("spawn").Pool(1) as fresh:
                rows = summarise(fresh.apply(measure, (length, mode, arguments.repeats, arguments.device)))
            show(console, f"n = {length}, {mode}", rows)
            results += [{"length": length, "mode": mode} | row for row in rows]

    slug = re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")
    path = arguments.output / f"attention_layer-{slug}-torch{torch.__version__.split('+')[0]}.csv"
    notes = [setting, "ms: median of the rounds; q1, q3: quartiles; x NAME: times faster than it; of limit: its share"]
    write_csv(path, results, console, notes=notes, device=arguments.device, packages=packages)


if __name__ == "__main__":
    main()
