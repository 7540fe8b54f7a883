"""The limit of the machine: an encoder's bare matrix products, by the fastest route found, in the same process.

No bias, activation, softmax, norm or allocation: what an encoder takes beyond this is the part that code can change.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from linformers.measure.cell import Workload, build_model
from linformers.models import LinformerConfig

_ROWS = 8192  # longer products are timed on so many rows and scaled: that is far beyond any cache already
_CHUNKS = (128, 256, 512, 1024)  # rows at a time, for the routes that keep a product's output in cache


@dataclass(frozen=True)
class Product:
    """``count`` times ``batch`` matrix products (rows, inner) x (inner, columns).

    ``long`` says which side grows with the sequence: ``rows``, or ``inner`` in E X.
    """

    name: str
    rows: int
    inner: int
    columns: int
    batch: int = 1
    count: int = 1
    long: str = "rows"

    @property
    def flops(self) -> float:
        """Additions and multiplications of all of them."""
        return 2.0 * self.count * self.batch * self.rows * self.inner * self.columns

    @property
    def scale(self) -> float:
        """How many times longer it is than what is timed."""
        return max(getattr(self, self.long) / _ROWS, 1.0)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """An encoder's time beside that of its matrix products.

    Args:
        seconds: of a pass, median over the rounds.
        seconds_best: of the fastest pass.
        limit: seconds of the products, medians of the fastest routes.
        limit_best: of the fastest calls.
        fraction: ``limit / seconds``.
        gflops: of the products, a second.
        routes: the fastest route of each product.
    """

    seconds: float
    seconds_best: float
    limit: float
    limit_best: float
    fraction: float
    gflops: float
    routes: dict[str, str]


def products(config: LinformerConfig, length: int) -> list[Product]:
    """The matrix products that a pass over one sequence cannot do without, over all layers.

    With E shared by the heads keys and values are projected from the k slots: that is the fewest. Not counted is how
    slots are placed that follow the data: it takes a sample of the tokens, whatever the length.

    Raises:
        ValueError: attention whose products are not worked out here.
    """
    n, d, heads = length, config.hidden_size, config.num_attention_heads
    found: dict[tuple, Product] = {}

    def add(name: str, rows: int, inner: int, columns: int, batch: int = 1, count: int = 1, long: str = "rows") -> None:
        key = (name, rows, inner, columns, batch)
        total = count + (found[key].count if key in found else 0)
        found[key] = Product(name, rows, inner, columns, batch, total, long)

    for kind, k in config.layer_attention:
        if kind == "kfree" or config.local_window or config.global_tokens or config.projection_sharing == "none":
            raise ValueError(
                "the limit is worked out for softmax and Linformer layers without a local window, global tokens or "
                "projections per head: set local_window=0, global_tokens=0 and another projection_sharing"
            )
        if kind != "none":
            add("queries", n, d, d)
            add("output", n, d, d)
            if n <= config.exact_length:
                k = None
            if k is not None:
                shared = config.projection_sharing in ("key_value", "layerwise")
                if config.projection_kind == "linear":
                    add("E X", k, n, d, count=1 if shared else 2, long="inner")
            # A maximum cannot be taken before the features are projected, nor can weights that come from the keys.
            rows = n if k is None or config.projection_kind in ("max_pool", "attention_pool", "cluster") else k
            add("keys and values", rows, d, d, count=2)
            add("scores", n, d // heads, k or n, batch=heads)
            add("weights times values", n, k or n, d // heads, batch=heads)
            if k is not None and config.projection_kind in ("attention_pool", "cluster"):
                if config.projection_kind == "cluster":
                    add("nearest centroids", n, d // heads, k, batch=heads)
                add("slope", d // heads, n, d // heads, batch=heads, long="inner")
                add("queries times slope", n, d // heads, d // heads, batch=heads)
        add("up", n, d, config.intermediate_size)
        add("down", n, config.intermediate_size, d)
    return list(found.values())


def routes(product: Product, dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], object]]:
    """Ways to compute one product, operands and output made beforehand."""
    rows, inner = (min(size, _ROWS) if product.long == side else size
                   for side, size in (("rows", product.rows), ("inner", product.inner)))  # fmt: skip
    make = partial(torch.randn, dtype=dtype, device=device)
    batch = (product.batch,) if product.batch > 1 else ()
    left, right = make(*batch, rows, inner), make(*batch, inner, product.columns)
    out = make(*batch, rows, product.columns)
    found: dict[str, Callable[[], object]] = {"matmul, out=": lambda: torch.matmul(left, right, out=out)}
    rights = {"": right}
    if not batch:
        weight = right.t().contiguous()  # as nn.Linear holds it
        bias = make(product.columns)
        found["x @ w.t()"] = lambda: left @ weight.t()
        found["F.linear"] = lambda: F.linear(left, weight)
        found["matmul, w.t(), out="] = lambda: torch.matmul(left, weight.t(), out=out)
        found["addmm, out="] = lambda: torch.addmm(bias, left, weight.t(), out=out)
        rights["w.t(), "] = weight.t()
    for chunk in _CHUNKS:
        if chunk < rows:
            parts, block = left.split(chunk, dim=-2), make(*batch, chunk, product.columns)
            if batch:  # fused attention reads what it has just made, so here the operand stays in cache as well
                first = parts[0].contiguous()
                parts = [first[:, : part.shape[1]] for part in parts]
            for name, operand in rights.items():
                found[f"{name}chunks of {chunk}"] = partial(_in_chunks, parts, operand, block)
    return found


def _in_chunks(parts: Sequence[Tensor], right: Tensor, block: Tensor) -> None:
    for part in parts:
        torch.matmul(part, right, out=block[..., : part.shape[-2], :])  # the same block again: it stays in cache


@torch.inference_mode()
def measure_limit(task: Workload, rounds: int = 5, clock: Callable[[], float] = time.perf_counter) -> Limit:
    """Time an encoder of ours and its products, in rounds, so that a slow spell of the machine hits both.

    Args:
        task: a forward pass of batch 1; its repeats do not count.
        rounds: passes of the encoder, and of each route, after one that is not counted.
        clock: seconds; ``time.process_time`` with one thread leaves out what other programs take.

    Raises:
        ValueError: another kind of encoder.
    """
    if task.model_type != "linformer" or task.batch_size != 1 or task.training or task.eager:
        raise ValueError(f"{task.name}: the limit is worked out for forward passes of our encoder over one sequence")
    model = build_model(task)
    tokens = torch.randint(5, model.config.vocab_size, (1, task.length), device=task.device)
    wanted = products(model.config, task.length)  # type: ignore[arg-type]
    dtype, device = getattr(torch, task.dtype), torch.device(task.device)
    calls = [routes(product, dtype, device) for product in wanted]
    passes: list[float] = []
    times: list[dict[str, list[float]]] = [{name: [] for name in ways} for ways in calls]
    for turn in range(-1, rounds):
        elapsed = _seconds(lambda: model(tokens).last_hidden_state, device, clock)
        passes += [elapsed] if turn >= 0 else []
        for ways, kept in zip(calls, times, strict=True):
            for name, call in ways.items():
                elapsed = _seconds(call, device, clock)
                if turn >= 0:
                    kept[name].append(elapsed)
    chosen = [min(kept, key=lambda name, kept=kept: statistics.median(kept[name])) for kept in times]
    limit = _total(wanted, [statistics.median(kept[name]) for kept, name in zip(times, chosen, strict=True)])
    limit_best = _total(wanted, [min(map(min, kept.values())) for kept in times])
    seconds = statistics.median(passes)
    return Limit(
        seconds=seconds,
        seconds_best=min(passes),
        limit=limit,
        limit_best=limit_best,
        fraction=limit / seconds,
        gflops=sum(product.flops for product in wanted) / limit / 1e9,
        routes={product.name: name for product, name in zip(wanted, chosen, strict=True)},
    )


def _total(wanted: Sequence[Product], seconds: Sequence[float]) -> float:
    return sum(p.count * p.scale * one for p, one in zip(wanted, seconds, strict=True))


def _seconds(call: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    begin = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - begin
