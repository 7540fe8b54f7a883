"""What decides a scoring run."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from linformers.files.settings import Count, StrictModel
from linformers.files.sources import DocumentUnit

Long = Literal["truncate", "windows"]
Pool = Literal["mean", "max"]
Format = Literal["parquet", "jsonl"]
Engine = Literal["local", "ray"]
Dtype = Literal["float32", "bfloat16"]

# What may differ when a run is started again: it changes when and where rows are scored, not what they score.
_HOW = {"model", "input", "output", "memory", "engine", "address", "workers", "restart"}


class Reading(StrictModel):
    """How a model reads texts.

    Args:
        model: folder of a classifier or an encoder: safetensors, or an export (``model.onnx``).
        max_length: tokens that are read at once, special ones included; None = as many as the model takes.
        long: of a longer document, ``truncate`` reads the beginning, ``windows`` all of it in pieces.
        pool: how the pieces' probabilities become the document's: their ``mean``, weighted by tokens, or each label's
            ``max``. Embeddings are always averaged.
        embeddings: whether a classifier gives the mean of its last hidden states, too; an encoder always does.
        dtype: of the arithmetic; ``bfloat16`` is several times faster where the machine has it, and less exact.
        memory: bytes that a batch may take beside the model, roughly.
    """

    model: str
    max_length: Count | None = None
    long: Long = "truncate"
    pool: Pool = "mean"
    embeddings: bool = False
    dtype: Dtype = "float32"
    memory: Annotated[int, Field(ge=10**6)] = 10**9

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        if not (Path(self.model) / "config.json").is_file():
            raise ValueError(
                f"model={self.model!r} is no folder with a config.json; give that of a classifier or an encoder "
                "(a model of the hub is downloaded first: hf download NAME --local-dir FOLDER)"
            )
        return self


class ScoreSettings(Reading):
    """A scoring run; see `Reading` for the rest.

    Args:
        input: files, folders, globs and fsspec URLs.
        output: folder of the run.
        text: column of the texts; None = found by its usual name.
        id: columns to carry over; none = the file and the row.
        documents: what one document is in a ``.txt`` file.
        format: of the shards.
        shard_rows: rows of a shard at most, and the work that a kill costs.
        threshold: least probability of a label from which a row is flagged for review.
        limit_bytes: a larger document is rejected.
        engine: ``local`` or ``ray``.
        address: of a Ray cluster; None starts Ray on this machine.
        workers: processes that hold a model each (Ray); None = one a GPU, or one less than the CPUs.
        restart: forget what the output folder holds of an earlier run.
    """

    input: tuple[str, ...]
    output: str
    text: str | None = None
    id: tuple[str, ...] = ()
    documents: DocumentUnit = "file"
    format: Format = "parquet"
    shard_rows: Count = 4096
    threshold: dict[str, float] = {}
    limit_bytes: Count = 10**7
    engine: Engine = "local"
    address: str | None = None
    workers: Count | None = None
    restart: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.input:
            raise ValueError("input is empty: give a file, a folder, a glob or a URL")
        for name in ("address", "workers"):
            if self.engine == "local" and getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)!r} is of Ray: add --engine ray, or leave it out")
        for label, least in self.threshold.items():
            if not 0 < least <= 1:
                raise ValueError(f"threshold={label}={least:g} must be a probability above 0")
        if len(set(self.id)) < len(self.id):
            raise ValueError(f"id={', '.join(self.id)} names a column twice; name each once")
        return self

    @property
    def deciding(self) -> dict[str, Any]:
        """The options that decide what a row scores, and which rows share a shard."""
        return self.model_dump(exclude=_HOW)
