"""What decides a scoring run."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from linformers.files.forms import Form
from linformers.files.settings import Count, StrictModel
from linformers.files.sources import DocumentUnit

Long = Literal["truncate", "windows"]
Pool = Literal["mean", "max"]
Format = Literal["parquet", "jsonl"]
Engine = Literal["local", "ray"]
Dtype = Literal["float32", "bfloat16"]

# What may differ when a run is started again: it changes when and where rows are scored, not what they score.
_HOW = {"model", "input", "output", "memory", "engine", "address", "workers", "restart", "max_reject_share"}


class Reading(StrictModel):
    """How a model reads texts.

    Args:
        model: Path of the folder of a classifier or an encoder: safetensors, or an export (``model.onnx``).
        max_length: Tokens that are read at once, special ones included; None = as many as the model takes.
        long: The reading of a longer document: ``truncate`` reads the beginning, ``windows`` all of it in pieces.
        pool: The way from the pieces' probabilities to the document's: their ``mean``, weighted by tokens, or each
            label's ``max``. Embeddings are always averaged.
        embeddings: Whether a classifier gives the mean of its last hidden states, too; an encoder always does.
        dtype: The type of the arithmetic; ``bfloat16`` is several times faster where the machine has it, less exact.
        memory: Bytes that a batch may take beside the model, roughly.
    """

    model: str
    max_length: Count | None = None
    long: Long = "truncate"
    pool: Pool = "mean"
    embeddings: bool = False
    dtype: Dtype = "float32"
    memory: Annotated[int, Field(ge=10**6)] = 10**9

    def _check(self) -> None:
        if not (Path(self.model) / "config.json").is_file():
            raise ValueError(
                f"model={self.model!r} is no folder with a config.json; give that of a classifier or an encoder "
                "(a model of the hub is downloaded first: hf download NAME --local-dir FOLDER)"
            )


class ScoreSettings(Reading):
    """A scoring run; see `Reading` for the rest.

    Args:
        input: Paths of files and folders, globs and fsspec URLs.
        output: Path of the run folder.
        text: The column of the texts, or columns that are joined; None = those it was trained on, or a usual name.
        pair: The column of the second text, for models of pairs; None = the one it was trained on, or a usual name.
        delimiter: What stands between the fields of CSV; None = found, as for the next.
        encoding: The encoding of CSV, JSON and text.
        id: Columns to carry over; none = the file and the row.
        documents: The unit that is one document in a ``.txt`` file.
        format: The format of the shards.
        shard_rows: Rows of a shard at most, and the work that a kill costs.
        threshold: The least probability from which a row is flagged for review, by label.
        max_reject_share: The largest share of rejected rows; with more the run ends with an error, after the scores of
            the others are written.
        limit_bytes: The size from which a document is rejected.
        engine: The engine: ``local`` or ``ray``.
        address: The address of a Ray cluster; None starts Ray on this machine.
        workers: Processes that hold a model each (Ray); None = one a GPU, or one less than the CPUs.
        restart: Whether to forget what the output folder holds of an earlier run.
    """

    input: tuple[str, ...]
    output: str
    text: str | tuple[str, ...] | None = None
    pair: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    id: tuple[str, ...] = ()
    documents: DocumentUnit = "file"
    format: Format = "parquet"
    shard_rows: Count = 4096
    threshold: dict[str, float] = {}
    max_reject_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    limit_bytes: Count = 10**7
    engine: Engine = "local"
    address: str | None = None
    workers: Count | None = None
    restart: bool = False

    def _check(self) -> None:
        super()._check()
        if not self.input:
            raise ValueError("input is empty: give a file, a folder, a glob or a URL")
        if self.pair is not None and self.long == "windows":
            raise ValueError(f"long='windows' is of single texts, and pair={self.pair!r} is given: leave one out")
        for name in ("address", "workers"):
            if self.engine == "local" and getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)!r} is of Ray: add --engine ray, or leave it out")
        for label, least in self.threshold.items():
            if not 0 < least <= 1:
                raise ValueError(f"threshold={label}={least:g} must be a probability above 0")
        self.form  # noqa: B018  (refuses what is wrong)
        if len(set(self.id)) < len(self.id):
            raise ValueError(f"id={', '.join(self.id)} names a column twice; name each once")

    @property
    def form(self) -> Form:
        """What is given of the form of the files."""
        return Form(self.delimiter, self.encoding)

    @property
    def deciding(self) -> dict[str, Any]:
        """The options that decide what a row scores, and which rows share a shard."""
        return self.model_dump(exclude=_HOW)
