"""Training examples straight from the sources, for corpora larger than the disk has room for as tokens.

Every reader (a DataLoader worker of a rank) goes through its own share of the files, epoch after epoch. What it gives
out depends on the sources, the seed, the number of readers and its own number, and on nothing else. Where memory-mapped
tokens fit on the disk, `PackedBlocks` is better: it shuffles the whole corpus, and it resumes at once.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from linformers.data.corpus import Documents
from linformers.data.documents import Document, read_part
from linformers.data.masking import Masking
from linformers.data.streams import Example
from linformers.data.tokenise import TextEncoder
from linformers.files.rejects import Rejects
from linformers.files.sources import Source, find_files

BATCH_CHARACTERS = 200_000  # tokenised at once: little is read ahead, and still enough for every thread
OPEN_FILES = 8  # read in turns, a document of each, so that neighbours in a file are not neighbours in training


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one reader reads of a file in an epoch: the documents whose number is ``slot`` modulo ``slots``."""

    source: Source
    path: Path | None
    slot: int
    slots: int


def plan(files: Sequence[Sequence[Any]], weights: Sequence[float], *, seed: int, epoch: int) -> list[tuple[int, Any]]:
    """The files of an epoch, as (source, file), in the order of reading.

    Over the epochs each file comes ``weight`` times an epoch: of a weight of 0.5, every other epoch.
    """
    chosen = []
    for number, (inside, weight) in enumerate(zip(files, weights, strict=True)):
        first, stop = int(epoch * weight * len(inside) + 1e-9), int((epoch + 1) * weight * len(inside) + 1e-9)
        chosen += [(number, inside[position % len(inside)]) for position in range(first, stop)]
    order = np.random.default_rng((seed, epoch)).permutation(len(chosen))
    return [chosen[place] for place in order]


