"""Text to token ids: the one place where users' texts become what a model reads.

Nothing is cut off or padded but where an argument says so, whatever the tokenizer's own file asks for. Special tokens
that stand in a text are text (of tokenizers with a fast version): ``<s>`` is three characters, which is how HTML
strikes words out.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from tokenizers import Tokenizer
from transformers import BatchEncoding

from linformers.data.documents import Document
from linformers.data.padding import pad_right

AT_ONCE = 500_000  # characters; encodings take about 100 times the memory of their text
PIECE_CHARACTERS = 250_000
WORD_CHARACTERS = 1000  # after which no blank is waited for
# Of a text that is cut, so many characters a token are read first, and more where they are too few. The last tokens
# before the cut may not be those of the whole text, so that some to spare are asked for.
CHARACTERS, SPARE = 8, 16
EncodedT = TypeVar("EncodedT")
_BREAK = re.compile(r"(?<=\S)(?=\s)")


@dataclass
class Tokens:
    """Pieces of some texts, special tokens included.

    Args:
        windows: Ids of the pieces, in the order of the texts.
        owner: Number of the text that each piece is of.
        long: How many texts are longer than a piece.
        empty: Numbers of the texts without a token, which have no piece.
        kinds: For pairs, which text each token belongs to, for tokenizers that tell it (``token_type_ids``).
        starts: For each piece, the number of its first token among those of the text.
        ends: For each piece, the number after that of its last token.
        heads: For each piece, how many tokens are put before its first one.
    """

    windows: list[np.ndarray]
    owner: np.ndarray
    long: int
    empty: list[int]
    kinds: list[np.ndarray] | None = None
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Tokens of all pieces."""
        return sum(map(len, self.windows))


@dataclass
class Located:
    """Ids of a text without special tokens, and where each stands.

    Args:
        ids: Ids.
        spans: First character of each and the one behind its last, (tokens, 2).
    """

    ids: np.ndarray
    spans: np.ndarray


@dataclass
class Inputs:
    """What a model reads of some texts, or pairs of texts.

    Args:
        rows: ``input_ids`` (and ``token_type_ids``, where the model has them) of each.
        cut: How many were too long.
    """

    rows: list[dict[str, np.ndarray]]
    cut: int


@dataclass
class Pair:
    """What a model reads of two texts, and which tokens of the second it reads.

    Args:
        row: ``input_ids`` (and ``token_type_ids``, where the model has them).
        start: Number of the input's token that is the first one of the second text.
        begin: Number of that token in the second text.
        end: Number behind that of its last token.
    """

    row: dict[str, np.ndarray]
    start: int
    begin: int
    end: int


