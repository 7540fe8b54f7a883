"""A folder of results that is only ever replaced whole, file by file, when a run has succeeded."""

import errno
import json
import os
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

RESULTS = "results.json"
_STAGING = ".unfinished"
_LOCK = ".unfinished.lock"


class ResultFolder:
    """Write into ``staging``, then ``publish``; a run that fails leaves what was there as it was.

    Files that the run did not make, such as a user's notes, are never touched.

    Args:
        path: the folder, made if missing.
        kind: of the results; a folder that is not empty must hold a ``results.json`` of the same kind.
        free_bytes: space on the disk that a run needs.
    """

    def __init__(self, path: Path, *, kind: str, free_bytes: int) -> None:
        self.path, self.kind, self.free_bytes = path, kind, free_bytes
        self.staging = path / _STAGING
        self._made = False
        self._lock = FileLock(path / _LOCK)  # the system lets go of it when a process dies, however it dies

    def __enter__(self) -> "ResultFolder":
        """Check the folder and open the staging folder in it.

        Raises:
            ValueError: the path is a file, cannot be written to, is in use, or holds something else.
            OSError: too little space.
        """
        self._check()
        try:
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            shutil.rmtree(self.staging, ignore_errors=True)  # of a run that was killed
            self.staging.mkdir()
        except Timeout as error:
            raise ValueError(f"another run is writing to --output {self.path} now; wait, or name another") from error
        except OSError as error:
            self.__exit__()
            raise ValueError(f"--output {self.path} cannot be written to ({error.strerror}); name another") from error
        free = shutil.disk_usage(self.path).free
        if free < self.free_bytes:
            self.__exit__()
            raise OSError(
                f"only {free / 1e6:,.0f} MB are free where --output {self.path} lies, and the run needs up to "
                f"{self.free_bytes / 1e6:,.0f} MB; free some space or name another folder"
            )
        return self

    def __exit__(self, kind: object = None, error: BaseException | None = None, trace: object = None) -> None:
        """Take the staging folder away, and the folder itself where it was made for nothing.

        Raises:
            OSError: the error that ended the run was a full disk.
        """
        if self._lock.is_locked:
            shutil.rmtree(self.staging, ignore_errors=True)
            self._lock.release()
            (self.path / _LOCK).unlink(missing_ok=True)
        if self._made and self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()
        if _is_full_disk(error):
            raise OSError(
                f"the disk of --output {self.path} is full; what was there before is unchanged: free some space and "
                "run again"
            ) from error

    def publish(self) -> None:
        """Move the staged files into place, one atomic replacement each, the results file last."""
        files = [file for file in self.staging.rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: (file.name == RESULTS, file)):
            target = self.path / file.relative_to(self.staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)

    def write_json(self, name: str, content: object) -> None:
        """Stage a JSON file."""
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (self.staging / name).write_text(text, encoding="utf-8")

    def _check(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--output {self.path} is a file; name a folder")
        if not self.path.exists():
            return
        entries = [entry for entry in self.path.iterdir() if entry.name not in (_STAGING, _LOCK)]
        if entries and not self._is_ours():
            raise ValueError(
                f"--output {self.path} holds {len(entries)} files or folders that are not {self.kind} results; "
                "nothing was changed: name a new folder"
            )

    def _is_ours(self) -> bool:
        try:
            return json.loads((self.path / RESULTS).read_text(encoding="utf-8")).get("kind") == self.kind
        except (OSError, ValueError, AttributeError):
            return False


def _is_full_disk(error: BaseException | None) -> bool:
    full = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    # safetensors has an exception class of its own, which has no errno
    return isinstance(error, OSError) and error.errno in full or "No space left on device" in str(error)
