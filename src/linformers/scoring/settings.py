"""What decides a scoring run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from linformers.checks import check_choice, check_int
from linformers.files.sources import DocumentUnit

Long = Literal["truncate", "windows"]
Pool = Literal["mean", "max"]
Format = Literal["parquet", "jsonl"]
Engine = Literal["local", "ray"]
Dtype = Literal["float32", "bfloat16"]

# What may differ when a run is started again: it changes when and where rows are scored, not what they score.
_HOW = ("model", "input", "output", "memory", "engine", "address", "workers", "restart")


@dataclass(frozen=True, kw_only=True)
class Reading:
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
    max_length: int | None = None
    long: Long = "truncate"
    pool: Pool = "mean"
    embeddings: bool = False
    dtype: Dtype = "float32"
    memory: int = 10**9

    def __post_init__(self) -> None:
        for name, choices in (("long", Long), ("pool", Pool), ("dtype", Dtype)):
            check_choice(name, getattr(self, name), get_args(choices))
        if self.max_length is not None:
            check_int("max_length", self.max_length)
        check_int("memory", self.memory, 10**6)
        if not (Path(self.model) / "config.json").is_file():
            raise ValueError(
                f"model={self.model!r} is no folder with a config.json; give that of a classifier or an encoder "
                "(a model of the hub is downloaded first: hf download NAME --local-dir FOLDER)"
            )


@dataclass(frozen=True, kw_only=True)
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
    shard_rows: int = 4096
    threshold: Mapping[str, float] = field(default_factory=dict)
    limit_bytes: int = 10**7
    engine: Engine = "local"
    address: str | None = None
    workers: int | None = None
    restart: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("documents", DocumentUnit), ("format", Format), ("engine", Engine)):
            check_choice(name, getattr(self, name), get_args(choices))
        check_int("shard_rows", self.shard_rows)
        check_int("limit_bytes", self.limit_bytes)
        if self.workers is not None:
            check_int("workers", self.workers)
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

    @property
    def deciding(self) -> dict[str, Any]:
        """The options that decide what a row scores, and which rows share a shard."""
        return {name: value for name, value in asdict(self).items() if name not in _HOW}