def shares(files: Sequence[Any], reader: int, readers: int) -> list[tuple[Any, int, int]]:
    """The files of one reader, as (file, slot, slots): all readers together read every document once.

    With as many files as readers or more, each file has one reader. With fewer, the readers of a file share its
    documents.
    """
    if len(files) >= readers:
        return [(file, 0, 1) for file in files[reader::readers]]
    if not files:
        return []
    place = reader % len(files)
    together = len(range(place, readers, len(files)))
    return [(files[place], reader // len(files), together)]


class StreamedBlocks(IterableDataset[Any]):
    """Masked blocks, tokenised on the way.

    Blocks are made as by `PackedBlocks`, within the documents of a reader, then shuffled in a buffer. To resume, read
    the items that this rank has consumed once more: they are the same, where the numbers of ranks and workers and the
    batch size are the same.

    Args:
        sources: what to read, with weights.
        tokenizer: a fast tokenizer of transformers.
        length: tokens of a block.
        masking: which tokens are predicted.
        seed: Seed of the order of the files, the shuffling and the masks.
        total: items of this rank in all, over its workers.
        batch_size: Batch size of the DataLoader, whose workers take turns by batches: no batch but the last is short.
        rank: number of this process among those that train together.
        world_size: number of these processes.
        documents: ``joined`` or ``apart``, see `PackedBlocks`.
        shuffle_blocks: blocks in the shuffling buffer; 1 does not shuffle.
        rejects_dir: where each reader names its unusable records; None only counts them.
        max_reject_share: largest share of them.

    Raises:
        ValueError: a setting that cannot be; while reading, too many rejects or a reader without documents.
    """

    sources: list[Source]
    tokenizer: Any
    length: int
    masking: Masking
    seed: int
    total: int
    rank: int
    world_size: int
    shuffle_blocks: int
    batch_size: int
    rejects_dir: Path | None
    max_reject_share: float

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Any,
        *,
        length: int,
        masking: Masking,
        seed: int,
        total: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        documents: Documents = "joined",
        shuffle_blocks: int = 1024,
        rejects_dir: Path | None = None,
        max_reject_share: float = 0.01,
    ) -> None:
        if length < 3:
            raise ValueError(f"length={length} leaves no room between <s> and </s>; use 3 or more")
        if documents not in get_args(Documents):
            raise ValueError(f"documents={documents!r} must be one of {', '.join(get_args(Documents))}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} must be below world_size={world_size}")
        if shuffle_blocks < 1 or batch_size < 1:
            raise ValueError(f"shuffle_blocks={shuffle_blocks} and batch_size={batch_size} must be at least 1")
        if not sources:
            raise ValueError("sources is empty; give at least one")
        self.sources, self.tokenizer, self.length, self.masking = list(sources), tokenizer, length, masking
        self.seed, self.total, self.rank, self.world_size = seed, total, rank, world_size
        self.documents, self.shuffle_blocks, self.batch_size = documents, shuffle_blocks, batch_size
        self.rejects_dir, self.max_reject_share = rejects_dir, max_reject_share
        self.files: list[list[None] | list[Path]] = [
            [None] if source.on_hub else find_files(source) for source in self.sources
        ]

    def __iter__(self) -> Iterator[Example]:
        """Items of this worker: the DataLoader takes a batch of each worker in turn."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if info:  # this process is one of many that tokenise, each with one thread
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        reader, readers = self.rank * workers + worker, self.world_size * workers
        wanted = _of_worker(self.total, worker, workers, self.batch_size)
        blocks = self._shuffled(self._blocks(reader, readers), reader, readers)
        for number in range(wanted):
            shown, labels = self.masking(next(blocks), (self.seed, readers, reader, number))
            yield {"input_ids": torch.from_numpy(shown), "labels": torch.from_numpy(labels)}

    def _shuffled(self, blocks: Iterator[np.ndarray], reader: int, readers: int) -> Iterator[np.ndarray]:
        rng = np.random.default_rng((self.seed, readers, reader))
        buffer: list[np.ndarray] = []
        for block in blocks:
            if len(buffer) < self.shuffle_blocks - 1:
                buffer.append(block)
                continue
            place = int(rng.integers(len(buffer) + 1))
            if place < len(buffer):
                block, buffer[place] = buffer[place], block
            yield block

    def _blocks(self, reader: int, readers: int) -> Iterator[np.ndarray]:
        """Blocks of one reader, epoch after epoch, without end."""
        encoder = TextEncoder(self.tokenizer)
        body, open_id, close_id = self.length - 2, encoder.bos_token_id, encoder.eos_token_id
        rest = np.empty(0, encoder.dtype)
        rejects = Rejects(max_share=self.max_reject_share)
        if self.rejects_dir is not None:
            rejects.path = self.rejects_dir / f"rejects-{reader:05}-of-{readers:05}.jsonl"
        # A source of weight 0.01 rests for 99 epochs; a reader that finds nothing for so long never will.
        patience = idle = 2 + 1 / min(source.weight for source in self.sources)
        for epoch in count():
            documents = self._documents(reader, readers, epoch, rejects)
            for ids in encoder.stream(documents, rejects.reject_empty, characters=BATCH_CHARACTERS):
                idle = patience
                if self.documents == "apart":
                    # The closing token of the document closes its last block.
                    pieces = [ids[start : min(start + body, len(ids) - 1)] for start in range(0, len(ids) - 1, body)]
                else:
                    rest = np.concatenate([rest, ids])
                    full = len(rest) // body
                    pieces = list(rest[: full * body].reshape(full, body))
                    rest = rest[full * body :].copy()
                for piece in pieces:
                    block = np.empty(len(piece) + 2, dtype=np.int64)
                    block[0], block[1:-1], block[-1] = open_id, piece, close_id
                    yield block
            rejects.finish()
            rejects.path = None  # later epochs would only name the same records again
            idle -= 1
            if idle < 0:
                raise ValueError(
                    f"reader {reader} of {readers} (ranks x workers) finds no document: there are fewer documents than "
                    "readers. Use fewer workers, or the token cache, which every rank can read in any part"
                )

    def _documents(self, reader: int, readers: int, epoch: int, rejects: Rejects) -> Iterator[Document]:
        """Documents of one reader in an epoch."""
        files = plan(self.files, [source.weight for source in self.sources], seed=self.seed, epoch=epoch)
        mine = [
            Share(source=self.sources[number], path=file, slot=slot, slots=slots)
            for (number, file), slot, slots in shares(files, reader, readers)
        ]
        return _in_turns(mine, rejects)


def _of_worker(items: int, worker: int, workers: int, batch_size: int) -> int:
    """How many of the first ``items`` of a rank come from one worker, when workers take turns by batches."""
    turns, left = divmod(items, workers * batch_size)
    return turns * batch_size + min(max(left - worker * batch_size, 0), batch_size)


def _in_turns(mine: Sequence[Share], rejects: Rejects) -> Iterator[Document]:
    """Documents of several files, some files open at once and read in turns."""
    waiting = deque(mine)
    running: deque[Iterator[Document]] = deque()
    while waiting or running:
        while waiting and len(running) < OPEN_FILES:
            running.append(_of_share(waiting.popleft(), rejects))
        documents = running.popleft()
        document = next(documents, None)
        if document is not None:
            running.append(documents)
            yield document


def _of_share(share: Share, rejects: Rejects) -> Iterator[Document]:
    for number, (document, _) in enumerate(read_part(share.source, share.path, rejects)):
        if number % share.slots == share.slot:
            yield document
