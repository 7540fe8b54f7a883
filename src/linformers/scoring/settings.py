"""What decides a run over documents: how a model reads them, and which files; of scores, and of embeddings."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from linformers.files.forms import Form
from linformers.files.settings import Count, Natural, StrictModel
from linformers.files.sources import DocumentUnit

Long = Literal["truncate", "windows"]
Context = Literal["document", "chunk"]
Chunks = Literal["sentence", "paragraph", "tokens"]
Pooling = Literal["mean", "cls", "max"]
VectorDtype = Literal["float32", "float16", "int8", "binary"]
Pool = Literal["mean", "max"]
Format = Literal["parquet", "jsonl"]
Engine = Literal["local", "ray"]
Dtype = Literal["float32", "bfloat16"]

# What may differ when a run is started again: it changes when and where rows are read, not what comes of them.
_HOW = {"model", "input", "output", "memory", "engine", "address", "workers", "restart", "max_reject_share"}
_LATER = {"overlap", "beginning"}  # options that came later: at their default they decide as if there were none


class Loading(StrictModel):
    """A model, and how much of a text it reads at once.

    Args:
        model: Path of the folder of a classifier or an encoder: safetensors, or an export (``model.onnx``).
        max_length: Tokens that are read at once, special ones included; None = as many as the model takes.
        memory: Bytes that a batch may take beside the model, roughly.
    """

    model: str
    max_length: Count | None = None
    memory: Annotated[int, Field(ge=10**6)] = 10**9

    def _check(self) -> None:
        super()._check()
        if not any((Path(self.model) / name).is_file() for name in ("config.json", "modules.json")):
            raise ValueError(
                f"model={self.model!r} is no folder with a config.json; give that of a classifier or an encoder "
                "(a model of the hub is downloaded first: hf download NAME --local-dir FOLDER)"
            )


class Reading(Loading):
    """How a classifier or an encoder scores texts; see `Loading` for the rest.

    Args:
        long: The reading of a longer document: ``truncate`` reads the beginning, ``windows`` all of it in pieces.
        overlap: Tokens that a piece shares with the one before it. Tokens in two pieces count in both where pieces are
            averaged; of a tagger the piece speaks in which they stand farther from the border.
        pool: The way from the pieces' probabilities to the document's: their ``mean``, weighted by tokens, or each
            label's ``max``. Embeddings are always averaged.
        embeddings: Whether a classifier gives the mean of its last hidden states, too; an encoder always does.
        dtype: The type of the arithmetic; ``bfloat16`` is several times faster where the machine has it, less exact.
    """

    long: Long = "truncate"
    overlap: Natural = 0
    pool: Pool = "mean"
    embeddings: bool = False
    dtype: Dtype = "float32"

    def _check(self) -> None:
        super()._check()
        if self.overlap and self.long != "windows":
            raise ValueError(f"overlap={self.overlap} is of windows: add --long windows, or leave it out")


class Files(StrictModel):
    """Files of documents, and the run that reads them.

    Args:
        input: Paths of files and folders, globs and fsspec URLs.
        output: Path of the run folder.
        text: The column of the texts, or columns that are joined; None = those that a classifier was trained on, or a
            usual name.
        delimiter: What stands between the fields of CSV; None = found, as for the next.
        encoding: The encoding of CSV, JSON and text.
        id: Columns to carry over; none = the file and the row.
        documents: The unit that is one document in a ``.txt`` file.
        shard_rows: Documents of a shard at most, and the work that a kill costs.
        max_reject_share: The largest share of rejected rows; with more the run ends with an error, after what comes of
            the others is written.
        limit_bytes: The size from which a document is rejected.
        engine: The engine: ``local`` or ``ray``.
        address: The address of a Ray cluster; None starts Ray on this machine.
        workers: Processes that hold a model each (Ray); None = one a GPU, or one less than the CPUs.
        restart: Whether to forget what the output folder holds of an earlier run.
    """

    input: tuple[str, ...]
    output: str
    text: str | tuple[str, ...] | None = None
    delimiter: str | None = None
    encoding: str | None = None
    id: tuple[str, ...] = ()
    documents: DocumentUnit = "file"
    shard_rows: Count = 4096
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
        for name in ("address", "workers"):
            if self.engine == "local" and getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)!r} is of Ray: add --engine ray, or leave it out")
        self.form  # noqa: B018  (refuses what is wrong)
        if len(set(self.id)) < len(self.id):
            raise ValueError(f"id={', '.join(self.id)} names a column twice; name each once")

    @property
    def form(self) -> Form:
        """What is given of the form of the files."""
        return Form(self.delimiter, self.encoding)

    @property
    def deciding(self) -> dict[str, Any]:
        """The options that decide what comes of a row, and which rows share a shard."""
        fields = type(self).model_fields
        unused = {name for name in _LATER & fields.keys() if getattr(self, name) == fields[name].default}
        return self.model_dump(exclude=_HOW | unused)


class ScoreSettings(Reading, Files):
    """A scoring run; see `Reading` and `Files` for the rest.

    Args:
        pair: The column of the second text, for models of pairs, or of the context, where ``text`` is the question;
            None = the one it was trained on, or a usual name.
        format: The format of the shards.
        queue: The least probability from which a row is flagged, by label; flagged rows are queued for review, with
            their texts.
    """

    pair: str | None = None
    format: Format = "parquet"
    queue: dict[str, float] = {}

    def _check(self) -> None:
        super()._check()
        if self.pair is not None and self.long == "windows":
            raise ValueError(f"long='windows' is of single texts, and pair={self.pair!r} is given: leave one out")
        for label, least in self.queue.items():
            if not 0 < least <= 1:
                raise ValueError(f"queue={label}={least:g} must be a probability above 0")


class VectorSettings(Loading):
    """How an encoder turns texts into vectors; see `Loading` for the rest.

    Pooling and length are what a folder of sentence-transformers says, unless they are given here; of any other
    encoder they are the mean of the last hidden states, as long as that is.

    Args:
        chunks: What has a vector: the document (None), each ``sentence`` or ``paragraph`` of it, or ``tokens:N``, each
            stretch of N tokens.
        overlap: Tokens that a chunk of ``tokens:N`` shares with the one before it.
        context: What a chunk is read in: the whole ``document``, so that "it" is known (late chunking,
            arXiv 2409.04701), or nothing but the ``chunk``.
        beginning: Tokens at the start of a document, as its title. Their mean makes up two fifths of the vector of each
            later chunk, so that it is also found by what its document is about. For chunks that are read in their
            document, and means.
        long: The reading of a longer text: ``truncate`` reads the beginning, ``windows`` all of it in pieces, which are
            pooled together. None = ``windows`` for chunks in their document, else ``truncate``.
        pooling: The way from tokens to a vector: their ``mean``, each number's ``max``, or the first token (``cls``).
            None = what the folder says.
        normalize: Whether vectors get length 1; None = what the folder says.
        prompt: Text to put before each one; None = that of ``prompt_name``.
        prompt_name: Name of a prompt of the folder; None = its default one, if it names one.
        truncate_dim: Numbers of a vector that are kept, from its start (models trained for that: Matryoshka); vectors
            of length 1 are brought to length 1 again.
        dtype: The type of the numbers: ``float32``, ``float16``, ``int8`` by ranges of each dimension, or ``binary``,
            eight signs a byte; the last two as ``quantize_embeddings`` of sentence-transformers has them (``int8`` and
            ``ubinary``).
        ranges: Path of a folder of int8 embeddings whose ranges to use; None = of the first vectors of the input.
        arithmetic: The type of the arithmetic; ``bfloat16`` is several times faster where the machine has it.
    """

    chunks: str | None = None
    overlap: Natural = 0
    context: Context = "document"
    beginning: Natural = 0
    long: Long | None = None
    pooling: Pooling | None = None
    normalize: bool | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    truncate_dim: Count | None = None
    dtype: VectorDtype = "float32"
    ranges: str | None = None
    arithmetic: Dtype = "float32"

    def _check(self) -> None:
        super()._check()
        kind, size = self.chunking
        if kind != "tokens" and self.overlap:
            raise ValueError(f"overlap={self.overlap} is of chunks of tokens: add --chunks tokens:N, or leave it out")
        if kind == "tokens" and self.overlap >= size:
            raise ValueError(f"overlap={self.overlap} must be less than the {size} tokens of a chunk")
        if kind is None and self.context == "chunk":
            raise ValueError("context='chunk' has no chunks: add --chunks sentence, paragraph or tokens:N")
        if self.beginning and not self.in_context:
            raise ValueError(
                f"beginning={self.beginning} is of chunks that are read in their document: add --chunks, without "
                "--context chunk, or leave it out"
            )
        if self.prompt is not None and self.prompt_name is not None:
            raise ValueError(f"prompt_name={self.prompt_name!r} and prompt={self.prompt!r} exclude each other")
        if self.ranges is not None and self.dtype != "int8":
            raise ValueError(f"ranges={self.ranges!r} are of int8: add --dtype int8, or leave it out")

    @property
    def chunking(self) -> tuple[Chunks | None, int]:
        """The kind of chunks, and the tokens of each (0 where they are not counted in tokens).

        Raises:
            ValueError: There is no such kind.
        """
        if self.chunks is None:
            return None, 0
        if self.chunks in ("sentence", "paragraph"):
            return self.chunks, 0
        name, _, size = self.chunks.partition(":")
        if name != "tokens" or not size.isdecimal() or int(size) < 1:
            raise ValueError(f"chunks={self.chunks!r} is unknown: choose sentence, paragraph or tokens:N (tokens:256)")
        return "tokens", int(size)

    @property
    def in_context(self) -> bool:
        """Whether chunks are read within their document."""
        return self.chunks is not None and self.context == "document"

    @property
    def reading(self) -> Long:
        """How longer texts are read."""
        return self.long or ("windows" if self.in_context else "truncate")


class EmbedSettings(VectorSettings, Files):
    """A run that embeds files of documents; see `VectorSettings` and `Files`."""