class TextEncoder:
    """A tokenizer for texts of any length.

    Args:
        tokenizer: Tokenizer of transformers; a fast one is copied.

    Raises:
        ValueError: The tokenizer finds no token in plain letters.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.backend: Tokenizer | None = (
            _frozen(tokenizer) if getattr(tokenizer, "backend_tokenizer", None) is not None else None
        )
        self._pad = pad_right(tokenizer)
        self._from_left = tokenizer.truncation_side == "left"
        self._around = {count: self._surroundings(count) for count in (1, 2)}

    # --- ids alone

    def ids(self, texts: Sequence[str], most: int | None = None) -> list[np.ndarray]:
        """Ids of texts without special tokens.

        Args:
            texts: Texts of any length; very long ones are encoded in parts, cut at blanks where they have some.
            most: Ids of a text that are given at most, from its start; only as much of it is read as that takes.
        """
        if most is None:
            return self._whole(texts)
        found: list[np.ndarray] = [np.empty(0, np.int32)] * len(texts)
        waiting, size = list(range(len(texts))), CHARACTERS * (most + SPARE)
        while waiting:
            parts = [cut_at_blanks(texts[text][: size + 100], size)[0] for text in waiting]
            again = []
            for text, part, ids in zip(waiting, parts, self._whole(parts), strict=True):
                found[text] = ids[:most]
                if len(part) < len(texts[text]) and len(ids) < most + SPARE:
                    again.append(text)
            waiting, size = again, 4 * size
        return found

    def located(self, texts: Sequence[str]) -> list[Located]:
        """Ids of texts without special tokens, with the characters that each stands for.

        Raises:
            ValueError: The tokenizer has no fast version, and does not tell.
        """
        backend = self.backend
        if backend is None:
            raise ValueError(
                f"{type(self.tokenizer).__name__} does not tell where its tokens stand in a text: save the tokenizer "
                "with a tokenizer.json"
            )

        def encode(batch: Sequence[str]) -> list[Located]:
            found = backend.encode_batch(batch, add_special_tokens=False)
            return [
                Located(np.array(one.ids, np.int32), np.array(one.offsets, np.int64).reshape(-1, 2)) for one in found
            ]

        located = []
        for parts, encoded in self._in_parts(texts, encode):
            begins = np.cumsum([0, *map(len, parts)])
            spans = [one.spans + begin for one, begin in zip(encoded, begins, strict=False)]
            located.append(Located(np.concatenate([one.ids for one in encoded]), np.concatenate(spans)))
        return located

    def _whole(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.concatenate(encoded) for _, encoded in self._in_parts(texts, self._encode_batch)]

    def _in_parts(
        self, texts: Sequence[str], encode: Callable[[Sequence[str]], list[EncodedT]]
    ) -> list[tuple[list[str], list[EncodedT]]]:
        """The parts of each text, and what they are encoded as, in batches that bound the memory."""
        pieces = [cut_at_blanks(text) for text in texts]
        found: list[EncodedT] = []
        batch, size = [], 0
        for parts in pieces:
            for part in parts:
                if batch and size + len(part) > AT_ONCE:
                    found += encode(batch)
                    batch, size = [], 0
                batch.append(part)
                size += len(part)
        encoded = iter([*found, *encode(batch)])
        return [(parts, [next(encoded) for _ in parts]) for parts in pieces]

    def _encode_batch(self, batch: Sequence[str]) -> list[np.ndarray]:
        if self.backend is not None:
            found = [one.ids for one in self.backend.encode_batch_fast(batch, add_special_tokens=False)]
        else:
            # Some of these, as ESM's, cut texts at what they call special tokens, so that those cannot be text.
            found = [self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in batch]
        return [np.array(ids, dtype=np.int32) for ids in found]

    # --- what a model reads, special tokens included

    def windows(
        self,
        texts: Sequence[str],
        max_length: int,
        pieces: int | None = 1,
        lead: np.ndarray | None = None,
        overlap: int = 0,
    ) -> Tokens:
        """Texts in pieces of ``max_length`` tokens, each with special tokens around it.

        Args:
            texts: Texts of any length.
            max_length: Tokens of a piece, special ones included.
            pieces: Pieces of a text at most; None = as many as it fills.
            lead: Ids, as of a prompt, that are put before all pieces of a text but its first.
            overlap: Tokens that a piece shares with the one before it.

        Raises:
            ValueError: A length without room for text, or for more than what overlaps.
        """
        lead = np.empty(0, np.int32) if lead is None else lead
        room = self._room(1, max_length, len(lead))
        most = None if pieces is None else room + (pieces - 1) * (room - len(lead))
        return self.windows_of(self._ends(texts, most), max_length, pieces, lead, overlap)

    def windows_of(
        self, found: Sequence[np.ndarray], max_length: int, pieces: int | None, lead: np.ndarray, overlap: int = 0
    ) -> Tokens:
        """The same of texts whose ids are there already."""
        room = self._room(1, max_length, len(lead))
        if overlap >= room - len(lead):
            raise ValueError(
                f"overlap={overlap} leaves no new tokens in windows of {room - len(lead)}; give less, or a longer "
                "max_length"
            )
        tokens, owner, before = Tokens([], np.empty(0, np.int64), 0, []), [], len(self._around[1][0][0][0])
        for text, ids in enumerate(found):
            kept = self._cut(ids, len(ids) if pieces is None else room + (pieces - 1) * (room - len(lead)))
            start, left_out = 0, len(ids) - len(kept) if self._from_left else 0
            while start < len(kept):
                again = lead if start else lead[:0]
                piece = kept[start : start + room - len(again)]
                tokens.windows.append(self._with_special(np.concatenate([again, piece]))["input_ids"])
                tokens.starts.append(left_out + start)
                tokens.ends.append(left_out + start + len(piece))
                tokens.heads.append(before + len(again))
                owner.append(text)
                start += len(piece)
                start -= overlap if start < len(kept) else 0
        tokens.owner = np.array(owner, np.int64)
        tokens.long = sum(len(ids) > room for ids in found)
        tokens.empty = [text for text, ids in enumerate(found) if not len(ids)]
        return tokens

    def pairs(self, texts: Sequence[str], pairs: Sequence[str], max_length: int) -> Tokens:
        """Pairs of texts as one piece each, the longer text cut first.

        Raises:
            ValueError: A length without room for text.
        """
        found = self.inputs(texts, pairs, max_length=max_length)
        special = sum(len(ids) for ids, _ in self._around[2][0])
        empty = [place for place, row in enumerate(found.rows) if len(row["input_ids"]) <= special]
        kept = [(place, row) for place, row in enumerate(found.rows) if len(row["input_ids"]) > special]
        named = "token_type_ids" in self.tokenizer.model_input_names
        return Tokens(
            [row["input_ids"] for _, row in kept],
            np.array([place for place, _ in kept], np.int64),
            found.cut,
            empty,
            [row["token_type_ids"] for _, row in kept] if named else None,
        )

    def inputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, max_length: int) -> Inputs:
        """Inputs of a model, cut at ``max_length`` tokens; of a pair, the longer text is cut first.

        Raises:
            ValueError: A length without room for text.
        """
        if pairs is None:
            room = self._room(1, max_length)
            found = self._ends(texts, room)
            rows = [self._with_special(self._cut(ids, room)) for ids in found]
            return Inputs(rows, sum(len(ids) > room for ids in found))
        room, rows, cut = self._room(2, max_length), [], 0
        for first, second in zip(self.ids(texts), self.ids(pairs), strict=True):
            shares = longest_first(len(first), len(second), room)
            cut += shares != (len(first), len(second))
            rows.append(self._with_special(*map(self._cut, (first, second), shares)))
        return Inputs(rows, cut)

    def pair_of(self, first: np.ndarray, second: np.ndarray, max_length: int) -> Pair:
        """One input of two texts whose ids are there already; the longer one is cut first, as ``inputs`` does.

        Raises:
            ValueError: A length without room for text.
        """
        shares = longest_first(len(first), len(second), self._room(2, max_length))
        kept = [self._cut(ids, share) for ids, share in zip((first, second), shares, strict=True)]
        special = self._around[2][0]
        start = len(special[0][0]) + len(kept[0]) + len(special[1][0])
        left_out = len(second) - len(kept[1]) if self._from_left else 0
        return Pair(self._with_special(*kept), start, left_out, left_out + len(kept[1]))

    def batch(self, texts: Sequence[str], *, max_length: int) -> BatchEncoding:
        """Tensors of texts, cut at ``max_length`` tokens and padded to the longest, with their mask."""
        rows = self.inputs(texts, max_length=max_length).rows
        return self._pad([{name: ids.tolist() for name, ids in row.items()} for row in rows])  # type: ignore[return-value]

    def _ends(self, texts: Sequence[str], most: int | None) -> list[np.ndarray]:
        """At least the ids that are kept, and one more of texts that have more."""
        return self.ids(texts, None if most is None or self._from_left else most + 1)

    def _cut(self, ids: np.ndarray, most: int) -> np.ndarray:
        return ids[max(len(ids) - most, 0) :] if self._from_left else ids[:most]

    def _room(self, texts: int, max_length: int, lead: int = 0) -> int:
        """Tokens that are left for text, with what leads it."""
        room = max_length - sum(len(ids) for ids, _ in self._around[texts][0])
        if 1 <= room <= lead:
            raise ValueError(
                f"max_length={max_length} leaves no room behind the {lead} tokens of the prompt; give more"
            )
        if room < 1:
            raise ValueError(f"max_length={max_length} leaves no room between the special tokens; give more")
        return room

    def _with_special(self, *texts: np.ndarray) -> dict[str, np.ndarray]:
        special, kinds = self._around[len(texts)]
        parts = [special[0]]
        for ids, kind, after in zip(texts, kinds, special[1:], strict=True):
            parts += [(ids, np.full(len(ids), kind)), after]
        found = {"input_ids": np.concatenate([ids for ids, _ in parts]).astype(np.int32)}
        if "token_type_ids" in self.tokenizer.model_input_names:
            found["token_type_ids"] = np.concatenate([kind for _, kind in parts]).astype(np.int32)
        return found

    def _surroundings(self, count: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[int]]:
        """Special tokens (with their types) before, between and after so many texts, and the types of the texts."""
        probe = next((text for text in "aA1" if len(self._encode_batch([text])[0])), None)
        if probe is None:
            raise ValueError("the tokenizer finds no token in 'a', 'A' or '1'; give one that reads plain text")
        (plain,) = self._encode_batch([probe])
        if self.backend is not None:
            whole = self.backend.encode(probe, probe if count == 2 else None)
            ids, kinds = np.array(whole.ids), np.array(whole.type_ids)
        else:
            whole = self.tokenizer(*[probe] * count, return_token_type_ids=True)
            ids, kinds = np.array(whole["input_ids"]), np.array(whole["token_type_ids"])
        special, types, done = [], [], 0
        for _ in range(count):
            starts = range(done, len(ids) - len(plain) + 1)
            start = next(at for at in starts if (ids[at : at + len(plain)] == plain).all())
            special.append((ids[done:start], kinds[done:start]))
            types.append(int(kinds[start]))
            done = start + len(plain)
        return [*special, (ids[done:], kinds[done:])], types

    # --- corpora

    def stream(
        self,
        documents: Iterable[Document],
        on_empty: Callable[[Document], None] | None = None,
        *,
        characters: int = AT_ONCE,
    ) -> Iterator[np.ndarray]:
        """Ids of each document with the closing token after them, as ``dtype``.

        Args:
            documents: Texts; read ahead by ``characters``.
            on_empty: Function called with a document that has no tokens, which is then left out.
            characters: Characters that are encoded at once, at least.
        """
        batch, size = [], 0
        for document in documents:
            batch.append(document)
            size += len(document.text)
            if size >= characters:
                yield from self._closed(batch, on_empty)
                batch, size = [], 0
        yield from self._closed(batch, on_empty)

    def _closed(self, batch: list[Document], on_empty: Callable[[Document], None] | None) -> Iterator[np.ndarray]:
        for document, ids in zip(batch, self.ids([document.text for document in batch]), strict=True):
            if len(ids):
                yield np.append(ids, self.eos_token_id).astype(self.dtype)
            elif on_empty is not None:
                on_empty(document)

    @cached_property
    def bos_token_id(self) -> int:
        """Id that opens sequences."""
        return special_id(self.tokenizer, "bos", "cls")

    @cached_property
    def eos_token_id(self) -> int:
        """Id that closes documents and sequences."""
        return special_id(self.tokenizer, "eos", "sep")

    @cached_property
    def vocab_size(self) -> int:
        """One more than the greatest id."""
        return max(self.tokenizer.get_vocab().values()) + 1

    @cached_property
    def dtype(self) -> np.dtype:
        """The smallest unsigned type that holds every id."""
        return np.dtype("<u2" if self.vocab_size <= 2**16 else "<u4")

    @property
    def sha256(self) -> str:
        """Changes with anything that changes the ids of a corpus.

        Raises:
            TypeError: The tokenizer has no fast version.
        """
        if self.backend is None:
            raise TypeError(f"{type(self.tokenizer).__name__} is no fast tokenizer; load it with AutoTokenizer")
        facts = f"{self.backend.to_str()} {self.bos_token_id} {self.eos_token_id}"
        return hashlib.sha256(facts.encode()).hexdigest()


def special_id(tokenizer: Any, *names: str) -> int:
    """Id of the first special token that the tokenizer has, of ``bos``, ``cls``, ....

    Raises:
        ValueError: It has none of them.
    """
    for name in names:
        value = getattr(tokenizer, f"{name}_token_id", None)
        if value is not None:
            return int(value)
    raise ValueError(
        f"the tokenizer has neither a {' nor a '.join(names)} token; set one, or train a tokenizer of your own"
    )


def forget_limits(tokenizer: Any) -> None:
    """Take truncation and padding out of a tokenizer: they would cut texts where a program reads its file alone."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Tokens that are kept of two texts: the longer one is cut down to the other, then both, as tokenizers does."""
    if first + second <= room:
        return first, second
    short = min(first, second)
    if 2 * short > room:
        short = room // 2
    return (short, room - short) if first <= second else (room - short, short)


