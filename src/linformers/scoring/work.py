"""Scoring one unit: what every process of every engine does."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from linformers.data.tokenise import Tokens
from linformers.files.inputs import Input
from linformers.files.rows import Wanted
from linformers.scoring.networks import Network
from linformers.scoring.scorer import Scorer, Scores
from linformers.scoring.settings import ScoreSettings
from linformers.scoring.units import Done, Unit, find_done, read_units, write_unit

SHARDS = "scores"
SCORED = ("label", "probabilities", "value", "flagged", "embedding")  # columns that a shard may get beside the ids


@dataclass(frozen=True)
class Job:
    """What is to be done, for one process or many."""

    settings: ScoreSettings
    files: list[Input]
    wanted: Wanted

    @property
    def shards(self) -> Path:
        """Folder of all shards."""
        return Path(self.settings.output) / SHARDS

    def done(self, file: Input) -> Done:
        """What is done of a file."""
        return find_done(self.shards / file.key, self.settings.format)

    def units(self, file: Input, done: Done) -> Iterator[Unit]:
        """The units of a file that are not done."""
        return read_units(file, self.wanted, self.settings, done)


def encode_unit(scorer: Scorer, unit: Unit) -> Tokens:
    """Tokens of a unit; texts without any are rejected."""
    tokens = scorer.encode(unit.texts, unit.pairs or None)
    empty = set(tokens.empty)
    for place in tokens.empty:
        unit.reject(unit.lines[place], "empty: the tokenizer finds no token", unit.texts[place])
    unit.texts, unit.pairs = [], []  # they are needed no more
    unit.lines = [line for place, line in enumerate(unit.lines) if place not in empty]
    unit.ids = [[value for place, value in enumerate(column) if place not in empty] for column in unit.ids]
    return tokens


def score_unit(job: Job, scorer: Scorer, unit: Unit, tokens: Tokens, seen: Callable[[int], None]) -> dict[str, int]:
    """Score a unit and write it."""
    scores = scorer.score(tokens, seen)
    table = _table(job, scorer.network, unit, scores)
    flagged = sum(table["flagged"].to_pylist()) if "flagged" in table.column_names else 0
    counts = {
        "tokens": sum(map(len, tokens.windows)),
        "long": tokens.long,
        "windows": len(tokens.windows),
        "flagged": flagged,
    }
    write_unit(job.shards, unit, table, job.settings.format, counts)
    return counts


def _table(job: Job, network: Network, unit: Unit, scores: Scores) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    for (name, kind), values in zip(job.wanted.carried.items(), unit.ids, strict=True):
        columns[name] = pa.array(values, pa.int64() if kind == "int64" else pa.string())
    if not columns:
        columns["file"] = pa.array([unit.file] * len(unit.lines), pa.string())
        columns["row"] = pa.array(unit.lines, pa.int64())
    values = scores.values
    if values is not None and network.kind == "regression":
        columns["value"] = pa.array(values[:, 0], pa.float32())
    elif values is not None:
        names = np.array(network.labels, dtype=object)
        if network.kind == "multi_label":
            columns["label"] = pa.array([names[row >= 0.5].tolist() for row in values], pa.list_(pa.string()))
        else:
            columns["label"] = pa.array(names[values.argmax(1)], pa.string())
        each = [pa.array(values[:, place], pa.float32()) for place in range(len(names))]
        columns["probabilities"] = pa.StructArray.from_arrays(each, network.labels)
        if job.settings.threshold:
            least = job.settings.threshold.items()
            flags = [values[:, network.labels.index(label)] >= share for label, share in least]
            columns["flagged"] = pa.array(np.any(flags, axis=0))
    if scores.embeddings is not None:
        flat = pa.array(scores.embeddings.astype(np.float32).ravel(), pa.float32())
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, network.hidden_size)
    return pa.table(columns)
