"""Packed blocks: every token once, at any length, as a function of (seed, item)."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from linformers.data.cache import TokenCache, tokenise
from linformers.data.corpus import PackedBlocks
from linformers.data.masking import IGNORED, Masking
from linformers.data.padding import PadBatch
from linformers.data.streams import Curriculum, Example, collate
from linformers.data.tokenizer import train_tokenizer
from linformers.files.sources import Source

TEXTS = [f"Text {number}: the cat sat on mat {number * 7919}. " * (number % 7 + 1) for number in range(30)]
LENGTH = 16


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocab_size=300, model_max_length=64)


@pytest.fixture(scope="module")
def caches(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> list[TokenCache]:
    folder = tmp_path_factory.mktemp("corpus")
    for name, texts in {"a": TEXTS[:20], "b": TEXTS[20:]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return tokenise([Source(path=f"{folder}/{name}.jsonl") for name in "ab"], tokenizer, folder / "cache")


@pytest.fixture(scope="module")
def masking(tokenizer: PreTrainedTokenizerFast) -> Masking:
    return Masking.for_tokenizer(tokenizer)


def unmasked(example: Example) -> np.ndarray:
    return torch.where(example["labels"] == IGNORED, example["input_ids"], example["labels"]).numpy()


def body(example: Example) -> list[int]:
    ids = unmasked(example)
    assert ids[0] == 0 and ids[-1] == 2
    return ids[1:-1].tolist()


@pytest.mark.parametrize("keep_tail", [False, True])
def test_joined_blocks_cover_every_token_once(caches: list[TokenCache], masking: Masking, keep_tail: bool) -> None:
    data = PackedBlocks(caches, length=LENGTH, masking=masking, seed=0, keep_tail=keep_tail)
    found = [token for item in range(len(data)) for token in body(data[item])]
    expected: list[int] = []
    for cache in caches:
        tokens = cache.tokens.tolist()
        expected += tokens if keep_tail else tokens[: len(tokens) // (LENGTH - 2) * (LENGTH - 2)]
    assert found == expected
    lengths = {len(data[item]["input_ids"]) for item in range(len(data))}
    assert lengths == {LENGTH} or (keep_tail and max(lengths) == LENGTH)


@pytest.mark.parametrize("length", [3, 16, 65, 5000])
def test_documents_apart_cover_every_token_once(caches: list[TokenCache], masking: Masking, length: int) -> None:
    data = PackedBlocks(caches, length=length, masking=masking, seed=0, documents="apart")
    blocks = [body(data[item]) for item in range(len(data))]
    expected = [
        cache.tokens[start : stop - 1].tolist()
        for cache in caches
        for start, stop in zip(cache.offsets[:-1], cache.offsets[1:], strict=True)
    ]
    found = iter(blocks)
    for document in expected:
        pieces: list[int] = []
        while len(pieces) < len(document):
            piece = next(found)
            assert 0 < len(piece) <= length - 2 and 2 not in piece
            pieces += piece
        assert pieces == document
    assert next(found, None) is None
    training = PackedBlocks(caches, length=length, masking=masking, seed=0, documents="apart", total=len(data))
    assert sorted(body(training[item]) for item in range(len(data))) == sorted(blocks)


def test_an_epoch_of_training_has_each_block_once_and_borders_move(caches: list[TokenCache], masking: Masking) -> None:
    data = PackedBlocks(caches, length=LENGTH, masking=masking, seed=3, total=10_000)
    epochs = [
        [data.place(item) for item in range(start, start + data.size)] for start in range(0, 4 * data.size, data.size)
    ]
    for times, places in enumerate(epochs):
        assert len(set(places)) == data.size and {place[1] for place in places} == {times}
    assert epochs[0] != [(source, 0, block) for source, _, block in epochs[1]]
    firsts = {tuple(body(data[epoch * data.size + places.index((1, epoch, 0))])) for epoch, places in enumerate(epochs)}
    assert len(firsts) > 1  # block 0 of source 1 begins elsewhere in other epochs
    # The tokens at the end that fill no block change, so that none is left out for ever.
    assert data.cuts[1].slack > 0


@pytest.mark.parametrize("weights", [(1.0, 2.0), (0.5, 1.0), (3.0, 0.25), (1.0, 0.3)])
def test_weights_are_readings_an_epoch(
    caches: list[TokenCache], masking: Masking, weights: tuple[float, float]
) -> None:
    data = PackedBlocks(caches, length=LENGTH, masking=masking, seed=3, total=10**6, weights=weights)
    counts = [cut.count for cut in data.cuts]
    epochs = 8
    drawn = [data.place(item) for item in range(epochs * data.size)]
    assert len(set(drawn)) == len(drawn)  # no (source, reading, block) twice: no mask is seen twice
    for source, (count, weight) in enumerate(zip(counts, weights, strict=True)):
        mine = [place[2] for place in drawn if place[0] == source]
        assert len(mine) == round(count * weight) * epochs
        times = np.bincount(mine, minlength=count)
        assert times.max() - times.min() <= 1  # all equally often
    first = sorted(block for source, _, block in drawn[: data.size] if source == 0)
    assert max(np.diff([-1, *first, counts[0]])) <= 4 / weights[0]  # part of a source is spread over it


def test_an_item_is_a_function_of_its_number_and_seed(caches: list[TokenCache], masking: Masking) -> None:
    def make(seed: int) -> PackedBlocks:
        return PackedBlocks(caches, length=LENGTH, masking=masking, seed=seed, total=200, weights=[1.0, 0.7])

    one, two, other = make(1), make(1), make(2)
    backwards = [two[item] for item in reversed(range(200))][::-1]
    for item in range(200):
        assert all(torch.equal(one[item][key], backwards[item][key]) for key in ("input_ids", "labels"))
    assert any(not torch.equal(one[item]["input_ids"], other[item]["input_ids"]) for item in range(5))


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_worker_processes_change_nothing(caches: list[TokenCache], masking: Masking, start_method: str) -> None:
    data = PackedBlocks(caches, length=LENGTH, masking=masking, seed=1, total=24)
    context = multiprocessing.get_context(start_method)
    alone = list(DataLoader(data, batch_size=4, collate_fn=PadBatch(1)))
    helped = list(
        DataLoader(data, batch_size=4, collate_fn=PadBatch(1), num_workers=1, multiprocessing_context=context)
    )
    assert len(alone) == len(helped) == 6
    for one, two in zip(alone, helped, strict=True):
        assert one.keys() == two.keys() == {"input_ids", "labels"}
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_evaluation_is_fixed_and_may_be_a_spread_sample(caches: list[TokenCache], masking: Masking) -> None:
    whole = PackedBlocks(caches, length=LENGTH, masking=masking, seed=0, weights=[1.0, 5.0])
    sample = PackedBlocks(caches, length=LENGTH, masking=masking, seed=0, limit=7)
    assert len(sample) == 7 and len(PackedBlocks(caches, length=LENGTH, masking=masking, seed=0, limit=10**6)) == len(
        whole
    )
    places = [whole.place(item) for item in range(len(whole))]
    assert sorted(places) == places and len(set(places)) == len(whole)
    found = [places.index(sample.place(item)) for item in range(7)]
    assert found[0] == 0 and set(np.diff(found)) <= {len(whole) // 7, len(whole) // 7 + 1}
    for item in range(7):
        assert torch.equal(sample[item]["input_ids"], whole[found[item]]["input_ids"])


def test_one_block_of_65536_tokens(tokenizer: PreTrainedTokenizerFast, masking: Masking, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "long.txt"
    path.write_text(" ".join(str(number) for number in rng.integers(10**9, size=40_000)))
    caches = tokenise([Source(path=str(path))], tokenizer, tmp_path / "cache")
    data = PackedBlocks(caches, length=65_536, masking=masking, seed=0, total=3)
    assert all(len(data[item]["input_ids"]) == 65_536 for item in range(3))
    ids = np.array(body(data[0]))
    tokens = np.array(caches[0].tokens)
    shift = int(np.flatnonzero((np.lib.stride_tricks.sliding_window_view(tokens, 50) == ids[:50]).all(axis=1))[0])
    start = shift % 65_534
    assert (tokens[shift : shift + 65_534] == ids).all() and start <= data.cuts[0].slack
    assert (data[1]["labels"] != IGNORED).sum() == round(0.15 * (unmasked(data[1]) > 4).sum())


def test_works_in_a_curriculum(caches: list[TokenCache], masking: Masking) -> None:
    short = PackedBlocks(caches, length=8, masking=masking, seed=0, total=12)
    long = PackedBlocks(caches, length=32, masking=masking, seed=1, total=2)
    batches = list(DataLoader(Curriculum([(short, 4), (long, 1)]), batch_size=1, collate_fn=PadBatch(1)))
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(4, 8)] * 3 + [(1, 32)] * 2


def test_batches_are_padded_only_where_needed() -> None:
    def example(length: int) -> Example:
        return {"input_ids": torch.arange(5, 5 + length), "labels": torch.full((length,), 7)}

    batch = PadBatch(1)([example(3), [example(5), example(2)]])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 1, 1], [5, 6, 7, 8, 9], [5, 6, 1, 1, 1]]
    assert batch["labels"].tolist() == [[7, 7, 7, -100, -100], [7] * 5, [7, 7, -100, -100, -100]]
    assert batch["attention_mask"].sum(dim=1).tolist() == [3, 5, 2] and batch["attention_mask"].dtype == torch.bool
    even = [example(4), example(4)]
    assert PadBatch(1)(even).keys() == {"input_ids", "labels"}
    assert torch.equal(PadBatch(1)(even)["labels"], collate(even)["labels"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 2}, "length=2"),
        ({"length": 10**6}, "do not fill one block of length=1000000"),
        ({"documents": "mixed"}, "documents='mixed'"),
        ({"weights": [1.0], "total": 4}, "weights="),
        ({"weights": [1.0, 0.0], "total": 4}, "weights="),
        ({"limit": 3, "total": 4}, "limit=3"),
        ({"caches": []}, "caches is empty"),
    ],
)
def test_impossible_settings(
    caches: list[TokenCache], masking: Masking, options: dict[str, object], message: str, bad_input: None
) -> None:
    settings = {"caches": caches, "length": LENGTH, "masking": masking, "seed": 0, **options}
    with pytest.raises(ValueError, match=message):
        PackedBlocks(**settings)  # type: ignore[arg-type]
