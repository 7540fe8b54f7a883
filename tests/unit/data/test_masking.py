import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from linformers.data.books import load_books
from linformers.data.masking import IGNORED, Masking
from linformers.data.tokenizer import train_tokenizer
from linformers.data.words import WordStarts

VOCABULARY = 500
GOLDEN_PLACES = [10, 24, 27, 29, 32, 35]
GOLDEN_SHOWN = [4, 86, 52, 366, 66, 227]
MASKING = Masking(mask_token_id=4, vocab_size=VOCABULARY, special_token_ids=(0, 1, 2, 3, 4))


def block(length: int, seed: int = 0) -> np.ndarray:
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, size=length)
    ids[0], ids[-1], ids[length // 2] = 0, 2, 2
    return ids


def test_shares_are_80_10_10_of_15_percent() -> None:
    predicted = masked = kept = 0
    ordinary = 0
    for example in range(400):
        ids = block(130, example)
        shown, labels = MASKING(ids, (7, 0, example))
        chosen = labels != IGNORED
        ordinary += int((ids > 4).sum())
        predicted += int(chosen.sum())
        masked += int((shown[chosen] == 4).sum())
        kept += int((shown[chosen] == ids[chosen]).sum())
        assert (labels[chosen] == ids[chosen]).all()
        assert (shown[~chosen] == ids[~chosen]).all()
    # 7,600 predicted tokens: three standard deviations of the share are 0.014 and 0.010
    assert predicted / ordinary == pytest.approx(0.15, abs=0.002)
    assert masked / predicted == pytest.approx(0.8, abs=0.015)
    assert kept / predicted == pytest.approx(0.1, abs=0.012)


def test_special_tokens_are_neither_predicted_nor_put_in() -> None:
    replace_all = Masking(
        mask_token_id=4, vocab_size=VOCABULARY, special_token_ids=(0, 1, 2, 3, 4), share=1.0, masked=0.0, random=1.0
    )
    ids = block(1000)
    shown, labels = replace_all(ids, (0,))
    assert (labels[ids <= 4] == IGNORED).all() and (shown[ids <= 4] == ids[ids <= 4]).all()
    assert shown[ids > 4].min() > 4 and shown.max() < VOCABULARY


def test_masks_follow_from_the_key_alone() -> None:
    ids = block(130)
    before = ids.copy()
    first = MASKING(ids, (1, 2, 3))
    np.random.default_rng().random(10)
    again = MASKING(ids, (1, 2, 3))
    assert (ids == before).all()
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    for other in [(0, 2, 3), (1, 0, 3), (1, 2, 0)]:
        assert (MASKING(ids, other)[1] != first[1]).any()


def test_short_and_empty_inputs() -> None:
    _, labels = MASKING(np.array([0, 77, 2]), (0,))
    assert labels.tolist() == [IGNORED, 77, IGNORED]  # at least one token is predicted
    shown, labels = MASKING(np.array([0, 2]), (0,))
    assert shown.tolist() == [0, 2] and labels.tolist() == [IGNORED, IGNORED]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("share", 0.0),
        ("share", 1.5),
        ("masked", 0.95),
        ("random", -0.1),
        ("special_token_ids", (0, 0)),
        ("special_token_ids", (0, VOCABULARY)),
    ],
)
def test_impossible_shares_are_named(field: str, value: object) -> None:
    fields = {"mask_token_id": 4, "vocab_size": VOCABULARY, "special_token_ids": (0, 1), field: value}
    with pytest.raises(ValueError, match=field):
        Masking(**fields)  # type: ignore[arg-type]


def test_random_numbers_stay_as_they_are() -> None:
    """Runs of earlier versions can be resumed: the draw for a key never changes."""
    shown, labels = MASKING(block(40), (7, 1, 2))
    assert np.flatnonzero(labels != IGNORED).tolist() == GOLDEN_PLACES
    assert shown[GOLDEN_PLACES].tolist() == GOLDEN_SHOWN


