"""Make a batch of examples, of one length or of several."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DataCollatorWithPadding

from linformers.data.masking import IGNORED
from linformers.data.streams import Example, collate


class PadBatch:
    """Stacks examples; where their lengths differ, pads at the end and adds ``attention_mask`` (True = keep).

    Batches of one length get no mask: models take their faster way.

    Args:
        pad_token_id: id of the padding.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, items: Sequence[Example | list[Example]]) -> Example:
        """Stack examples, or lists of them."""
        examples = [example for item in items for example in (item if isinstance(item, list) else [item])]
        lengths = torch.tensor([len(example["input_ids"]) for example in examples])
        longest = int(lengths.max())
        if (lengths == longest).all():
            return collate(examples)
        fill = {"input_ids": self.pad_token_id, "labels": IGNORED}
        batch: Example = {}
        for name, value in fill.items():
            if name not in examples[0]:
                continue
            batch[name] = torch.full((len(examples), longest), value, dtype=torch.int64)
            for row, example in zip(batch[name], examples, strict=True):
                row[: len(example[name])] = example[name]
        batch["attention_mask"] = torch.arange(longest) < lengths[:, None]
        return batch


def pad_right(tokenizer: Any, collator: Any = DataCollatorWithPadding) -> Any:
    """A collator that pads on the right, whatever the tokenizer's file says: places are counted from the left here.

    Args:
        tokenizer: Tokenizer; it stays as it is.
        collator: Class of the collator.
    """
    own = copy.copy(tokenizer)
    own.padding_side = "right"
    return collator(own)
