"""Token ids against transformers' own truncation, and pieces against the whole."""

from typing import Any

import numpy as np
import pytest
from finetune_helpers import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from linformers.data import tokenise
from linformers.data.tokenise import TextEncoder, forget_limits

# What tempts a tokenizer: blanks of all kinds, no blanks at all, other scripts, nothing.
PARTS = [*"ab .,\n\t<>/", " good", "é", "好", "🍎", "\u00a0"]
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
    backend.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", "<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
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


@settings(max_examples=40)
@given(found=TEXTS, other=TEXTS, length=st.sampled_from([7, 8, 17, 64]), side=st.sampled_from(["left", "right"]))
def test_pairs_and_the_left_side_are_those_of_transformers(
    tokenizer, found: str, other: str, length: int, side: str
) -> None:
    tokenizer.truncation_side = side
    try:
        encoder = TextEncoder(tokenizer)
        for pair in (None, [other]):
            expected = tokenizer([found], pair, truncation="longest_first", max_length=length)
            inputs = encoder.inputs([found], pair, max_length=length)
            assert inputs.rows[0]["input_ids"].tolist() == expected["input_ids"][0]
            assert inputs.cut == bool(expected.encodings[0].overflowing)
    finally:
        tokenizer.truncation_side = "right"


def test_token_types_of_pairs(tokenizer) -> None:
    tokenizer.model_input_names, before = ["input_ids", "token_type_ids"], tokenizer.model_input_names
    try:
        (row,) = TextEncoder(tokenizer).inputs(["a good day"], ["a bad day"], max_length=9).rows
        expected = tokenizer("a good day", "a bad day", truncation="longest_first", max_length=9)
        assert {name: ids.tolist() for name, ids in row.items()} == dict(expected)
    finally:
        tokenizer.model_input_names = before


@pytest.mark.parametrize("text", ["a <s> day", "<pad>", "good</s>day", "a<s></s>"])
def test_special_tokens_in_a_text_are_text(tokenizer, text: str) -> None:
    (ids,) = TextEncoder(tokenizer).ids([text])
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert len(ids) and not special & {*ids.tolist()}
    # Beside them nothing changes; SentencePiece's model finds them as words of its own, whatever transformers is asked.
    theirs = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert ids.tolist() == theirs or special & {*theirs}


def test_the_files_truncation_and_padding_are_not_followed(tokenizer) -> None:
    (expected,) = TextEncoder(tokenizer).ids(["a good day " * 9])
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=100)
    (found,) = TextEncoder(tokenizer).ids(["a good day " * 9])
    assert found.tolist() == expected.tolist() and len(found) > 4
    forget_limits(tokenizer)
    assert tokenizer.backend_tokenizer.truncation is tokenizer.backend_tokenizer.padding is None


def test_settings_that_cannot_be(tokenizer) -> None:
    with pytest.raises(ValueError, match="max_length=2 leaves no room"):
        TextEncoder(tokenizer).windows([], 2)
