"""Files and folders on disk that are either whole or not there, whatever happens while they are written.

Both are written under another name, flushed to the disk, and put in place by a rename; a folder also holds a manifest
of the sizes and hashes of its files. So a kill at any moment leaves what was there before whole, and damage that comes
later (a truncated file, a flipped bit) is seen before anything is read.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from uuid import uuid4

MANIFEST = "manifest.json"
UNFINISHED, OLD = ".unfinished-", ".old-"
# Names of the files that decide what a model computes, of all that may lie in its folder.
MODEL_FILES = (
    "config.json",
    "*.safetensors",
    "model.onnx",
    "token*.json",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "preprocessor_config.json",
)


class DiskFullError(OSError):
    """The disk is full; the message says what is intact and what to do."""


# --- hashes


def file_hash(path: Path) -> str:
    """Hash of a file, in hexadecimal."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def hash_once(path: Path) -> str:
    """``file_hash`` of a file that is only read here: it is read again when its size or time has changed."""
    status = path.stat()
    return _hash_of(path.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _hash_of(path: Path, size: int, changed: int) -> str:
    return file_hash(path)


def read_manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and hash of each file of a folder, as they were when ``write_folder`` wrote it.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: it is damaged.
        LookupError: it is another program's.
    """
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    try:
        return {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in content["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise LookupError(f"{folder / MANIFEST} does not list files with bytes and sha256") from error


def damage(folder: Path, names: Sequence[str] = ("*",), digest: Callable[[Path], str] | None = file_hash) -> str | None:
    """What is wrong with a folder, by its manifest; None when it is whole.

    Args:
        folder: The folder.
        names: Patterns of the names of the files that are checked.
        digest: The hash of a file, which costs one reading of it; None compares sizes alone.
    """
    try:
        expected = read_manifest(folder)
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, LookupError):
        return f"{MANIFEST} cannot be read"
    for name, (size, content) in expected.items():
        path = folder / name
        if not any(fnmatch(path.name, pattern) for pattern in names):
            continue
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes in place of {size}"
        if digest is not None and digest(path) != content:
            return f"{name} has other contents than were written"
    return None


def check_intact(model: str, folder: Path) -> None:
    """Refuse a model whose weights, configuration or tokenizer are not what its manifest says.

    A folder without a manifest of ours passes, as those of the hub; so do cards that were edited and files that were
    added. Each file is read once a process.

    Args:
        model: What the message begins with.
        folder: The folder of the model.

    Raises:
        ValueError: A file differs or is missing; the message names it.
    """
    aside = folder.absolute().with_name(OLD + folder.absolute().name)  # "." has no name
    if aside.is_dir() and not folder.exists():
        raise ValueError(
            f"{model} was being replaced by a command that was killed: run that command again, or, to have back what "
            f"was there, rename {aside}"
        )
    try:
        read_manifest(folder)
    except (FileNotFoundError, NotADirectoryError, LookupError):
        return
    except ValueError:
        pass  # damaged, as said below
    wrong = damage(folder, MODEL_FILES, hash_once)
    if wrong is not None:
        raise ValueError(
            f"{model} is damaged: {wrong}. Make or copy it again; where the change was meant, delete "
            f"{folder / MANIFEST}"
        )


def explain(error: BaseException) -> str | None:
    """The sentence for a full disk, a disk or folder that is not to be written to, and the like.

    None for an error that has words of its own.
    """
    number = getattr(error, "errno", None)
    if _is_full(error):
        return f"the disk is full: {_place(error)} was not written; free some space and run the same command again"
    if not isinstance(error, OSError) or number is None or not str(error).startswith("[Errno"):
        return None
    if number == errno.EROFS:
        return f"{_place(error)} cannot be written, as the disk is read-only; name a folder elsewhere"
    if number in (errno.EACCES, errno.EPERM):
        return f"{_place(error)} cannot be read or written ({error.strerror}); change its permissions, or name another"
    return f"{_place(error)}: {error.strerror}"


def _is_full(error: BaseException) -> bool:
    # safetensors has an exception class of its own, which has no errno
    full = getattr(error, "errno", None) in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    return (full or "No space left on device" in str(error)) and not isinstance(error, DiskFullError)


def _place(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    return "the result" if name is None else str(name).replace(UNFINISHED, "")


# --- where results may be written


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
    there = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK):  # before hours of work
        raise ValueError(f"output={str(output)!r} cannot be written to, as {there} is read-only; name another folder")
    restore(output)
    if output.is_dir() and any(output.iterdir()) and not (output / fact).is_file():
        raise ValueError(f"output={output} holds other files; name a new folder")


# --- writing


def write_file(
    target: Path, content: str | bytes | Callable[[Path], object], *, intact: str = "", shared: bool = False
) -> None:
    """Write a file in one step, in place of an old one of the same name; a link there is replaced, not followed.

    Args:
        target: The file.
        content: Its content, or a function that writes a file at the path that it is given.
        intact: What a message about a full disk should say is intact.
        shared: Whether other processes may write the same file now; what they leave when they are killed is then
            removed by ``remove_leftovers`` alone.

    Raises:
        DiskFullError: No space left; ``target`` is as it was.
    """
    with _replacing(target, intact, shared) as unfinished:
        if callable(content):
            content(unfinished)
        else:
            unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        flush(unfinished)


def write_folder(target: Path, write: Callable[[Path], object], *, intact: str = "", shared: bool = False) -> None:
    """Write a folder in one step, in place of an old one of the same name.

    Args:
        target: The folder.
        write: Fills the empty folder that it is given.
        intact: What a message about a full disk should say is intact.
        shared: See ``write_file``; of processes that write the same, one is first, and that is no error.

    Raises:
        DiskFullError: No space left; ``target`` is as it was.
    """
    with _replacing(target, intact, shared) as unfinished:
        unfinished.mkdir(parents=True)
        write(unfinished)
        write_manifest(unfinished)
        for path in [*unfinished.rglob("*"), unfinished]:
            flush(path)


def save_beside(target: Path, write: Callable[[Path], object]) -> None:
    """Write files into a folder, beside what is there, each in one step; where one fails, none is replaced.

    Args:
        target: The folder.
        write: Fills the empty folder that it is given.

    Raises:
        DiskFullError: No space left.
    """
    staging = target / f"{UNFINISHED}files"
    with reports_full_disk(target, ""):
        try:
            _remove(staging)
            staging.mkdir(parents=True)
            write(staging)
            for path in sorted(staging.iterdir()):
                os.replace(path, target / path.name)
        finally:
            _remove(staging)


def write_manifest(folder: Path) -> None:
    """Write the sizes and hashes of the files of a folder into it."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "files": files}, indent=1), encoding="utf-8")


def remove_folder(folder: Path) -> None:
    """Remove a folder; half removed it has another name, and looks like none that is damaged."""
    gone = folder.with_name(UNFINISHED + folder.name)
    _remove(gone)
    folder.rename(gone)
    _remove(gone)


def restore(target: Path) -> None:
    """Put back a folder that a kill left moved aside, between the two renames that put another in its place.

    For a process that is about to write there: a process that writes now would be disturbed.
    """
    old = target.absolute().with_name(OLD + target.absolute().name)  # "." has no name
    if os.path.lexists(old) and not os.path.lexists(target):
        old.rename(target)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half written or half removed; for a process that holds the folder alone.

    An earlier folder that they moved aside goes back, see ``restore``.
    """
    for path in folder.glob(f"{OLD}{name}"):
        restore(path.with_name(path.name.removeprefix(OLD)))
    for prefix in (UNFINISHED, OLD):
        for path in folder.glob(f"{prefix}{name}"):
            _remove(path)


@contextmanager
def reports_full_disk(target: Path, intact: str) -> Iterator[None]:
    """Turn "no space left" into a message that helps.

    Raises:
        DiskFullError: No space left.
    """
    try:
        yield
    except Exception as error:
        if _is_full(error):
            raise DiskFullError(
                f"the disk is full: {target} was not written{f', {intact}' if intact else ''}; free some space and run "
                "the same command again"
            ) from error
        raise


@contextmanager
def _replacing(target: Path, intact: str, shared: bool) -> Iterator[Path]:
    """Give a path to write to, and put what is there in the target's place when the block ends well."""
    unfinished, old = target.with_name(UNFINISHED + target.name), target.with_name(OLD + target.name)
    if shared:  # what is moved aside is as good as what takes its place
        unfinished, old = (target.with_name(f"{UNFINISHED}{uuid4().hex}-{target.name}") for _ in range(2))
    with reports_full_disk(target, intact):
        try:
            _remove(unfinished)
            restore(target)
            yield unfinished
            if unfinished.is_dir() and os.path.lexists(target):
                _remove(old)
                target.rename(old)
            try:
                os.replace(unfinished, target)
            except OSError:
                if not (shared and (target / MANIFEST).is_file()):  # otherwise another process was faster
                    raise
            flush(target.parent)
            if os.path.lexists(old):
                old.rename(unfinished)  # what is half removed does not look whole
        finally:
            _remove(unfinished)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