@pytest.mark.parametrize("specials", [(0, 1, 2, 3, VOCABULARY - 1), (100, 101, 102, 103, 0)])
def test_special_tokens_anywhere(specials: tuple[int, ...]) -> None:
    masking = Masking(
        mask_token_id=specials[-1], vocab_size=VOCABULARY, special_token_ids=specials, masked=0.0, random=1.0
    )
    ids = np.random.default_rng(0).integers(0, VOCABULARY, size=4000)
    shown, labels = masking(ids, (1,))
    chosen = labels != IGNORED
    special = np.isin(ids, specials)
    assert not (chosen & special).any() and chosen.sum() == round(0.15 * (~special).sum())
    assert not np.isin(shown[chosen], specials).any() and len(np.unique(shown[chosen])) > 300


TEXT = "It's a well-known truth; that 1,234 naïve readers didn't unhappily agree…\n"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([book.text[:60_000] for book in load_books(3)], vocab_size=600, model_max_length=64)


def test_word_starts_are_those_of_the_pre_tokeniser(tokenizer: PreTrainedTokenizerFast) -> None:
    text = TEXT * 20 + load_books(1)[0].text[100_000:160_000]
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    words = encoding.word_ids
    expected = np.array([before != word for before, word in zip([None, *words[:-1]], words, strict=True)])
    found = WordStarts.for_tokenizer(tokenizer)(np.array(encoding.ids))
    # Not told from tokens alone: English contractions, which GPT-2 cuts after "'s", and characters cut into bytes.
    assert (found == expected).mean() > 0.995
    assert 0.3 < expected.mean() < 0.7


def test_word_starts_of_wordpiece() -> None:
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[MASK]", "un", "##happ", "##ily", "we", "."])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[PAD]"))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", mask_token="[MASK]")
    ids = np.array([5, 2, 3, 4, 6, 1])
    assert WordStarts.for_tokenizer(wrapped)(ids).tolist() == [True, True, False, False, True, True]
    wrapped = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match="whole_words=True needs"):
        WordStarts.for_tokenizer(wrapped)


def test_whole_words_are_predicted_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    masking = Masking.for_tokenizer(tokenizer, whole_words=True)
    assert masking.word_starts is not None
    ids = np.array(tokenizer(load_books(1)[0].text[:40_000], truncation=False)["input_ids"])
    predicted = masked = kept = ordinary = 0
    for example, part in enumerate(np.array_split(ids, len(ids) // 126)):
        part = np.concatenate([[0], part, [2]])
        shown, labels = masking(part, (7, 0, example))
        again, _ = masking(part, (7, 0, example))
        assert (shown == again).all()
        chosen = labels != IGNORED
        word = np.cumsum(masking.word_starts(part))
        whole = np.isin(word, word[chosen]) & (part > 4)
        assert (whole == chosen).all()  # all of a word or nothing
        predicted, ordinary = predicted + chosen.sum(), ordinary + (part > 4).sum()
        masked, kept = masked + (shown[chosen] == 4).sum(), kept + (shown[chosen] == part[chosen]).sum()
    # about 2,500 predicted tokens: three standard deviations are 0.024 and 0.018; words rarely fit the budget exactly
    assert predicted / ordinary == pytest.approx(0.15, abs=0.004)
    assert masked / predicted == pytest.approx(0.8, abs=0.024)
    assert kept / predicted == pytest.approx(0.1, abs=0.018)


def test_whole_words_where_none_fits_the_budget(tokenizer: PreTrainedTokenizerFast) -> None:
    masking = Masking.for_tokenizer(tokenizer, whole_words=True)
    ids = np.array([0, *tokenizer("unquestionably", add_special_tokens=False)["input_ids"], 2])
    assert len(ids) > 4
    _, labels = masking(ids, (0,))
    assert (labels[1:-1] == ids[1:-1]).all()  # the one word, although it is more than 15 %
    assert (masking(np.array([0, 2]), (0,))[1] == IGNORED).all()


def test_a_tokenizer_without_mask_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="no mask token"):
        Masking.for_tokenizer(wrapped)
