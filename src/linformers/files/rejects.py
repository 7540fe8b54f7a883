"""Records that cannot be used: counted, named in a file with the reason, and too many of them stop the run."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from linformers.files.forms import describe_forms
from linformers.files.inputs import Input
from linformers.files.sources import READABLE

NOT_READ = f"not read: readable are {READABLE}"
CHECK_EVERY = 1000  # records; the share of a shorter run-up says little
SHOWN = 200  # characters of a bad value that the file keeps


class TooManyRejects(ValueError):
    """More records were unusable than ``max_share`` allows."""


@dataclass(kw_only=True)
class Rejects:
    """Counts the records read, and writes the unusable ones to a JSON-lines file.

    Every record is one or the other (or left out by a rule, which is no fault of the record), so ``documents + rejected
    + left_out`` is the number of records in the sources. The file has
    ``file``, ``line`` (or row), ``reason`` and the start of the ``value``; it is made at the first reject.

    Args:
        path: file for the rejects; None only counts.
        max_share: largest share of unusable records, checked every 1,000 records and by `finish`.

    Attributes:
        inputs: Files that were read, for `notes`.
        passed_over: Files of folders that no reader takes; each has an entry in the file (line 0), but counts as no
            record.
    """

    path: Path | None = None
    max_share: float = 0.01
    documents: int = 0
    rejected: int = 0
    left_out: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.max_share <= 1:
            raise ValueError(f"max_reject_share={self.max_share} must be a share between 0 and 1")
        self._file: IO[str] | None = None
        self.first = ""
        self.inputs: dict[Input, None] = {}
        self.passed_over: list[str] = []
        self._begun = False

    @property
    def records(self) -> int:
        """Records read so far."""
        return self.documents + self.rejected + self.left_out

    def accept(self) -> None:
        """Count a usable record."""
        self.documents += 1
        if self.records % CHECK_EVERY == 0:
            self._check()

    def reject(self, file: str, line: int, reason: str, value: str = "", ids: Mapping[str, Any] | None = None) -> None:
        """Count and write down an unusable record, with its ids where they are known.

        Raises:
            TooManyRejects: the share is above ``max_share``.
        """
        self.rejected += 1
        self.first: str = self.first or printable(f"{file}:{line}: {reason}")
        self._write(file, line, reason, value, ids)
        if self.records % CHECK_EVERY == 0:
            self._check()

    def leave_out(
        self, file: str, line: int, reason: str, value: str = "", ids: Mapping[str, Any] | None = None
    ) -> None:
        """Write down a usable record that a rule leaves out; it is none of the rejected ones."""
        self.documents -= 1
        self.left_out += 1
        self._write(file, line, reason, value, ids)

    def pass_over(self, files: Iterable[Any]) -> None:
        """Note files of a folder that no reader takes."""
        for file in map(str, files):
            if file not in self.passed_over:
                self.passed_over.append(file)
                self._put({"file": file, "line": 0, "reason": NOT_READ, "value": ""})

    def notes(self) -> list[str]:
        """What a command should say: as what files were read, and which were not."""
        return [*describe_forms(self.inputs), *describe_passed_over(self.passed_over)]

    def _write(self, file: str, line: int, reason: str, value: str, ids: Mapping[str, Any] | None) -> None:
        kind = reason.split(":")[0]
        self.reasons[kind] = self.reasons.get(kind, 0) + 1
        self._put({"file": file, "line": line, **(ids or {}), "reason": reason, "value": value[:SHOWN]})

    def _put(self, entry: dict[str, Any]) -> None:
        if self.path is None:
            return
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a" if self._begun else "w", encoding="utf-8")
            self._begun = True
        # Bytes of a row that are no text stand as half surrogate pairs here, which no file takes.
        self._file.write(printable(json.dumps(entry, ensure_ascii=False)) + "\n")

    def reject_empty(self, document: tuple[str, str]) -> None:
        """Take back a document (text and provenance) in which the tokenizer finds no token."""
        text, provenance = document
        file, line = provenance.rsplit(":", 1)
        self.documents -= 1
        self.reject(file, int(line), "empty: the tokenizer finds no token", text)

    def unused(self) -> list[str]:
        """A line that counts the rejects and tells the first; none where there are none."""
        return describe_unused(self.rejected, self.records, self.first, self.path)

    def finish(self) -> None:
        """Close the file and check the share over all records.

        Raises:
            TooManyRejects: the share is above ``max_share``.
        """
        self.close()
        self._check()

    def close(self) -> None:
        """Write the file out."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _check(self) -> None:
        if self.rejected > self.max_share * self.records:
            self.close()
            raise TooManyRejects(too_many(self.rejected, self.records, self.max_share, self.first, self.path))

    def __enter__(self) -> "Rejects":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def printable(text: str) -> str:
    """Text that every file takes: half surrogate pairs, which stand for bytes that are no text, by their numbers."""
    return text.encode("utf-8", "backslashreplace").decode()


def describe_unused(rejected: int, records: int, first: str, path: Path | None) -> list[str]:
    """A line that counts the rejects and tells the first; none where there are none."""
    listed = f"; all are listed in {path}" if path is not None else ""
    return [f"{rejected:,} of {records:,} records unusable; the first is {first}{listed}"] if rejected else []


def too_many(rejected: int, records: int, max_share: float, first: str, path: Path | None) -> str:
    """The message that names how many records are unusable, the first of them, and what to do."""
    listed = f"; all are listed in {path}" if path is not None else ""
    return (
        f"{rejected:,} of {records:,} records are unusable, more than max_reject_share={max_share:g} allows. "
        f"The first is {first}{listed}. Repair them, or raise max_reject_share"
    )


def describe_passed_over(files: Sequence[str]) -> list[str]:
    """A line that counts and names files which no reader takes; none where there are none."""
    if not files:
        return []
    kinds = Counter(Path(file).suffix.lower() or "no suffix" for file in files)
    shown = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(5))
    return [f"not read: {len(files):,} files of other formats ({shown}), such as {files[0]}"]
