import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from linformers.data.masking import Masking
from linformers.data.streams import Curriculum, LabelledPassages, MaskedBlocks, collate

MASKING = Masking(mask_token_id=4, vocab_size=100, special_token_ids=(0, 1, 2, 3, 4))


def blocks(count: int, length: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(5, 100, size=(count, length))


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], two[key]) for key in one)


def test_every_epoch_has_each_block_once_in_its_own_order_with_its_own_masks() -> None:
    data = MaskedBlocks(blocks(7), MASKING, seed=3, total=21)
    places = [data.locate(item) for item in range(21)]
    assert [epoch for epoch, _ in places] == [0] * 7 + [1] * 7 + [2] * 7
    orders = [[example for _, example in places[start : start + 7]] for start in (0, 7, 14)]
    assert all(sorted(order) == list(range(7)) for order in orders) and orders[0] != orders[1]
    first = next(item for item in range(7) if places[item][1] == 0)
    again = next(item for item in range(7, 14) if places[item][1] == 0)
    assert not torch.equal(data[first]["labels"], data[again]["labels"])


def test_an_item_depends_on_nothing_but_its_number() -> None:
    one, two = (MaskedBlocks(blocks(5), MASKING, seed=1, total=12) for _ in range(2))
    backwards = [two[item] for item in reversed(range(12))][::-1]
    assert all(same(one[item], other) for item, other in enumerate(backwards))


def test_worker_processes_change_nothing() -> None:
    data = MaskedBlocks(blocks(6), MASKING, seed=1, total=12)
    alone, helped = (
        list(DataLoader(data, batch_size=4, collate_fn=collate, num_workers=workers)) for workers in (0, 2)
    )
    assert all(same(one, two) for one, two in zip(alone, helped, strict=True))


def test_evaluation_is_fixed_and_in_order() -> None:
    source = blocks(5)
    data = MaskedBlocks(source, MASKING, seed=1)
    assert len(data) == 5
    for item in range(5):
        example = data[item]
        chosen = example["labels"] != -100
        assert torch.equal(torch.where(chosen, example["labels"], example["input_ids"]), torch.from_numpy(source[item]))
        assert same(example, data[item])


def test_seeds_differ() -> None:
    one, two = (MaskedBlocks(blocks(5), MASKING, seed=seed) for seed in (1, 2))
    assert not torch.equal(one[0]["labels"], two[0]["labels"])


def test_curriculum_keeps_the_tokens_of_an_item() -> None:
    short = MaskedBlocks(blocks(20, 8), MASKING, seed=0, total=12)
    long = MaskedBlocks(blocks(20, 32), MASKING, seed=1, total=2)
    data = Curriculum([(short, 4), (long, 1)])
    assert len(data) == 5
    batches = list(DataLoader(data, batch_size=1, collate_fn=collate))
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(4, 8)] * 3 + [(1, 32)] * 2
    assert torch.equal(batches[1]["input_ids"][0], short[4]["input_ids"])


@pytest.mark.parametrize("item", [-1, 5])
def test_items_outside_raise(item: int) -> None:
    data = MaskedBlocks(blocks(5), MASKING, seed=1)
    with pytest.raises(IndexError):
        data[item]
    with pytest.raises(IndexError):
        Curriculum([(data, 1)])[item]


def test_labelled_passages_keep_their_labels() -> None:
    source, labels = blocks(6), np.arange(6)
    for total in (None, 13):
        data = LabelledPassages(source, labels, seed=2, total=total)
        for example in (data[item] for item in range(len(data))):
            assert torch.equal(example["input_ids"], torch.from_numpy(source[int(example["labels"])]))
