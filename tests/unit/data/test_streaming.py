"""Streaming: every document once over all ranks and workers, repeatable, resumable by count."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from linformers.data.masking import IGNORED, Masking
from linformers.data.padding import PadBatch
from linformers.data.streaming import StreamedBlocks, plan, shares
from linformers.data.streams import Example
from linformers.data.tokenizer import train_tokenizer
from linformers.files.rejects import Rejects
from linformers.files.sources import Source

TEXTS = [f"No {number}: cat {number * 7919} sat. " * (number % 4 + 1) for number in range(60)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocab_size=300, model_max_length=64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        lines = [json.dumps({"text": text}) + "\n" for text in TEXTS[number * 10 : number * 10 + 10]]
        (tmp_path / f"{number}.jsonl").write_text("".join(lines))
    return tmp_path


def stream(folder: Path | str, tokenizer: PreTrainedTokenizerFast, **options: object) -> StreamedBlocks:
    settings = {"length": 16, "seed": 3, "total": 100, "batch_size": 4, "shuffle_blocks": 8, **options}
    masking = Masking.for_tokenizer(tokenizer)
    return StreamedBlocks([Source(path=str(folder))], tokenizer, masking=masking, **settings)  # type: ignore[arg-type]


def unmasked(example: Example) -> tuple[int, ...]:
    return tuple(torch.where(example["labels"] == IGNORED, example["input_ids"], example["labels"]).tolist())


def same(one: Example, two: Example) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("readers", [1, 2, 3, 6, 7, 12, 20])
def test_readers_share_the_documents_of_an_epoch(
    folder: Path, tokenizer: PreTrainedTokenizerFast, readers: int
) -> None:
    found = Counter()
    for reader in range(readers):
        documents = stream(folder, tokenizer)._documents(reader, readers, 0, Rejects())
        found.update(document.text for document in documents)
    assert found == Counter(TEXTS)


def test_blocks_hold_the_documents_in_full(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = stream(folder, tokenizer, length=1000, documents="apart", shuffle_blocks=1, total=60)
    texts = [tokenizer.decode(unmasked(example)[1:-1]) for example in data]
    assert Counter(texts) == Counter(TEXTS) and texts != TEXTS
    joined = [unmasked(example) for example in islice(stream(folder, tokenizer, shuffle_blocks=1, total=500), 500)]
    assert all(len(block) == 16 and block[0] == 0 and block[-1] == 2 for block in joined)
    run_on = [token for block in joined for token in block[1:-1]]
    cuts = np.flatnonzero(np.array(run_on) == 2)
    texts = [tokenizer.decode(run_on[start + 1 : stop]) for start, stop in zip([-1, *cuts], cuts, strict=False)]
    assert Counter(texts[:60]) == Counter(TEXTS)


def test_two_ranks_of_two_workers_do_not_overlap_and_repeat(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    options = {"length": 1000, "documents": "apart", "world_size": 2, "total": 16, "shuffle_blocks": 1}
    found = []
    for rank in (0, 1):
        loaders = [
            DataLoader(
                stream(folder, tokenizer, rank=rank, **options), batch_size=4, num_workers=2, collate_fn=PadBatch(1)
            )
            for _ in range(2)
        ]
        one, two = (list(loader) for loader in loaders)
        assert len(one) == 4 and all(same(*pair) for pair in zip(one, two, strict=True))
        for batch in one:
            keep = batch.get("attention_mask", torch.ones_like(batch["input_ids"], dtype=torch.bool))
            ids = torch.where(batch["labels"] == IGNORED, batch["input_ids"], batch["labels"])
            found += [tuple(row[mask].tolist()) for row, mask in zip(ids, keep, strict=True)]
    assert len(found) == 32 == len(set(found))  # 32 of the 60 documents, none twice


@pytest.mark.parametrize("workers", [0, 2])
def test_only_the_last_batch_is_short(folder: Path, tokenizer: PreTrainedTokenizerFast, workers: int) -> None:
    data = stream(folder, tokenizer, total=46, batch_size=4)
    sizes = [len(batch["labels"]) for batch in DataLoader(data, 4, num_workers=workers, collate_fn=PadBatch(1))]
    assert sizes.count(4) == 11 and sum(sizes) == 46


def test_shuffling_changes_the_order_only(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    still = [unmasked(example) for example in stream(folder, tokenizer, shuffle_blocks=1)]
    mixed = [unmasked(example) for example in stream(folder, tokenizer, shuffle_blocks=16)]
    other = [unmasked(example) for example in stream(folder, tokenizer, shuffle_blocks=16, seed=4)]
    assert still != mixed and mixed != other
    assert len(Counter(mixed) - Counter(still)) <= 15


def test_epochs_are_endless_with_new_orders_and_masks(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = list(stream(folder, tokenizer, length=1000, documents="apart", shuffle_blocks=1, total=180))
    epochs = [[unmasked(example) for example in data[start : start + 60]] for start in (0, 60, 120)]
    assert Counter(epochs[0]) == Counter(epochs[1]) == Counter(epochs[2]) and epochs[0] != epochs[1] != epochs[2]
    again = epochs[1].index(epochs[0][0])
    assert not torch.equal(data[0]["labels"], data[60 + again]["labels"])


def test_plan_follows_the_weights() -> None:
    files = [["a", "b", "c"], ["d"], ["e", "f"]]
    drawn = Counter()
    for epoch in range(10):
        epoch_files = plan(files, [1.0, 0.3, 2.0], seed=0, epoch=epoch)
        assert len([file for number, file in epoch_files if number == 2]) == 4
        drawn.update(file for _, file in epoch_files)
    assert drawn == {"a": 10, "b": 10, "c": 10, "d": 3, "e": 20, "f": 20}
    assert plan(files, [1.0, 1.0, 1.0], seed=0, epoch=1) == plan(files, [1.0, 1.0, 1.0], seed=0, epoch=1)
    assert plan(files, [1.0, 1.0, 1.0], seed=0, epoch=1) != plan(files, [1.0, 1.0, 1.0], seed=0, epoch=2)


@pytest.mark.parametrize(("files", "readers"), [(1, 1), (1, 5), (3, 7), (7, 3), (4, 4)])
def test_shares_are_complete(files: int, readers: int) -> None:
    taken = Counter()
    for reader in range(readers):
        for file, slot, slots in shares(list(range(files)), reader, readers):
            taken.update((file, number) for number in range(20) if number % slots == slot)
    assert taken == {(file, number): 1 for file in range(files) for number in range(20)}


def test_bad_records_are_named_once_and_counted(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with (folder / "0.jsonl").open("a") as file:
        file.write("nonsense\n")
    data = stream(f"{folder}/*.jsonl", tokenizer, total=400, rejects_dir=folder / "rejects", max_reject_share=0.1)
    assert len(list(data)) == 400  # several epochs
    (listed,) = (folder / "rejects").iterdir()
    assert [json.loads(line)["line"] for line in listed.read_text().splitlines()] == [11]
    with pytest.raises(ValueError, match="1 of 61 records are unusable"):
        list(stream(f"{folder}/*.jsonl", tokenizer, total=400, max_reject_share=0.01))


def test_more_readers_than_documents_is_an_error(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text(TEXTS[0])
    assert len(list(stream(path, tokenizer, total=5))) == 5
    with pytest.raises(ValueError, match="reader 1 of 2 .* fewer documents than readers"):
        list(stream(path, tokenizer, rank=1, world_size=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 2}, "length=2"),
        ({"documents": "mixed"}, "documents='mixed'"),
        ({"rank": 2, "world_size": 2}, "rank=2"),
        ({"shuffle_blocks": 0}, "shuffle_blocks=0"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_impossible_settings(
    folder: Path, tokenizer: PreTrainedTokenizerFast, options: dict[str, object], message: str, bad_input: None
) -> None:
    with pytest.raises(ValueError, match=message):
        stream(folder, tokenizer, **options)
