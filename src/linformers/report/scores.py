"""The report of scores or vectors: what the last run read, what was rejected and why, and its review queue."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from linformers.report import words
from linformers.report.document import Report, Section, Table, machine
from linformers.report.pages import shown
from linformers.scoring.gather import RUNS, rows_of_shard
from linformers.scoring.queue import QUEUE

SHOWN = 50  # rows of the queue


def scores(folder: Path, results: dict[str, Any]) -> Report:
    """What ``results.json`` of ``linformers score`` or ``embed`` holds, with the queue beside it, as a page."""
    done, shards = ("scored", "scores") if results["kind"].endswith("score") else ("embedded", "embeddings")
    new, whole, run = results["new"]["counts"], results["counts"], results["run"]
    sections: list[Any] = []
    files = folder / RUNS / f"{run:04}"
    queue = results["options"].get("queue")
    if queue:
        sections.append(Section(title="Review queue", blocks=_queue(files / f"{QUEUE}.parquet", queue, new)))
    gathered = files / f"{shards}.{results['options'].get('format', 'parquet')}"
    if labels := _labels(gathered):
        rows = [(label, f"{count:,}", f"{count / sum(labels.values()):.1%}") for label, count in labels.most_common()]
        what = "entities" if new.get("entities") else "documents"
        sections.append(Table(caption="Labels of this run", head=["label", what, "share"], rows=rows))
    names = [name for name in whole if name not in ("reasons", "shards")]
    counts = [(name.replace("_", " "), f"{new[name]:,}", f"{whole[name]:,}") for name in names]
    head = ["what", f"run {run}", "all runs"]
    blocks: list[Any] = [Table(caption="Counts", head=head, rows=counts)]
    if whole["reasons"]:
        reasons = [
            (name, f"{new['reasons'].get(name, 0):,}", f"{count:,}") for name, count in sorted(whole["reasons"].items())
        ]
        blocks.append(
            Table(caption="Rejected rows; rejects.jsonl names each", head=["reason", *head[1:]], rows=reasons)
        )
    if results["files_not_read"]:
        unread = [(name,) for name in results["files_not_read"][:SHOWN]]
        caption = f"Files that no reader takes: {len(results['files_not_read']):,}"
        blocks.append(Table(caption=caption, head=["file"], rows=unread, words=True))
    sections.append(Section(title="What was read", blocks=blocks))
    model, options = (
        [(name.replace("_", " "), shown(value)) for name, value in found.items() if not isinstance(value, dict)]
        for found in (results["model"], results["options"])
    )
    tables = [
        Table(caption=caption, head=["what", "value"], rows=rows, words=True)
        for caption, rows in (("Model", model), ("Options", options))
    ]
    sections.append(Section(title="With what", blocks=tables))
    return Report(
        title=f"{shards.capitalize()}: {folder.resolve().name}",
        lead=f"Run {run} over {results['new']['files']:,} files; the folder holds {results['files']:,}.",
        facts=[
            (f"Documents {done}", f"{new[done]:,}", f"{whole[done]:,} in all runs"),
            ("Rows rejected", f"{new['rejected']:,}", f"of {new['rows']:,} rows in"),
            *([("Queued for review", f"{new['flagged']:,}", "")] if queue else []),
        ],
        sections=sections,
        made=[
            ("Command", results["command"]),
            ("Time of the last start", words.seconds(results["seconds"])),
            *machine(results["environment"]),
        ],
    )


def _queue(path: Path, queue: dict[str, float], new: dict[str, Any]) -> Sequence[Any]:
    asked = ", ".join(f"{label} from {least:g}" for label, least in queue.items())
    if not new["flagged"] or not path.is_file():
        return [f"Nothing of this run reaches a threshold ({asked})."]
    rows = pq.read_table(path).slice(0, SHOWN).to_pylist()
    names = [name for name in rows[0] if name not in ("probability", "text")]
    shown = [
        (f"{row['probability']:.4f}", *(row[name] for name in names), words.beginning(row["text"])) for row in rows
    ]
    caption = f"The surest {len(rows):,} of {new['flagged']:,} ({asked}); all are in {path.with_suffix('.csv').name}"
    return [Table(caption=caption, head=["probability", *names, "text"], rows=shown, words=True)]


def _labels(gathered: Path) -> Counter[str]:
    """How many rows, or entities, have each label, where there are some."""
    if not gathered.is_file():
        return Counter()
    if gathered.suffix == ".parquet":
        columns = [name for name in ("label", "entities") if name in pq.read_schema(gathered).names]
        rows = pq.read_table(gathered, columns=columns).to_pylist() if columns else []
    else:
        rows = list(rows_of_shard(gathered))
    found: Counter[str] = Counter()
    for row in rows:
        labels = [one["label"] for one in row["entities"]] if "entities" in row else row.get("label")
        found.update(labels if isinstance(labels, list) else [labels] if labels else [])
    return found
