"""The review queue of a run: rows that a label's probability flags, the surest first, with their texts, for people."""

import csv
import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from linformers.files.folders import write_file
from linformers.files.inputs import Input
from linformers.scoring.gather import rows_of_shard, run_folder, shards_of
from linformers.scoring.units import INTACT
from linformers.scoring.work import Job

QUEUE = "queue"
CHARACTERS = 10_000  # of a text that a queue keeps
ROWS = 100_000  # of a queue: the surest
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run


def flagging(probabilities: Mapping[str, float], queue: Mapping[str, float]) -> str | None:
    """The label that flags a row: of those that reach their threshold, the one with the highest probability.

    >>> flagging({"ham": 0.1, "spam": 0.9}, {"spam": 0.8})
    'spam'
    """
    reached = [label for label, least in queue.items() if probabilities[label] >= least]
    return max(reached, key=lambda label: probabilities[label], default=None)


def write_queue(job: Job, files: Sequence[Input], run: int) -> tuple[Path, int]:
    """Write the queue of a run as CSV and Parquet.

    Args:
        job: A scoring job with ``queue`` in its settings.
        files: Files of the run.
        run: Number of the run.

    Returns:
        The path of the CSV file, and how many rows it has: no more than 100,000, the surest.

    Raises:
        DiskFullError: No space is left; the shards are intact.
    """
    rows = heapq.nlargest(ROWS, _flagged(job, files), key=lambda row: row["probability"])
    names = {name: pa.int64() if kind == "int64" else pa.string() for name, kind in job.wanted.carried.items()}
    schema = pa.schema(
        {"probability": pa.float32(), "label": pa.string(), **names, "file": pa.string()}
        | ({} if names else {"row": pa.int64()})
        | {"text": pa.string()}
    )
    path = run_folder(job, run) / f"{QUEUE}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)

    def write_lines(target: Path) -> None:
        # With a mark of UTF-8, by which Excel knows it.
        with target.open("w", newline="", encoding="utf-8-sig", errors="backslashreplace") as file:
            lines = csv.writer(file)
            lines.writerow(schema.names)
            for row in rows:
                lines.writerow([f"{row['probability']:.4f}", *(_harmless(row[name]) for name in schema.names[1:])])

    write_file(path, write_lines, intact=INTACT)
    table = pa.Table.from_pylist(rows, schema=schema)
    write_file(path.with_suffix(".parquet"), lambda target: pq.write_table(table, target), intact=INTACT)
    return path, len(rows)


def _flagged(job: Job, files: Sequence[Input]) -> Iterator[dict[str, Any]]:
    for file, shard in shards_of(job, files):
        for row in rows_of_shard(shard):
            if row["flagged"]:
                label = flagging(row["probabilities"], job.settings.queue)
                ids = {name: row[name] for name in job.wanted.carried} or {"row": row["row"]}
                found = {"label": label, **ids, "file": file.name, "text": row["text"]}
                yield {"probability": row["probabilities"][label], **found}


def _harmless(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
