"""Folders of arrays that are there in full or not at all.

A folder is written under another name and renamed when its manifest, which is written last, holds the size and hash of
every file. So a reader sees no half-written folder, whenever the writer was killed.
"""

import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from linformers.files.folders import file_hash, flush

MANIFEST = "manifest.json"


class DamagedFolder(ValueError):
    """A folder whose files are not what its manifest says."""


class GrowingArray:
    """Writes a one-dimensional ``.npy`` file piece by piece, to read with ``numpy.load(mmap_mode="r")``.

    Args:
        path: the file.
        dtype: of the numbers.
    """

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.dtype, self.length = dtype, 0
        self._file = path.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        # numpy leaves room in the header for the longest length, so that it can be overwritten in place.
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: np.ndarray) -> None:
        """Add numbers at the end."""
        self._file.write(values.astype(self.dtype, copy=False).tobytes())
        self.length += len(values)

    def close(self) -> None:
        """Write the final length and everything to the disk."""
        if self._file.closed:
            return
        try:
            self._file.seek(0)
            self._write_header()
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


def _manifest_hash(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of a folder that is complete: ``facts``, and the size and hash of every file."""
    contents = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_hash(path)} for path in sorted(folder.iterdir())
    }
    facts = {**facts, "contents": contents}
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({**facts, "sha256": _manifest_hash(facts)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path, *, verify: bool) -> dict[str, Any]:
    """Read the manifest of a folder and check the files against it.

    Args:
        folder: written by `write_manifest`.
        verify: compare hashes, which reads every file; without it only sizes.

    Raises:
        DamagedFolder: a file is missing or not as it was written; the message names it.
    """
    try:
        facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        contents = facts["contents"]
        intact = facts.pop("sha256") == _manifest_hash(facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFolder(f"{folder / MANIFEST} cannot be read ({type(error).__name__}: {error})") from error
    if not intact:
        raise DamagedFolder(f"{folder / MANIFEST} is not as it was written")
    for name, expected in contents.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected["bytes"]:
            raise DamagedFolder(f"{path} has {size} bytes where its manifest has {expected['bytes']}")
        if verify and file_hash(path) != expected["sha256"]:
            raise DamagedFolder(f"{path} is not as it was written: its hash differs from the manifest")
    return facts


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``final`` when the block ends well, and is removed when it fails.

    A folder that stands in its place is replaced.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        if final.exists():
            aside = temporary.with_suffix(".old")
            final.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        try:
            temporary.rename(final)
        except OSError:
            if not (final / MANIFEST).is_file():  # otherwise another process was faster, with the same content
                raise
        flush(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(final: Path) -> None:
    """Remove temporary folders of processes that were killed. Only for the holder of the lock of ``final``."""
    for pattern in ("tmp", "old"):
        for left in final.parent.glob(f".{glob.escape(final.name)}.*.{pattern}"):
            shutil.rmtree(left, ignore_errors=True)
