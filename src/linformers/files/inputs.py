"""Files to read: found, named, and opened; on this machine, or wherever fsspec reaches."""

import glob
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from linformers.files.forms import Form
from linformers.files.sources import READABLE, Source, file_format, find_files, passed_over

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# A store's own mark of a file's content, best first.
_STAMPS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")


class Unavailable(Exception):
    """A file cannot be read now, which says nothing of its rows: the run stops, and goes on at its next start."""


@dataclass(frozen=True)
class Input:
    """One file.

    Args:
        path: Path of the file, or its URL.
        bytes: Size of the file; 0 where a store does not tell.
        stamp: Something that changes when the file is written again.
        refused: Why it is not to be read; "" if it is.
        form: What is given of its form; see ``find_form``.
    """

    path: str
    bytes: int
    stamp: str
    refused: str = ""
    form: Form = Form()

    @classmethod
    def of(cls, path: Path, refused: str = "", form: Form = Form()) -> "Input":  # noqa: B008  (it is frozen)
        """A file of this machine, as it is now.

        Raises:
            OSError: It is not there.
        """
        stat = path.stat()
        return cls(str(path), stat.st_size, str(stat.st_mtime_ns), refused, form)

    @property
    def name(self) -> str:
        """The path as text, whatever bytes it is made of."""
        return self.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    @property
    def identity(self) -> str:
        """What the file is called wherever a run is started: its URL, or its path without links."""
        if _URL.match(self.path):
            return self.path
        return os.path.abspath(self.path) if self.refused else os.path.realpath(self.path)

    @property
    def kind(self) -> str:
        """``text``, ``jsonl``, ``json``, ``csv``, ``tsv``, ``conll`` or ``parquet``."""
        return self._format[0]

    @property
    def compression(self) -> str | None:
        """``gzip``, ``zstd`` or None."""
        return self._format[1]

    @property
    def _format(self) -> tuple[str, str | None]:
        found = file_format(Path(PurePosixPath(self.path).name))
        assert found is not None  # others are not taken in
        return found

    @property
    def key(self) -> str:
        """A name for the folder of its shards: its own name, made harmless, and a hash of what the file is."""
        name = re.sub(r"[^A-Za-z0-9-]+", "-", PurePosixPath(self.identity).name)[:40].strip("-")
        facts = f"{self.identity}\n{self.bytes}\n{self.stamp}"
        return f"{name}-{hashlib.sha256(facts.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"

    def open(self) -> BinaryIO:
        """The file's bytes.

        Raises:
            Unavailable: it has changed since the run was planned, or its store does not answer.
            OSError: a file of this machine that cannot be read.
        """
        if not _URL.match(self.path):
            file = open(self.path, "rb")  # noqa: SIM115
            found = os.fstat(file.fileno())
            if (found.st_size, str(found.st_mtime_ns)) != (self.bytes, self.stamp):
                file.close()
                raise Unavailable(f"{self.path} has just changed; run the same command again, which reads it anew")
            return file
        try:
            import fsspec

            return io.BufferedReader(_Remote(fsspec.open(self.path, "rb").open(), self.path), 2**20)  # type: ignore[arg-type]
        except Exception as error:  # each store's client has kinds of its own
            raise Unavailable(_unanswered(self.path, error)) from error


class _Remote(io.RawIOBase):
    """A stream of a store, whose errors must not pass for damage of the file."""

    mode = "rb"

    def __init__(self, stream: Any, path: str) -> None:
        self.stream, self.name = stream, path

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read(len(buffer))
        except Exception as error:
            raise Unavailable(_unanswered(self.name, error)) from error
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.stream.seekable()

    def close(self) -> None:
        self.stream.close()
        super().close()


def find_inputs(patterns: Iterable[str], form: Form = Form()) -> list[Input]:  # noqa: B008
    """The files that are named, each once (also by several paths), in the order of the patterns and of their names.

    Args:
        patterns: Files, folders, globs and URLs.
        form: What is given of the form of all files.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a file of no readable format, or a URL into an archive.
        OSError: a store cannot be reached.
    """
    found: dict[str, Input] = {}
    for pattern in patterns:
        for file in _remote(pattern, form) if _URL.match(pattern) else _local(pattern, form):
            found.setdefault(file.identity, file)
    return list(found.values())


def find_passed_over(patterns: Iterable[str]) -> list[str]:
    """Files in folders of this machine that no reader takes, by their suffix."""
    local = (pattern for pattern in patterns if not _URL.match(pattern))
    return [str(path) for pattern in local for path in passed_over(Source(path=pattern))]


def _local(pattern: str, form: Form) -> Iterator[Input]:
    # A folder may come from anywhere: a link in it must not lead a run to files that nobody named.
    root = Path(pattern).expanduser()
    while glob.has_magic(root.name) and not root.exists() or any(glob.has_magic(part) for part in root.parent.parts):
        root = root.parent
    named, root = root.is_file(), root.resolve()
    for path in find_files(Source(path=pattern), "input"):
        outside = not named and not path.resolve().is_relative_to(root)
        yield Input.of(path, "unreadable: a link that leads out of the folder" if outside else "", form)


def _remote(pattern: str, form: Form) -> Iterator[Input]:
    if "::" in pattern or pattern.lower().startswith(("zip:", "tar:", "libarchive:")):
        raise ValueError(f"input={pattern} leads into an archive; unpack it, and name the files")
    try:
        from fsspec.core import url_to_fs

        store, root = url_to_fs(pattern)
        folder = store.isdir(root)
        paths = store.find(root) if folder else store.glob(root) if glob.has_magic(root) else [root]
        infos = {path: store.info(path) for path in sorted(paths) if not _hidden(path, root)}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"input={pattern}: no such file or folder; check the spelling") from error
    except Exception as error:  # each store's client has kinds of its own
        raise OSError(_unanswered(pattern, error)) from error
    files = {path: info for path, info in infos.items() if info.get("type") == "file"}
    readable = {path: info for path, info in files.items() if file_format(Path(PurePosixPath(path).name))}
    if not readable or (not folder and len(readable) < len(files)):
        raise FileNotFoundError(f"input={pattern}: none of {len(files)} files is readable; readable are {READABLE}")
    for path, info in readable.items():
        stamp = next((str(info[name]) for name in _STAMPS if info.get(name)), "")
        yield Input(str(store.unstrip_protocol(path)), int(info.get("size") or 0), stamp, form=form)


def _hidden(path: str, root: str) -> bool:
    return any(part[0] in "._" for part in path.removeprefix(root).split("/") if part) and path != root


def _unanswered(path: str, error: Exception) -> str:
    return f"{path} cannot be read now ({type(error).__name__}: {error}); run the same command again later"
