"""What one run has added, as one file beside the shards: for whoever has thirty-one mails, not thirty-one folders."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from linformers.files.folders import write_file
from linformers.files.inputs import Input
from linformers.scoring.units import INTACT, read_notes
from linformers.scoring.work import Job

RUNS = "runs"
GATHERED = 100_000  # rows of a run that has more are in the shards alone


def run_folder(job: Job, run: int) -> Path:
    """Folder of the files of one run."""
    return Path(job.settings.output) / RUNS / f"{run:04}"


def shards_of(job: Job, files: Sequence[Input]) -> Iterator[tuple[Input, Path]]:
    """The shards of files that are done, in order."""
    for file in files:
        folder = job.shards / file.key
        for note in read_notes(folder, job.format):
            yield file, folder / f"{note['first']:012}-{note['last']:012}.{job.format}"


def gather(job: Job, files: Sequence[Input], run: int, rows: int) -> Path | None:
    """Write the rows of a run's files into one file, each with the name of its file.

    Args:
        job: What was done.
        files: Files of the run.
        run: Number of the run.
        rows: How many rows there are.

    Returns:
        The path of the file; None where there are no rows, or more than 100,000.

    Raises:
        DiskFullError: No space is left; the shards are intact.
    """
    if not 0 < rows <= GATHERED:
        return None
    path = run_folder(job, run) / f"{job.SHARDS}.{job.format}"

    def write(target: Path) -> None:
        (_write_parquet if job.format == "parquet" else _write_lines)(target, shards_of(job, files))

    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, write, intact=INTACT)
    return path


def _write_parquet(target: Path, shards: Iterator[tuple[Input, Path]]) -> None:
    writer: pq.ParquetWriter | None = None
    try:
        for file, shard in shards:
            table = pq.ParquetFile(shard).read().replace_schema_metadata(None)
            if "file" not in table.column_names:
                table = table.add_column(0, "file", pa.array([file.name] * len(table), pa.string()))
            writer = writer or pq.ParquetWriter(target, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _write_lines(target: Path, shards: Iterator[tuple[Input, Path]]) -> None:
    with target.open("w", encoding="utf-8") as lines:
        for file, shard in shards:
            for row in rows_of_shard(shard):
                lines.write(json.dumps({"file": file.name, **row}, ensure_ascii=False) + "\n")


def rows_of_shard(shard: Path) -> Iterator[dict[str, Any]]:
    """Rows of a shard, of either format."""
    if shard.suffix == ".parquet":
        yield from pq.ParquetFile(shard).read().to_pylist()
        return
    with shard.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)