def cut_at_blanks(text: str, size: int = PIECE_CHARACTERS) -> list[str]:
    """Cut a long text before blanks into pieces of about ``size`` characters, to bound the memory of encoding.

    Pre-tokenisers that split at blanks, as byte-level BPE does, give the same ids for the pieces as for the whole. A
    text without blanks is cut anywhere.
    """
    pieces, start = [], 0
    while len(text) - start > size:
        longest = start + size + WORD_CHARACTERS
        cut = _BREAK.search(text, start + size, longest)
        if cut is None and len(text) <= longest:
            break
        end = longest if cut is None else cut.start()
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _frozen(tokenizer: Any) -> Tokenizer:
    """A copy of a fast tokenizer that takes special tokens in a text for text."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    special = {one.content: i for i, one in backend.get_added_tokens_decoder().items() if one.special}
    special.pop(tokenizer.unk_token, None)
    found = {text for text, i in special.items() if i in backend.encode(text, add_special_tokens=False).ids}
    if not found:
        return backend
    # The model itself knows them as words (of SentencePiece, say); under other names no text holds them.
    facts = json.loads(backend.to_str())
    facts["added_tokens"] = [one for one in facts["added_tokens"] if one["content"] not in found]
    vocab = facts["model"]["vocab"]
    named = lambda text: f"\ufdd0{text}\ufdd0" if text in found else text  # noqa: E731
    facts["model"]["vocab"] = (
        {named(text): i for text, i in vocab.items()}
        if isinstance(vocab, dict)
        else [[named(text), score] for text, score in vocab]
    )
    backend = Tokenizer.from_str(json.dumps(facts))
    backend.encode_special_tokens = True
    return backend
