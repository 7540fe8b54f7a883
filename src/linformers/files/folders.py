"""Folders on disk that are either whole or not there, whatever happens while they are written.

A folder is written under another name, every file is flushed to the disk, a manifest of sizes and hashes is written
last, and then one rename puts it in place. So a kill at any moment leaves the folders before it whole, and damage that
comes later (a truncated file, a flipped bit) is seen before anything is read.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "manifest.json"
UNFINISHED, OLD = ".unfinished-", ".old-"


class DiskFullError(OSError):
    """The disk is full; the message says what is intact and what to do."""


def file_hash(path: Path) -> str:
    """Hash of a file, in hexadecimal."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def flush(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_no_file(folder: Path, option: str = "output") -> None:
    """Whether a folder can be there.

    Raises:
        ValueError: a file stands there, or above.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{option}={str(folder)!r}: {there} is a file; name a folder")


def check_output(output: Path, fact: str) -> None:
    """Whether ``write_folder`` may put a result there: nothing is, or an earlier one, which has the file ``fact``.

    Raises:
        ValueError: a file stands there or above, or the folder holds something else.
    """
    check_no_file(output)
    if output.is_dir() and any(output.iterdir()) and not (output / fact).is_file():
        raise ValueError(f"output={output} holds other files; name a new folder")


def write_folder(target: Path, write: Callable[[Path], None], *, intact: str = "") -> None:
    """Write a folder in one step, in place of an old one of the same name.

    Args:
        target: the folder.
        write: fills the empty folder that it is given.
        intact: what a message about a full disk should say is intact.

    Raises:
        DiskFullError: no space left; ``target`` is as it was.
    """
    unfinished, old = target.parent / f"{UNFINISHED}{target.name}", target.parent / f"{OLD}{target.name}"
    with reports_full_disk(target, unfinished, intact):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write(unfinished)
        files = sorted(path for path in unfinished.rglob("*") if path.is_file())
        manifest = {
            path.relative_to(unfinished).as_posix(): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
            for path in files
        }
        (unfinished / MANIFEST).write_text(json.dumps({"format": 1, "files": manifest}, indent=1), encoding="utf-8")
        for path in [*files, unfinished / MANIFEST, *(p for p in unfinished.rglob("*") if p.is_dir()), unfinished]:
            flush(path)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        unfinished.rename(target)
        flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def reports_full_disk(target: Path, unfinished: Path, intact: str) -> Iterator[None]:
    """Turn "no space left" into a message that helps, and take away what was begun."""
    try:
        yield
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        # safetensors has an exception class of its own, which has no errno
        full = getattr(error, "errno", None) in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        if full or "No space left on device" in str(error):
            raise DiskFullError(
                f"the disk is full: {target} was not written{f', {intact}' if intact else ''}; free some space and run "
                "the same command again"
            ) from error
        raise


def damage(folder: Path) -> str | None:
    """What is wrong with a folder, by its manifest; None when it is whole.

    Costs one reading of all files.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes in place of {size}"
        if file_hash(path) != digest:
            return f"{name} has other contents than were written"
    return None
