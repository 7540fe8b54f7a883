"""Where text comes from: files, folders, globs and Hugging Face data sets, and how each file is read."""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

from linformers.files.forms import Form

DocumentUnit = Literal["file", "blank_line", "line"]

HUB_PREFIX = "hf:"
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
FORMATS = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".conll": "conll",
    ".parquet": "parquet",
}
READABLE = "{} (each but Parquet also with {})".format(", ".join(FORMATS), " or ".join(COMPRESSIONS))


@dataclass(frozen=True, kw_only=True)
class Source:
    """One source of documents.

    Args:
        path: a file; a folder, of which every readable file is taken, at any depth; a glob such as ``books/**/*.txt``;
            or a data set of the Hugging Face hub, ``hf:NAME``, ``hf:NAME:CONFIG`` or ``hf:NAME:CONFIG:SPLIT``.
        weight: how often an epoch reads the source: 2 is twice, 0.5 is half of it, and the other half an epoch later.
        text_column: column or field that holds the text; None looks for ``text``, ``content``, ``document``, ....
        documents: what one document is in a ``.txt`` file: the file, the lines between two blank lines, or a line.
        delimiter: what stands between fields of CSV; None = found, as for the next.
        encoding: Encoding of every format but Parquet.

    Raises:
        ValueError: an empty path, a weight that is not above 0, or an unknown unit of documents.
    """

    # For recipes, which are strict; without importing pydantic, as the help of commands would wait for it.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    path: str
    weight: float = field(default=1.0, metadata={"strict": True})
    text_column: str | None = None
    documents: DocumentUnit = "file"
    delimiter: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if not self.path or self.path == HUB_PREFIX:
            raise ValueError(f"path={self.path!r} names no source; give a file, a folder, a glob or hf:NAME")
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"weight={self.weight} of {self.path} must be above 0; leave the source out instead")
        if self.documents not in get_args(DocumentUnit):
            raise ValueError(
                f"documents={self.documents!r} of {self.path} must be one of {', '.join(get_args(DocumentUnit))}"
            )
        self.form  # noqa: B018  (refuses what is wrong)

    @property
    def form(self) -> Form:
        """What is given of the form of the files."""
        return Form(self.delimiter, self.encoding)

    @property
    def on_hub(self) -> bool:
        """Whether the source is a data set of the Hugging Face hub."""
        return self.path.startswith(HUB_PREFIX)


def file_format(path: Path) -> tuple[str, str | None] | None:
    """Format (``text``, ``jsonl``, ``csv``, ``tsv``, ``conll``, ``parquet``) and compression of a file, by its name.

    ``json`` holds an object on each line, or one array of them. Case makes no difference; None = a file
    that cannot be read.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    if compression:
        suffixes.pop()
    kind = FORMATS.get(suffixes[-1]) if suffixes else None
    if kind is None or (kind == "parquet" and compression):
        return None
    return kind, compression


def find_files(source: Source, option: str = "path") -> list[Path]:
    """The files of a source, in a fixed order.

    In a folder, hidden files and files of other formats are passed over (see ``passed_over``); a file or a glob that
    names one is an error. A link to a file that is there, too, is left out.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a file has no readable format, or a folder has no readable file.
    """
    path = Path(source.path).expanduser()
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        files = _each_once(file for file in inside if not _hidden(file, path) and file_format(file))
        if not files:
            raise ValueError(
                f"{option}={source.path}: none of its {len(inside)} files is readable; readable are {READABLE}"
            )
        return files
    # A file whose name holds a bracket is taken as it is, before it is taken for a glob.
    files = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    files = _each_once(file for file in files if file.is_file())
    if not files:
        raise FileNotFoundError(f"{option}={source.path}: no such file or folder; check the spelling")
    for file in files:
        if file_format(file) is None:
            raise ValueError(f"{option}={source.path}: cannot read {file}; readable are {READABLE}")
    return files


def check_apart(option: str, sources: Sequence[Source]) -> None:
    """Refuse a file that is read twice, whatever the path: by a folder and its name, absolute, or through a link.

    Args:
        option: Name of the option that names the sources.
        sources: The sources.

    Raises:
        ValueError: A file is in two sources.
        OSError: A file is not there.
    """
    found: dict[Path, Source] = {}
    for source in sources:
        for file in [] if source.on_hub else find_files(source, option):
            first = found.setdefault(file.resolve(), source)
            if first is not source:
                more = "; its weight says how often it is read" if "." in option else ""
                raise ValueError(f"{option}={source.path}: {file} is in {option}={first.path}, too: name it once{more}")


def in_both(train: Sequence[Source], held_out: Sequence[Source]) -> list[Path]:
    """Files that are trained on and measured on."""
    first, second = (
        {path.resolve(): path for source in sources if not source.on_hub for path in find_files(source)}
        for sources in (train, held_out)
    )
    return [path for real, path in second.items() if real in first]


def passed_over(source: Source) -> list[Path]:
    """The files of a folder that no reader takes; hidden ones do not count."""
    path = Path(source.path).expanduser()
    if source.on_hub or not path.is_dir():
        return []
    return [
        file for file in sorted(path.rglob("*")) if file.is_file() and not _hidden(file, path) and not file_format(file)
    ]


def _hidden(file: Path, folder: Path) -> bool:
    return any(part[0] in "._" for part in file.relative_to(folder).parts)


def _each_once(files: Iterable[Path]) -> list[Path]:
    """Files, each once, under a name of its own rather than that of a link."""
    found: dict[Path, Path] = {}
    for file in files:
        real = file.resolve()
        if real not in found or found[real].is_symlink():
            found[real] = file
    return sorted(found.values())
