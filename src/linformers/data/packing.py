"""Pack tokenised texts into blocks of one length, with nothing padded."""

from collections.abc import Iterable

import numpy as np


def pack(documents: Iterable[np.ndarray], *, length: int, bos_token_id: int, eos_token_id: int) -> np.ndarray:
    """Cut the concatenation of documents into blocks ``<s> ... </s>``.

    Documents are joined by one ``</s>`` (RoBERTa's FULL-SENTENCES); the last, incomplete block is dropped.

    Args:
        documents: token ids of each document, without special tokens.
        length: tokens in a block, both special tokens included.
        bos_token_id: id that opens every block.
        eos_token_id: id that closes every block and every document.

    Returns:
        Ids of shape (blocks, length).

    Raises:
        ValueError: ``length`` is below 3, or the documents do not fill one block.
    """
    if length < 3:
        raise ValueError(f"length={length} leaves no room between <s> and </s>; use 3 or more")
    stream = np.concatenate([np.append(document, eos_token_id) for document in documents] or [np.empty(0, np.int64)])
    count = len(stream) // (length - 2)
    if count == 0:
        raise ValueError(f"{len(stream)} tokens do not fill one block of length={length}; use a shorter length")
    blocks = np.empty((count, length), dtype=np.int64)
    blocks[:, 0], blocks[:, -1] = bos_token_id, eos_token_id
    blocks[:, 1:-1] = stream[: count * (length - 2)].reshape(count, length - 2)
    return blocks
