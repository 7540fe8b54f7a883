"""Embeddings of documents: one vector each, or one for each chunk, as rows of a table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from linformers.files.reading import read_rows
from linformers.scoring.embedder import Embedder, Pieces
from linformers.scoring.pooling import ranges_of, stored
from linformers.scoring.settings import EmbedSettings
from linformers.scoring.units import Unit
from linformers.scoring.work import Job, Reader, id_columns, leave_out

RANGES_OF = 1024  # vectors that int8 ranges are taken of
AT_ONCE = 32  # texts that are read together for them
CHUNK_BYTES = 4 * 2**20  # of text in a unit: chunks are many, and their vectors are held until they are written
_TYPES = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "binary": pa.uint8()}


@dataclass(frozen=True)
class EmbedJob(Job):
    """Embedding of files; see `Job`."""

    NAME: ClassVar[str] = "embed"
    SHARDS: ClassVar[str] = "embeddings"
    DOING: ClassVar[str] = "embedding"
    DONE: ClassVar[str] = "embedded"
    COLUMNS: ClassVar[Sequence[str]] = ("chunk", "start", "end", "embedding")
    COUNTS: ClassVar[Sequence[str]] = ("vectors", "tokens", "long", "windows", "chunks_without_token", "chunks_unread")

    settings: EmbedSettings

    def open(self) -> "EmbedReader":
        """The model."""
        return EmbedReader(self.settings)

    def prepare(self, reader: "EmbedReader") -> dict[str, Any]:
        """Ranges of int8: those of another run, or of the first vectors of the input."""
        settings = self.settings
        if settings.dtype != "int8":
            return {}
        if (ranges := reader.embedder.ranges) is not None:
            origin = "another run"
        else:
            found = np.concatenate([np.empty((0, reader.embedder.dim), np.float32), *self._first_vectors(reader)])
            if len(found) < 2:
                raise ValueError(
                    f"dtype='int8' takes its ranges of the first vectors, and the input has {len(found)}: give more "
                    "documents, --ranges of an earlier run, or another dtype"
                )
            ranges, origin = ranges_of(found), f"the first {len(found):,} vectors"
        return {"ranges": [[float(number) for number in row] for row in ranges], "ranges_of": origin}

    def _first_vectors(self, reader: "EmbedReader") -> Iterator[Float[np.ndarray, "vectors dim"]]:
        """Vectors from the beginning of each file, about ``RANGES_OF`` in all."""
        settings, embedder = self.settings, reader.embedder
        files = self.files[:RANGES_OF]
        share = -(-RANGES_OF // len(files))
        for file in files:
            rows = read_rows(file, self.wanted, documents=settings.documents, limit_bytes=settings.limit_bytes)
            texts = (row.text for row in rows if row.text is not None)
            found = 0
            while found < share and (some := list(islice(texts, min(AT_ONCE, share - found)))):
                vectors = embedder.embed(embedder.encode(some))
                found += len(vectors)
                yield vectors

    @property
    def unit_bytes(self) -> int | None:
        """Text of a unit, about."""
        return None if self.settings.chunks is None else CHUNK_BYTES


class EmbedReader(Reader):
    """An encoder, and how it makes vectors."""

    def __init__(self, settings: EmbedSettings) -> None:
        self.embedder: Embedder = Embedder(settings)

    def encode(self, unit: Unit) -> Pieces:
        """Tokens of a unit."""
        pieces = self.embedder.encode(unit.texts)
        kept = np.cumsum(np.isin(np.arange(len(unit.texts)), pieces.empty, invert=True)) - 1
        leave_out(unit, pieces.empty)
        pieces.texts = kept[pieces.texts].tolist() if pieces.texts else []
        return pieces

    def read(
        self, job: EmbedJob, unit: Unit, encoded: Pieces, seen: Callable[[int], None]
    ) -> tuple[pa.Table, dict[str, int]]:
        """Vectors of a unit."""
        settings, ranges = job.settings, job.measured.get("ranges")
        vectors = self.embedder.embed(encoded, seen)
        values = stored(vectors, settings.dtype, None if ranges is None else np.array(ranges, np.float32))
        ids = pa.table(id_columns(job.wanted, unit)).take(pa.array(encoded.texts, pa.int64()))
        columns = {name: ids[name] for name in ids.column_names}
        if settings.chunks is not None:
            spans = np.array(encoded.spans, np.int64).reshape(-1, 2)
            columns["chunk"] = pa.array(encoded.chunks, pa.int32())
            columns["start"], columns["end"] = pa.array(spans[:, 0]), pa.array(spans[:, 1])
        flat = pa.array(values.ravel(), _TYPES[settings.dtype])
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        chunked = settings.chunks is not None
        counts = {
            "vectors": len(vectors),
            "tokens": encoded.count,
            "long": encoded.tokens.long,
            "windows": len(encoded.tokens.windows),
            "chunks_without_token": encoded.tokenless if chunked else 0,
            "chunks_unread": encoded.unread,
        }
        return pa.table(columns), counts

    def describe(self) -> dict[str, Any]:
        """What a manifest should say of the model and its vectors."""
        network = self.embedder.network
        known = {"architecture": network.architecture, "runtime": network.runtime, "max_length": network.max_length}
        return {**known, "vectors": self.embedder.describe()}
