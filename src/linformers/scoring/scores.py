"""Scores of documents: labels and probabilities, values, entities, answers, or mean hidden states."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from linformers.data.entities import ENTITIES
from linformers.data.tokenise import Tokens
from linformers.extraction.results import ANSWERS, TAGS
from linformers.files.inputs import Input
from linformers.files.rows import JOINT, Wanted
from linformers.scoring.answers import Answerer, Asked, answer_columns
from linformers.scoring.columns import TrainedInputs, columns_to_score
from linformers.scoring.networks import Network
from linformers.scoring.queue import CHARACTERS
from linformers.scoring.scorer import Scorer, Scores
from linformers.scoring.settings import Format, ScoreSettings
from linformers.scoring.tags import Tagged, Tagger
from linformers.scoring.units import Unit
from linformers.scoring.work import Job, Reader, id_columns, leave_out


@dataclass(frozen=True)
class ScoreJob(Job):
    """Scoring of files; see `Job`."""

    NAME: ClassVar[str] = "score"
    SHARDS: ClassVar[str] = "scores"
    DOING: ClassVar[str] = "scoring"
    COLUMNS: ClassVar[Sequence[str]] = (
        *("label", "probabilities", "value", "entities", "flagged", "text", "embedding"),
        *("answer", "start", "end", "score", "null_score"),
    )
    COUNTS: ClassVar[Sequence[str]] = ("tokens", "long", "windows", "flagged", "entities")

    settings: ScoreSettings

    @classmethod
    def columns(cls, settings: ScoreSettings, files: Sequence[Input]) -> Wanted:
        """The columns to read: those asked for, or those that the model was trained on."""
        trained = TrainedInputs.of_folder(settings.model)
        return columns_to_score(trained, files, settings.text, settings.pair, settings.id)

    def open(self) -> "ScoreReader":
        """The model."""
        return ScoreReader(self.settings)

    def prepare(self, reader: "ScoreReader") -> dict[str, Any]:
        """Refuse what the model does not have: the labels of a queue, and what a tagger or answerer does not do."""
        names = ("queue", "pair", "embeddings") if reader.tagger else ("queue", "embeddings") if reader.answerer else ()
        for name in names:
            if getattr(self.settings, name):
                what = "taggers" if reader.tagger else "models that answer questions"
                raise ValueError(f"{name}={getattr(self.settings, name)!r} is not for {what}: leave it out")
        if reader.answerer and self.settings.long == "windows":
            raise ValueError("long='windows' is of single texts; a context is read at once: leave it out")
        if reader.answerer and self.wanted.pair is None:
            raise ValueError(
                "the model answers questions: give --text, the column of the question, and --pair, that of the context"
            )
        labels = reader.scorer.network.labels
        if unknown := [label for label in self.settings.queue if label not in labels]:
            there = f"it has {', '.join(labels)}" if labels else "it is no classifier"
            raise ValueError(f"queue={unknown[0]!r} is no label of the model: {there}")
        return {}

    @property
    def format(self) -> Format:
        """Format of the shards."""
        return self.settings.format


class ScoreReader(Reader):
    """A classifier, a tagger, a model that answers questions, or an encoder, and how it scores."""

    settings: ScoreSettings
    scorer: Scorer

    def __init__(self, settings: ScoreSettings) -> None:
        self.settings, self.scorer = settings, Scorer(settings)
        network = self.scorer.network
        self.tagger: Tagger | None = (
            Tagger(network, self.scorer.pieces, settings.overlap) if network.kind == TAGS else None
        )
        self.answerer: Answerer | None = Answerer(network) if network.kind == ANSWERS else None

    def encode(self, unit: Unit) -> Tokens | Tagged | Asked:
        """Tokens of a unit; where there is a queue, the beginnings of its texts stay."""
        if self.tagger is not None:
            tagged = self.tagger.encode(unit.texts)
            leave_out(unit, tagged.tokens.empty)
            return tagged
        if self.answerer is not None:
            asked = self.answerer.encode(unit.texts, unit.pairs)
            leave_out(unit, asked.tokens.empty)
            return asked
        tokens = self.scorer.encode(unit.texts, unit.pairs or None)
        texts, kept = [unit.texts, *([unit.pairs] if unit.pairs else [])], []
        if self.settings.queue:
            gone = set(tokens.empty)
            joined = [JOINT.join(parts) for place, parts in enumerate(zip(*texts, strict=True)) if place not in gone]
            kept = [text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} ..." for text in joined]
        leave_out(unit, tokens.empty)
        unit.texts = kept
        return tokens

    def read(
        self, job: ScoreJob, unit: Unit, encoded: Tokens | Tagged | Asked, seen: Callable[[int], None]
    ) -> tuple[pa.Table, dict[str, int]]:
        """Scores, entities or answers of a unit."""
        if self.tagger is not None:
            assert isinstance(encoded, Tagged)
            found = self.tagger.tag(encoded, seen)
            columns = id_columns(job.wanted, unit)
            columns["entities"] = pa.array([[one._asdict() for one in of_text] for of_text in found], ENTITIES)
            return pa.table(columns), _counts(encoded.tokens, entities=sum(map(len, found)))
        if self.answerer is not None:
            assert isinstance(encoded, Asked)
            columns = id_columns(job.wanted, unit) | answer_columns(self.answerer.answer(encoded, seen))
            return pa.table(columns), _counts(encoded.tokens)
        assert isinstance(encoded, Tokens)
        table = _table(job, self.scorer.network, unit, self.scorer.score(encoded, seen))
        flagged = sum(table["flagged"].to_pylist()) if "flagged" in table.column_names else 0
        return table, _counts(encoded, flagged=flagged)

    def describe(self) -> dict[str, Any]:
        """What a manifest should say of the model."""
        return self.scorer.network.describe()


def _counts(tokens: Tokens, flagged: int = 0, entities: int = 0) -> dict[str, int]:
    found = {"tokens": tokens.count, "long": tokens.long, "windows": len(tokens.windows)}
    return {**found, "flagged": flagged, "entities": entities}


def _table(job: ScoreJob, network: Network, unit: Unit, scores: Scores) -> pa.Table:
    columns, values = id_columns(job.wanted, unit), scores.values
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
        if job.settings.queue:
            least = job.settings.queue.items()
            flags = np.any([values[:, network.labels.index(label)] >= share for label, share in least], axis=0)
            columns["flagged"] = pa.array(flags)
            shown = [text if flag else None for text, flag in zip(unit.texts, flags, strict=True)]
            columns["text"] = pa.array(shown, pa.string())
    if scores.embeddings is not None:
        flat = pa.array(scores.embeddings.astype(np.float32).ravel(), pa.float32())
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, network.hidden_size)
    return pa.table(columns)
