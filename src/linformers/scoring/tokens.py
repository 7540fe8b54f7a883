"""Texts as token ids, in as many pieces as the model has to read them in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from linformers.data.encoding import PIECE_CHARACTERS, cut_at_blanks
from linformers.scoring.settings import Long

AT_ONCE = 500_000  # characters; encodings take about 100 times the memory of their text
# Of a text that is cut, so many characters a token are read first, and more where they are too few. The last tokens
# before the cut may not be those of the whole text, so that some to spare are asked for.
CHARACTERS, SPARE = 8, 16


@dataclass
class Tokens:
    """Token ids of some texts, special tokens included.

    Args:
        windows: the pieces, in the order of the texts.
        owner: the text that each piece is of.
        long: texts that are longer than the model reads at once.
        empty: texts without a token, which have no piece.
    """

    windows: list[np.ndarray]
    owner: np.ndarray
    long: int
    empty: list[int]


class TextEncoder:
    """A tokenizer that cuts as a model needs it.

    The ids are those of ``tokenizer(text, truncation=True, max_length=max_length)``; with ``windows`` the rest of the
    text follows in pieces, each with special tokens around it. Only as much of a long text is read as is needed.

    Args:
        tokenizer: a fast tokenizer of transformers, which is copied.
        max_length: tokens of a piece, special ones included.
        long: what becomes of longer texts.

    Raises:
        ValueError: no fast tokenizer, one that cuts at the start, or a length without room for text.
    """

    def __init__(self, tokenizer: Any, max_length: int, long: Long) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(f"the model's tokenizer, {type(tokenizer).__name__}, has no tokenizer.json; save it again")
        if tokenizer.truncation_side != "right":
            raise ValueError("the model's tokenizer has truncation_side='left', which score cannot do; set 'right'")
        self.backend = Tokenizer.from_str(backend.to_str())
        self.backend.no_truncation()
        self.backend.no_padding()
        plain, full = (self.backend.encode("a", add_special_tokens=special).ids for special in (False, True))
        self.before = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
        self.opening, self.closing = full[: self.before], full[self.before + len(plain) :]
        self.room = max_length - len(self.opening) - len(self.closing)
        if self.room < 1:
            raise ValueError(f"max_length={max_length} leaves no room between the special tokens; give more")
        self.long: Long = long

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Encode texts."""
        ids = self._beginnings(texts) if self.long == "truncate" else self._encode(texts)
        windows, owner, long = [], [], 0
        for text, found in enumerate(ids):
            long += len(found) > self.room
            end = min(len(found), self.room) if self.long == "truncate" else len(found)
            for start in range(0, end, self.room):
                piece = found[start : min(start + self.room, end)]
                windows.append(np.concatenate([self.opening, piece, self.closing]).astype(np.int32))
                owner.append(text)
        empty = [text for text, found in enumerate(ids) if not len(found)]
        return Tokens(windows, np.array(owner, dtype=np.int64), long, empty)

    def _beginnings(self, texts: Sequence[str]) -> list[np.ndarray]:
        """At least the tokens that are read and one more, of texts that have so many."""
        found: list[np.ndarray] = [np.empty(0, np.int32)] * len(texts)
        waiting, size = list(range(len(texts))), CHARACTERS * (self.room + SPARE)
        while waiting:
            parts = [cut_at_blanks(texts[text][: size + 100], size)[0] for text in waiting]
            again = []
            for text, part, ids in zip(waiting, parts, self._encode(parts), strict=True):
                found[text] = ids[: self.room + 1]
                if len(part) < len(texts[text]) and len(ids) < self.room + SPARE:
                    again.append(text)
            waiting, size = again, 4 * size
        return found

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """All ids of texts, some at a time; very long ones in pieces."""
        pieces = [[part for piece in cut_at_blanks(text) for part in _cut_hard(piece)] for text in texts]
        found, batch, size = [], [], 0
        for parts in pieces:
            for part in parts:
                if batch and size + len(part) > AT_ONCE:
                    found += self._encode_batch(batch)
                    batch, size = [], 0
                batch.append(part)
                size += len(part)
        encoded = iter([*found, *self._encode_batch(batch)])
        return [np.concatenate([next(encoded) for _ in parts]) for parts in pieces]

    def _encode_batch(self, batch: Sequence[str]) -> list[np.ndarray]:
        encodings = self.backend.encode_batch_fast(batch, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]


def _cut_hard(text: str) -> list[str]:
    """A text without blanks is cut anywhere, or one row could take all memory."""
    return [text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS)] or [""]
