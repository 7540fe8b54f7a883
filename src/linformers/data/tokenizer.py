"""Train a byte-level BPE tokenizer with RoBERTa's special tokens."""

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

# The order gives the ids 0..4, and config defaults (bos 0, pad 1, eos 2) agree with it.
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int, model_max_length: int, min_frequency: int = 2
) -> PreTrainedTokenizerFast:
    """Learn merges from ``texts`` and wrap them for transformers.

    Bytes are the alphabet, so no text is ever unknown. Training is deterministic.

    Args:
        texts: any pieces of text; each is read once.
        vocab_size: ids in all, special tokens and the 256 bytes included; fewer when the texts hold too few pairs.
        model_max_length: longest sequence in tokens that the model accepts.
        min_frequency: pairs seen less often are not merged.

    Raises:
        ValueError: ``vocab_size`` cannot hold the bytes and the special tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(
            f"vocab_size={vocab_size} cannot hold 256 bytes and {len(SPECIAL_TOKENS)} special tokens; "
            f"use {SMALLEST_VOCABULARY} or more"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        # <mask> takes the blank before it along, as RoBERTa's does: "the <mask> sat" masks one whole word.
        special_tokens=[AddedToken(token, lstrip=token == "<mask>", special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
    )
