"""Token ids of a source on disk, memory-mapped, made once and reused by every later run.

A cache is a folder with ``tokens.npy`` (every document followed by the closing token), ``offsets.npy`` (where each
document starts, and the end), ``rejects.jsonl`` if records were unusable, and ``cache.json``. Its name holds a hash of
what it was made from: the files (path, size, time of change), the tokenizer and the settings of reading. Weights play
no part, so that mixing the same sources otherwise costs nothing.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from rich.console import Console

from linformers._version import __version__
from linformers.data.documents import hub_revision, read_documents
from linformers.data.store import GrowingArray
from linformers.data.tokenise import TextEncoder
from linformers.files.folders import damage, file_hash, read_manifest, remove_leftovers, write_folder
from linformers.files.forms import describe_forms
from linformers.files.progress import ReadProgress
from linformers.files.rejects import Rejects, TooManyRejects, describe_passed_over, describe_unused, too_many
from linformers.files.sources import Source, find_files

FORMAT = 3  # raise it when the same input gives other files
TOKENS, OFFSETS, REJECTS, FACTS = "tokens.npy", "offsets.npy", "rejects.jsonl", "cache.json"
logger: logging.Logger = logging.getLogger(__name__)


class DamagedFolder(ValueError):
    """A cache whose files are not what its manifest says."""


@dataclass(frozen=True, kw_only=True)
class TokenCache:
    """The tokens of a source, or a contiguous part of them. Cheap to pickle: the arrays are mapped anew.

    Args:
        folder: Folder of the cache.
        facts: what it was made from and holds.
        start: first token of the part.
        stop: end of the part.
    """

    folder: Path
    facts: dict[str, Any]
    start: int
    stop: int

    @classmethod
    def open(cls, folder: Path, *, verify: bool = True) -> "TokenCache":
        """Open a cache.

        Args:
            folder: made by `tokenise`.
            verify: compare the hashes of all files (about a second a gigabyte); without it their sizes.

        Raises:
            DamagedFolder: a file is not as it was written.
        """
        wrong = damage(folder, digest=file_hash if verify else None)
        if wrong is not None:
            raise DamagedFolder(f"{folder}: {wrong}")
        facts, files = json.loads((folder / FACTS).read_text(encoding="utf-8")), read_manifest(folder)
        facts["contents"] = [files[TOKENS][1], files[OFFSETS][1]]
        return cls(folder=folder, facts=facts, start=0, stop=facts["tokens"])

    @cached_property
    def tokens(self) -> np.ndarray:
        """Ids of all documents, each followed by the closing token; a memory map."""
        return np.load(self.folder / TOKENS, mmap_mode="r")[self.start : self.stop]

    @cached_property
    def offsets(self) -> np.ndarray:
        """Start of each document in ``tokens``, and the end of the last, shape (documents + 1,)."""
        offsets = np.load(self.folder / OFFSETS, mmap_mode="r")
        if (self.start, self.stop) == (0, self.facts["tokens"]):
            return offsets
        first = np.searchsorted(offsets, self.start, side="right") - 1
        last = np.searchsorted(offsets, self.stop, side="left")
        return np.clip(offsets[first : last + 1], self.start, self.stop) - self.start

    @property
    def num_tokens(self) -> int:
        """Tokens in this part, closing tokens included."""
        return self.stop - self.start

    @property
    def num_documents(self) -> int:
        """Documents in this part; one that a split cuts in two counts in both parts."""
        return len(self.offsets) - 1

    @property
    def num_rejected(self) -> int:
        """Records of the source that were unusable."""
        return self.facts["rejected"]

    @property
    def rejects_path(self) -> Path | None:
        """The file that names them, if there are any."""
        return self.folder / REJECTS if self.num_rejected else None

    @property
    def files_not_read(self) -> list[str]:
        """Files of a folder that no reader takes."""
        return self.facts.get("passed_over", [])

    def unused(self) -> list[str]:
        """A line that counts the rejects and tells the first; none where there are none."""
        records, first = self.facts["documents"] + self.num_rejected, self.facts["first_reject"]
        return describe_unused(self.num_rejected, records, first, self.rejects_path)

    @property
    def bos_token_id(self) -> int:
        """Id that opens sequences."""
        return self.facts["bos_token_id"]

    @property
    def eos_token_id(self) -> int:
        """Id that closes documents and sequences."""
        return self.facts["eos_token_id"]

    @property
    def fingerprint(self) -> str:
        """A hash of the tokens themselves and of the part: equal fingerprints give equal training data."""
        facts = [*self.facts["contents"], self.start, self.stop]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def split(self, held_out_share: float) -> tuple["TokenCache", "TokenCache"]:
        """Hold out the end of the corpus: two parts, for training and for evaluation.

        The cut is made between two documents, the ones nearest to the share asked for; where the nearest would
        change the share by more than half (one very long document), it is made inside the document.

        Args:
            held_out_share: share of the tokens that is held out.

        Raises:
            ValueError: the share leaves one of the parts empty.
        """
        held = round(held_out_share * self.num_tokens)
        if not 0 < held < self.num_tokens:
            raise ValueError(
                f"held_out_share={held_out_share} of {self.num_tokens:,} tokens leaves training or evaluation empty"
            )
        cut = self.num_tokens - held
        starts = self.offsets[1:-1]
        if len(starts):
            after = int(np.searchsorted(starts, cut))
            nearest = min(starts[max(0, after - 1) : after + 1], key=lambda start: abs(int(start) - cut))
            if abs(int(nearest) - cut) <= held / 2:
                cut = int(nearest)
        return replace(self, stop=self.start + cut), replace(self, start=self.start + cut)

    def __getstate__(self) -> dict[str, Any]:
        # Pickling a memory map copies what it maps: worker processes would each get the whole corpus.
        return {name: getattr(self, name) for name in ("folder", "facts", "start", "stop")}


def tokenise(
    sources: Sequence[Source],
    tokenizer: Any,
    cache_dir: Path | str,
    *,
    max_reject_share: float = 0.01,
    verify: bool = True,
    console: Console | None = None,
) -> list[TokenCache]:
    """The tokens of each source, from a cache made by an earlier run or made now.

    Any number of processes may call this at once: one makes a cache while the others wait for it.

    Args:
        sources: what to read; one cache each, in order.
        tokenizer: a fast tokenizer of transformers.
        cache_dir: folder of the caches.
        max_reject_share: largest share of unusable records in a source.
        verify: check the hash of every file of a cache that is reused; without it, the sizes.
        console: where progress is shown; None shows none.

    Raises:
        ValueError: a source cannot be read or has no text, or too many of its records are unusable.
        OSError: a file is not there, or the disk is full.
    """
    if not sources:
        raise ValueError("sources is empty; give at least one")
    encoder = TextEncoder(tokenizer)
    return [
        _tokenise_one(source, encoder, Path(cache_dir), max_reject_share, verify=verify, console=console)
        for source in sources
    ]


def _tokenise_one(
    source: Source,
    encoder: TextEncoder,
    cache_dir: Path,
    max_reject_share: float,
    *,
    verify: bool,
    console: Console | None,
) -> TokenCache:
    origin = _origin(source)
    facts = {
        "format": FORMAT,
        "text_column": source.text_column,
        "documents_are": source.documents,
        "form": [source.delimiter, source.encoding],
        "tokenizer_sha256": encoder.sha256,
        "origin": origin,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(source.path).name)[:40].strip("._") or "source"
    folder = cache_dir / f"{name}-{key[:16]}"
    rejects_path = cache_dir / f"{folder.name}.rejects.jsonl"
    cache = None
    if folder.exists():  # a whole cache never changes, so that reading it needs no lock
        cache = _reuse(folder, verify)
    if cache is None:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(cache_dir / f".{folder.name}.lock", console):
            cache = _reuse(folder, verify) if folder.exists() else None
            if cache is None:
                remove_leftovers(cache_dir, f"*-{folder.name}")
                _build(folder, rejects_path, source, encoder, facts, max_reject_share, console)
                cache = TokenCache.open(folder, verify=False)
    elif console is not None:
        console.print(
            f"{source.path}: {cache.num_tokens:,} tokens from the cache {folder}", highlight=False, soft_wrap=True
        )
    records = cache.facts["documents"] + cache.num_rejected
    for line in (*describe_passed_over(cache.files_not_read), *cache.unused()) if console is not None else ():
        assert console is not None
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if cache.num_rejected > max_reject_share * records:
        first = cache.facts["first_reject"]
        raise TooManyRejects(too_many(cache.num_rejected, records, max_reject_share, first, cache.rejects_path))
    return cache


def _reuse(folder: Path, verify: bool) -> TokenCache | None:
    try:
        return TokenCache.open(folder, verify=verify)
    except DamagedFolder as error:
        logger.warning("the token cache is damaged and will be made again: %s", error)
        return None


def _origin(source: Source) -> list[dict[str, Any]]:
    """What identifies the content of a source, without reading it."""
    if source.on_hub:
        return [{"path": source.path, "revision": hub_revision(source)}]
    files = [path.resolve() for path in find_files(source)]
    return [
        {"path": str(path), "bytes": status.st_size, "changed": status.st_mtime_ns}
        for path, status in ((path, path.stat()) for path in files)
    ]


@contextmanager
def _locked(path: Path, console: Console | None) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        if console is not None:
            console.print(
                f"another process is making {path.name[1:-5]}; waiting for it", highlight=False, soft_wrap=True
            )
        lock.acquire()
    except NotImplementedError:  # a file system without locks: two processes may do the same work, and none spoils it
        logger.warning("%s has no file locks: every process makes its own cache", path.parent)
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _build(
    folder: Path,
    rejects_path: Path,
    source: Source,
    encoder: TextEncoder,
    facts: dict[str, Any],
    max_reject_share: float,
    console: Console | None,
) -> None:
    rejects = Rejects(path=rejects_path, max_share=max_reject_share)
    rejects_path.unlink(missing_ok=True)

    def write(new: Path) -> None:
        with rejects, ReadProgress(console, f"tokenising {source.path}") as progress:
            tokens = GrowingArray(new / TOKENS, encoder.dtype)
            offsets = GrowingArray(new / OFFSETS, np.dtype("<i8"))
            try:
                offsets.append(np.zeros(1, np.int64))
                documents = read_documents([source], rejects, progress.reached)
                for ids in encoder.stream(documents, rejects.reject_empty):
                    tokens.append(ids)
                    offsets.append(np.array([tokens.length]))
                    progress.add(len(ids))
            finally:
                tokens.close()
                offsets.close()
            rejects.finish()
        for line in describe_forms(rejects.inputs) if console is not None else ():
            assert console is not None
            console.print(line, highlight=False, soft_wrap=True, markup=False)
        if tokens.length == 0:
            first = f"; the first is {rejects.first}" if rejects.first else ""
            raise ValueError(f"path={source.path} holds no text: {rejects.rejected} records, all unusable{first}")
        if _origin(source) != facts["origin"]:
            raise ValueError(f"path={source.path} changed while it was read; run again when its writer is done")
        if rejects_path.exists():
            shutil.move(rejects_path, new / REJECTS)
        found = {
            "linformers": __version__,
            "documents": rejects.documents,
            "rejected": rejects.rejected,
            "reasons": rejects.reasons,
            "first_reject": rejects.first,
            "passed_over": rejects.passed_over,
            "tokens": tokens.length,
            "vocab_size": encoder.vocab_size,
            "bos_token_id": encoder.bos_token_id,
            "eos_token_id": encoder.eos_token_id,
        }
        (new / FACTS).write_text(json.dumps({**facts, **found}, indent=1), encoding="utf-8")

    write_folder(folder, write, intact="nothing half-written is left behind", shared=True)
