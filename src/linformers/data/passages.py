"""The long-passage task: which book is this from?"""

from collections.abc import Sequence

import numpy as np

from linformers.data.packing import pack


def cut_passages(
    regions_by_class: Sequence[Sequence[np.ndarray]], *, length: int, bos_token_id: int, eos_token_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut regions into passages that do not overlap; none runs over the end of its region.

    Args:
        regions_by_class: token ids of the regions of each class, without special tokens.
        length: tokens in a passage, ``<s>`` and ``</s>`` included.
        bos_token_id: id that opens every passage.
        eos_token_id: id that closes every passage.

    Returns:
        Ids of shape (passages, length), and the class of each, shape (passages,).

    Raises:
        ValueError: a region is shorter than one passage.
    """
    passages = [
        np.concatenate(
            [pack([region], length=length, bos_token_id=bos_token_id, eos_token_id=eos_token_id) for region in regions]
        )
        for regions in regions_by_class
    ]
    return np.concatenate(passages), np.repeat(np.arange(len(passages)), [len(cut) for cut in passages])
