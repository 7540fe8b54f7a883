"""Documents to token ids, in batches, with any fast tokenizer of transformers."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from linformers.data.documents import Document

BATCH_CHARACTERS = 2_000_000
PIECE_CHARACTERS = 250_000  # an encoding takes about 100 times the memory of its text
_BREAK = re.compile(r"(?<=\S)(?=\s)")


class Encoder:
    """A tokenizer frozen for corpora: nothing cut off or padded, no special tokens added or recognised.

    That ``<s>`` in a text is three characters and not a special token matters: it is how HTML strikes words out.

    Args:
        tokenizer: a fast tokenizer of transformers, which is copied.
        batch_characters: of the texts that are tokenised at once.

    Raises:
        TypeError: the tokenizer has no fast version.
        ValueError: it has no token that opens or closes sequences.
    """

    def __init__(self, tokenizer: Any, *, batch_characters: int = BATCH_CHARACTERS) -> None:
        self.batch_characters = batch_characters
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise TypeError(f"{type(tokenizer).__name__} is no fast tokenizer; load it with AutoTokenizer")
        self.backend = Tokenizer.from_str(backend.to_str())
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = True  # that is, as text
        self.bos_token_id = _first(tokenizer, "bos_token_id", "cls_token_id")
        self.eos_token_id = _first(tokenizer, "eos_token_id", "sep_token_id")
        self.vocab_size = max(self.backend.get_vocab(with_added_tokens=True).values()) + 1
        facts = f"{self.backend.to_str()} {self.bos_token_id} {self.eos_token_id}"
        self.sha256 = hashlib.sha256(facts.encode()).hexdigest()

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned type that holds every id."""
        return np.dtype("<u2" if self.vocab_size <= 2**16 else "<u4")

    def encode(
        self, documents: Iterable[Document], on_empty: Callable[[Document], None] | None = None
    ) -> Iterator[np.ndarray]:
        """Ids of each document with the closing token after them.

        Args:
            documents: texts; read ahead by one batch.
            on_empty: called with a document that has no tokens, which is then left out.
        """
        batch, size = [], 0
        for document in documents:
            batch.append(document)
            size += len(document.text)
            if size >= self.batch_characters:
                yield from self._encode_batch(batch, on_empty)
                batch, size = [], 0
        yield from self._encode_batch(batch, on_empty)

    def _encode_batch(self, batch: list[Document], on_empty: Callable[[Document], None] | None) -> Iterator[np.ndarray]:
        pieces = [cut_at_blanks(document.text) for document in batch]
        encoded = self._encode_pieces([piece for parts in pieces for piece in parts])
        for document, parts in zip(batch, pieces, strict=True):
            ids = [next(encoded) for _ in parts]
            if sum(map(len, ids)) == 0:
                if on_empty is not None:
                    on_empty(document)
                continue
            yield np.concatenate([*ids, np.array([self.eos_token_id], self.dtype)])

    def _encode_pieces(self, pieces: list[str]) -> Iterator[np.ndarray]:
        """Ids of each piece. The pieces of a very long document are still encoded a batch at a time."""
        group, size = [], 0
        for number, piece in enumerate(pieces, start=1):
            group.append(piece)
            size += len(piece)
            if size >= self.batch_characters or number == len(pieces):
                for encoding in self.backend.encode_batch_fast(group, add_special_tokens=False):
                    yield np.array(encoding.ids, dtype=self.dtype)
                group, size = [], 0


def _first(tokenizer: Any, *names: str) -> int:
    for name in names:
        value = getattr(tokenizer, name, None)
        if value is not None:
            return int(value)
    raise ValueError(f"the tokenizer has neither {' nor '.join(names)}; set one, or train a tokenizer of your own")


def cut_at_blanks(text: str, size: int = PIECE_CHARACTERS) -> list[str]:
    """Cut a long text before blanks into pieces of about ``size`` characters, to bound the memory of encoding.

    Pre-tokenisers that split at blanks, as byte-level BPE does, give the same ids for the pieces as for the whole.
    """
    pieces, start = [], 0
    while len(text) - start > size:
        cut = _BREAK.search(text, start + size)
        if cut is None:
            break
        pieces.append(text[start : cut.start()])
        start = cut.start()
    return [*pieces, text[start:]]
