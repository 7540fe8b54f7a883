"""Books, regions, tokenizer, packing and passages."""

import numpy as np
import pytest

from linformers.data.books import load_books
from linformers.data.packing import pack
from linformers.data.passages import cut_passages
from linformers.data.regions import GAP, split_regions
from linformers.data.tokenise import TextEncoder
from linformers.data.tokenizer import SPECIAL_TOKENS, train_tokenizer

TEXTS = ["The cat sat on the mat. " * 40, "A dog ran after the cat, and the cat ran. " * 40]


def test_books_are_all_there_and_of_one_size() -> None:
    books = load_books()
    assert len(books) == 16 and len({book.gutenberg_id for book in books}) == 16
    assert [book.title for book in books] == sorted(book.title for book in books)
    assert all(290_000 < len(book.text) <= 300_000 for book in books)
    # Curly quotes would tell books apart by their typesetting.
    assert not any(mark in book.text for book in books for mark in "‘’“”—")
    assert not any("gutenberg" in book.text.lower() for book in books)


def test_load_books_limit() -> None:
    assert [book.title for book in load_books(2)] == [book.title for book in load_books()][:2]
    with pytest.raises(ValueError, match="limit=0"):
        load_books(0)


def test_regions_are_disjoint_in_order_and_apart() -> None:
    text = "".join(chr(0x10000 + i) for i in range(100_000))  # no character twice
    train, held_out = split_regions(text)
    assert len(train) == 3 and len(held_out) == 2
    assert sum(map(len, held_out)) == 20_000 and sum(map(len, train)) == 80_000 - 4 * GAP
    for region in held_out:
        start, end = text.index(region), text.index(region) + len(region)
        for other in train:
            begin = text.index(other)
            assert begin + len(other) + GAP <= start or begin >= end + GAP


def test_text_too_short_for_regions() -> None:
    with pytest.raises(ValueError, match="100 characters is too short"):
        split_regions("x" * 100)


def test_tokenizer_has_robertas_specials_and_loses_nothing() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, model_max_length=64)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == list(SPECIAL_TOKENS)
    ids = (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id)
    assert ids == (0, 1, 2, 4)
    strange = "Zoë paid 5 € for 🐈 \n\ttabs"
    assert tokenizer.decode(tokenizer(strange)["input_ids"], skip_special_tokens=True) == strange
    pair = tokenizer("cat", "dog")["input_ids"]
    assert pair[0] == 0 and pair.count(2) == 3
    assert tokenizer("the <mask> sat")["input_ids"].count(4) == 1


def test_tokenizer_is_repeatable_and_reloads(tmp_path) -> None:
    one, two = (train_tokenizer(TEXTS, vocab_size=300, model_max_length=64) for _ in range(2))
    assert one.get_vocab() == two.get_vocab() and len(one) <= 300
    one.save_pretrained(tmp_path)
    loaded = type(one).from_pretrained(tmp_path)
    assert loaded(TEXTS[0])["input_ids"] == one(TEXTS[0])["input_ids"]
    assert loaded.model_max_length == 64 and loaded.mask_token_id == 4


def test_tokenizer_needs_room_for_bytes() -> None:
    with pytest.raises(ValueError, match="vocab_size=100"):
        train_tokenizer(TEXTS, vocab_size=100, model_max_length=64)


def test_pack_keeps_order_and_drops_only_the_rest() -> None:
    documents = [np.arange(10, 17), np.arange(20, 25)]
    blocks = pack(documents, length=6, bos_token_id=0, eos_token_id=2)
    assert blocks.tolist() == [[0, 10, 11, 12, 13, 2], [0, 14, 15, 16, 2, 2], [0, 20, 21, 22, 23, 2]]


@pytest.mark.parametrize(("length", "message"), [(2, "length=2"), (100, "do not fill one block of length=100")])
def test_pack_errors(length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack([np.arange(10)], length=length, bos_token_id=0, eos_token_id=2)


def test_nothing_to_pack() -> None:
    with pytest.raises(ValueError, match="0 tokens"):
        pack([], length=10, bos_token_id=0, eos_token_id=2)


def test_passages_stay_in_their_region_and_class() -> None:
    regions = [[np.full(9, 10), np.full(4, 11)], [np.full(5, 20)]]
    passages, labels = cut_passages(regions, length=5, bos_token_id=0, eos_token_id=2)
    assert labels.tolist() == [0, 0, 0, 0, 1, 1]
    inner = [set(row[1:-1].tolist()) - {2} for row in passages]
    assert inner == [{10}, {10}, {10}, {11}, {20}, {20}]


def test_encode_takes_texts_longer_than_the_model_reads() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, model_max_length=8)
    (ids,) = TextEncoder(tokenizer).ids([TEXTS[0]])
    assert len(ids) > 8 and tokenizer.decode(ids) == TEXTS[0]
