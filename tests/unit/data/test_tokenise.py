"""Token ids against transformers' own truncation, and pieces against the whole."""

from typing import Any

import numpy as np
import pytest
from finetune_helpers import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from linformers.data import tokenise
from linformers.data.tokenise import TextEncoder

# What tempts a tokenizer: special tokens as text, blanks of all kinds, no blanks at all, other scripts, nothing.
PARTS = [*"ab .,\n\t", " good", "<s>", "</s>", "<pad>", "é", "好", "🍎", "\u00a0"]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=300).map("".join)


@pytest.fixture(scope="module", params=["bytes", "wordpiece", "unigram"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """As of RoBERTa, BERT and XLM-R."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if request.param == "bytes":
        return AutoTokenizer.from_pretrained(make_model(tmp_path_factory.mktemp("encoder")))
    special: Any = {"special_tokens": ["<s>", "</s>", "<pad>", "<unk>"], "vocab_size": 60}
    words = request.param == "wordpiece"
    backend = Tokenizer(models.WordPiece(unk_token="<unk>") if words else models.Unigram())
    backend.normalizer = normalizers.BertNormalizer() if words else normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer() if words else pre_tokenizers.Metaspace()
    trainer = trainers.WordPieceTrainer(**special) if words else trainers.UnigramTrainer(unk_token="<unk>", **special)
    backend.train_from_iterator(["a good day, a bad day. baba éab good"] * 9, trainer)
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@settings(max_examples=40)
@given(found=st.lists(TEXTS, max_size=5), length=st.sampled_from([3, 4, 17, 64]))
def test_truncation_is_that_of_transformers(tokenizer, found: list[str], length: int) -> None:
    encoded = TextEncoder(tokenizer).windows(found, length)
    expected = [tokenizer(text, truncation=True, max_length=length)["input_ids"] for text in found]
    empty = [place for place, ids in enumerate(expected) if len(ids) == 2]
    assert encoded.empty == empty
    assert [ids.tolist() for ids in encoded.windows] == [ids for ids in expected if len(ids) > 2]
    assert encoded.owner.tolist() == [place for place in range(len(found)) if place not in empty]
    assert encoded.long == sum(len(tokenizer(text)["input_ids"]) > length for text in found)


@settings(max_examples=40)
@given(text=TEXTS, length=st.sampled_from([3, 17, 64]))
def test_windows_are_the_whole_text(tokenizer, text: str, length: int) -> None:
    encoded = TextEncoder(tokenizer).windows([text], length, None)
    whole = tokenizer(text)["input_ids"]
    assert [id for ids in encoded.windows for id in ids[1:-1].tolist()] == whole[1:-1]
    assert all((ids[0], ids[-1]) == (whole[0], whole[-1]) and len(ids) <= length for ids in encoded.windows)
    assert encoded.long == (len(whole) > length)


def test_long_texts_are_not_read_to_their_end(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, read = TextEncoder(tokenizer), []
    inner = encoder._encode_batch
    monkeypatch.setattr(encoder, "_encode_batch", lambda batch: (read.append(sum(map(len, batch))), inner(batch))[1])
    texts = ["good day " * 200_000, " " * 300_000 + "bad day " * 50, "x" * 1_000_000]
    encoded = encoder.windows(texts, 32)
    for text, ids in zip(texts, encoded.windows, strict=True):
        head = tokenizer(text[:300_400], truncation=True, max_length=32)["input_ids"]
        blanks = text[0] != "x"  # what has none is cut anywhere
        assert ids.tolist() == head if blanks else ids.tolist()[:2] == head[:2]
    assert encoded.long >= 2
    assert max(read) <= tokenise.AT_ONCE and sum(read) < 2_000_000


def test_a_batch_is_within_its_characters(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenise, "AT_ONCE", 50)
    texts = ["good day " * count for count in (1, 9, 3, 0, 30, 2)]
    encoded = TextEncoder(tokenizer).windows(texts, 64)
    expected = [tokenizer(text, truncation=True, max_length=64)["input_ids"] for text in texts]
    assert [ids.tolist() for ids in encoded.windows] == [ids for ids in expected if len(ids) > 2]
    assert all(ids.dtype == np.int32 for ids in encoded.windows)


def test_settings_that_cannot_be(tokenizer) -> None:
    with pytest.raises(ValueError, match="max_length=2 leaves no room"):
        TextEncoder(tokenizer).windows([], 2)
