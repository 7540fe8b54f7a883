"""Which tokens open a word, told from the tokens alone."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from tokenizers import pre_tokenizers

# Kinds of tokens. A byte-level pre-tokeniser cuts where the kind changes, as GPT-2's does.
PARTIAL, LONE_BLANK, LETTER, DIGIT, OTHER, BLANK = range(6)


@dataclass(frozen=True, eq=False)
class WordStarts:
    """Marks the first token of each word.

    A word is what the pre-tokeniser keeps together: with byte-level BPE a run of letters, of digits or of other marks,
    together with the blank before it. Tokens that continue a character (parts of its bytes) never open a word.

    Args:
        opens: for every id, whether it always opens a word (it begins with a blank or the like).
        kind: for every id, the kind of its characters; where the kind changes, a word opens. All `PARTIAL` for
            tokenizers that mark every start or every continuation.
    """

    opens: np.ndarray
    kind: np.ndarray

    def __call__(self, input_ids: np.ndarray) -> np.ndarray:
        """Whether a word opens at each token, shape (seq,)."""
        starts = self.opens[input_ids].copy()
        starts[:1] = True
        kind = self.kind[input_ids]
        known = kind != PARTIAL
        # The kind of a token that is part of a character is that of the token before it. A blank that merged with
        # nothing belongs to the word that follows.
        last = np.maximum.accumulate(np.where(known, np.arange(len(kind)), 0))
        before = kind[last][:-1]
        starts[1:] |= known[1:] & (before > LONE_BLANK) & (kind[1:] != before)
        return starts

    @classmethod
    def for_tokenizer(cls, tokenizer: Any) -> "WordStarts":
        """Read the marks off the vocabulary: byte-level BPE, WordPiece (``##``) or SentencePiece.

        Raises:
            ValueError: the tokenizer is none of these.
        """
        backend = tokenizer.backend_tokenizer
        facts = json.loads(backend.to_str())
        parts = json.dumps([facts.get("pre_tokenizer"), facts.get("decoder")])
        vocabulary = backend.get_vocab(with_added_tokens=True)
        tokens = [""] * (max(vocabulary.values()) + 1)
        for token, number in vocabulary.items():
            tokens[number] = token
        kind = np.full(len(tokens), PARTIAL, dtype=np.uint8)
        if '"ByteLevel"' in parts:
            pairs = [_byte_level(token) for token in tokens]
            opens = [pair[0] for pair in pairs]
            kind = np.array([pair[1] for pair in pairs], dtype=np.uint8)
        elif facts["model"]["type"] == "WordPiece":
            prefix = facts["model"]["continuing_subword_prefix"]
            opens = [not token.startswith(prefix) for token in tokens]
        elif '"Metaspace"' in parts:
            opens = [token.startswith("\u2581") for token in tokens]
        else:
            raise ValueError(
                "whole_words=True needs a byte-level BPE, WordPiece or SentencePiece tokenizer, to tell where words "
                "begin; leave it out for this one"
            )
        for special in tokenizer.all_special_ids:
            opens[special] = True
        return cls(np.array(opens, dtype=bool), kind)


@lru_cache(maxsize=1)
def _bytes_of() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (GPT-2's table)."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    printable = [byte for byte in range(256) if chr(byte) in alphabet]
    others = [byte for byte in range(256) if chr(byte) not in alphabet]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


def _byte_level(token: str) -> tuple[bool, int]:
    """Whether a token opens a word whatever is before it, and its kind."""
    table = _bytes_of()
    if not all(character in table for character in token):
        return False, OTHER  # an added token, in plain characters
    try:
        text = bytes(table[character] for character in token).decode("utf-8")
    except UnicodeDecodeError:
        return token.startswith("\u0120"), PARTIAL  # "Ġ", the blank
    if text == " ":
        return True, LONE_BLANK
    first = text.lstrip(" ")[:1]
    if not first or first.isspace():
        return text.startswith(" "), BLANK
    kind = LETTER if first.isalpha() else DIGIT if first.isnumeric() else OTHER
    # GPT-2 keeps "n't", "'s" and the like as words of their own: the apostrophe opens one, as OTHER does.
    return text[0].isspace(), kind
