"""All documents of all sources, one after another, with where each comes from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from linformers.files.forms import describe_forms
from linformers.files.inputs import Input
from linformers.files.reading import find_columns, read_sound_rows
from linformers.files.rejects import Rejects, TooManyRejects, describe_passed_over
from linformers.files.rows import TEXT_COLUMNS, Row, Wanted, choose_column, make_row, of_fields
from linformers.files.sources import HUB_PREFIX, Source, find_files, passed_over


class Document(NamedTuple):
    """A text and where it comes from: a file (or data set) and its line or row, from 1."""

    text: str
    provenance: str


def read_documents(
    sources: Sequence[Source], rejects: Rejects, on_progress: Callable[[float], None] | None = None
) -> Iterator[Document]:
    """Read sources in order, each file once, whatever names it; weights play no part. Memory holds one document.

    Args:
        sources: what to read.
        rejects: counts the records, and takes the unusable ones. Its ``finish`` is called after the last record.
        on_progress: called with the share of all that has been read, after each record.

    Raises:
        ValueError: a source or file cannot be read, or too many records are unusable.
        OSError: a file is not there.
    """
    parts: list[tuple[Source, Path | None]] = []
    seen: set[Path] = set()
    for source in sources:
        if source.on_hub:
            parts.append((source, None))
        for path in [] if source.on_hub else find_files(source):
            if (real := path.resolve()) not in seen:
                seen.add(real)
                parts.append((source, path))
        rejects.pass_over(passed_over(source))
    sizes = [1 if path is None else max(1, path.stat().st_size) for _, path in parts]
    done, whole = 0, sum(sizes)
    for (source, path), size in zip(parts, sizes, strict=True):
        for document, position in read_part(source, path, rejects):
            if on_progress is not None:
                on_progress((done + position * size) / whole)
            yield document
        done += size
    rejects.finish()


def read_texts(
    option: str,
    sources: Sequence[Source],
    rejects: Rejects | None = None,
    on_progress: Callable[[float], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Iterator[str]:
    """The texts of documents, for commands that read some of them; unusable records are passed over.

    Args:
        option: Name of the option that names the sources.
        sources: What to read.
        rejects: Counts the records; None = not counted.
        on_progress: See ``read_documents``.
        say: Hears as what files are read, and which are not, before the first text.

    Raises:
        ValueError: There is no text.
        OSError: A file is not there.
    """
    empty, rejects = True, rejects or Rejects(max_share=1.0)
    if say is not None:
        local = [source for source in sources if not source.on_hub]
        files = [Input.of(path, form=source.form) for source in local for path in find_files(source, option)]
        unread = [str(path) for source in local for path in passed_over(source)]
        for line in (*describe_forms(files), *describe_passed_over(unread)):
            say(line)
    try:
        for document in read_documents(sources, rejects, on_progress):
            empty = False
            yield document.text
    except TooManyRejects:
        if not empty:
            raise
    if empty:
        first = f" (the first of {rejects.rejected:,} rejects: {rejects.first})" if rejects.first else ""
        raise ValueError(f"{option}={sources[0].path} holds no text that can be used{first}; give another file")


def first_texts(
    option: str, sources: Sequence[Source], count: int, max_reject_share: float, say: Callable[[str], None]
) -> list[str]:
    """The first texts of documents, so many at most; see ``read_texts``.

    Args:
        option: Name of the option that names the sources.
        sources: What to read; with nothing there is no text.
        count: Texts at most.
        max_reject_share: Largest share of unusable ones among the records that are read.
        say: Hears as what files are read, which are not, and how many records are unusable.

    Raises:
        ValueError: There is no text, or too many records are unusable.
        OSError: A file is not there.
    """
    if not sources:
        return []
    rejects = Rejects(max_share=max_reject_share)
    found = list(islice(read_texts(option, sources, rejects, say=say), count))
    rejects.finish()
    for line in rejects.unused():
        say(line)
    return found


def read_part(source: Source, path: Path | None, rejects: Rejects) -> Iterator[tuple[Document, float]]:
    """Documents of one file (or, without a path, of a data set of the hub), and how far it has been read."""
    name = source.path if path is None else str(path)
    for row in _read_hub(source) if path is None else _read_file(source, path, rejects):
        if row.text is None:
            rejects.reject(name, row.line, row.reason, row.value)
        else:
            rejects.accept()
            yield Document(row.text, f"{name}:{row.line}"), row.position


def _read_file(source: Source, path: Path, rejects: Rejects) -> Iterator[Row]:
    file = Input.of(path, form=source.form)
    rejects.inputs[file] = None
    column = None if file.kind == "text" else source.text_column
    return read_sound_rows(file, find_columns([file], column, (), "text_column"), documents=source.documents)


def _read_hub(source: Source) -> Iterator[Row]:
    wanted: Wanted | None = None
    for line, fields in enumerate(open_hub(source), start=1):
        if wanted is None:
            texts = [name for name, value in fields.items() if isinstance(value, str)]
            column = choose_column(
                "text_column", source.text_column, TEXT_COLUMNS, list(fields), source.path, "text", texts
            )
            wanted = Wanted(column)
        yield make_row(of_fields(line, fields, wanted), wanted)


def hub_name(source: Source) -> tuple[str, str | None, str]:
    """Name, configuration and split of ``hf:NAME:CONFIG:SPLIT``.

    Raises:
        ValueError: there are more parts than these.
    """
    parts = source.path.removeprefix(HUB_PREFIX).split(":")
    if len(parts) > 3 or not parts[0]:
        raise ValueError(f"path={source.path} must be hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT")
    name, config, split = [*parts, *[""] * (3 - len(parts))]
    return name, config or None, split or "train"


def open_hub(source: Source) -> Any:
    """Stream a data set of the hub.

    Raises:
        OSError: it cannot be reached.
    """
    from datasets import load_dataset

    name, config, split = hub_name(source)
    with _explaining(source):
        return load_dataset(name, config, split=split, streaming=True, revision=hub_revision(source))


def hub_revision(source: Source) -> str | None:
    """The commit that a data set of the hub is at.

    Raises:
        OSError: it cannot be reached.
    """
    from huggingface_hub import dataset_info

    with _explaining(source):
        return dataset_info(hub_name(source)[0]).sha


@contextmanager
def _explaining(source: Source) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the hub's client raises dozens of kinds
        raise OSError(
            f"path={source.path}: the data set cannot be opened ({type(error).__name__}: {error}). Check the name and "
            "the network, or download its Parquet files and give their folder"
        ) from error
