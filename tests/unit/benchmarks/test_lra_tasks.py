"""Long Range Arena tasks."""

import random

import lra_listops as listops
import lra_pathfinder as pathfinder
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lra_tasks import load_task


def evaluate(text: str) -> int:
    """The value of an expression, by a stack; independent of the generator, which evaluates as it grows."""
    stack: list[list] = []
    for word in text.split():
        if word.startswith("["):
            stack.append([word[1:]])
            continue
        if word == "]":
            name, *values = stack.pop()
            ordered = sorted(values)
            middle = len(ordered) // 2
            median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2
            value = {"MIN": ordered[0], "MAX": ordered[-1], "MED": median, "SM": sum(values) % 10}[name]
        else:
            value = int(word)
        if not stack:
            return value
        stack[-1].append(value)
    raise AssertionError("brackets are left open")


def test_the_evaluator_of_these_tests():
    assert evaluate("[MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]") == 5  # the paper's example
    assert evaluate("[SM 9 9 [MED 3 4 ] ]") == 1


def test_listops_follow_the_rules():
    rng = random.Random(0)
    found = [listops.generate(rng) for _ in range(60)]
    for ids, value in found:
        assert 500 <= len(ids) <= 2000
        words = [listops.TOKENS[i] for i in ids]
        assert evaluate(" ".join(words)) == value
        depth = np.cumsum([word.startswith("[") - (word == "]") for word in words])
        assert depth.max() <= 10 and depth[-1] == 0 and (depth[:-1] > 0).all()
    assert {value for _, value in found} == set(range(10))


def test_shorter_lists_are_of_all_lengths_below_and_leave_the_rest_alone():
    alone, task = load_task("listops", sizes=(3, 2, 2)), load_task("listops", sizes=(3, 2, 2), shorter=40)
    for name, split in alone.splits.items():
        assert all(map(np.array_equal, split.ids, task.splits[name].ids))
    shorter = task.splits["shorter"]
    lengths = np.array([len(ids) for ids in shorter.ids])
    assert np.histogram(lengths, [8, 33, 128, 500])[0].min() >= 4 and lengths.min() >= 8 and lengths.max() < 500
    for ids, label in zip(shorter.ids, shorter.labels, strict=True):
        assert evaluate(" ".join(listops.TOKENS[i] for i in ids)) == label
    with pytest.raises(ValueError, match="shorter=1 is for task='listops', not 'pathfinder'"):
        load_task("pathfinder", sizes=(1, 1, 1), shorter=1)
    with pytest.raises(ValueError, match="shorter must be at least 0"):
        load_task("listops", sizes=(1, 1, 1), shorter=-1)


def test_listops_lengths_are_inclusive():
    rng = random.Random(1)
    lengths = {len(listops.generate(rng, 4, 6)[0]) for _ in range(200)}
    assert lengths == {4, 5, 6}


def test_pathfinder_images_are_what_their_labels_say():
    """Dots are thick; what joins them is joined pixel by pixel. Where curves touch, this simple eye is wrong."""
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(0)
    images = [pathfinder.generate(rng) for _ in range(100)]
    right = 0
    for image, label in images:
        dots, count = ndimage.label(ndimage.uniform_filter(image.astype(float), 3, mode="constant") > 130)
        paths, _ = ndimage.label(image > 20, np.ones((3, 3)))
        first, second = ({*paths[ndimage.binary_dilation(dots == dot)].tolist()} - {0} for dot in (1, 2))
        right += count == 2 and bool(first & second) == bool(label)
    assert right >= 85
    assert 0.35 < np.mean([label for _, label in images]) < 0.65


@pytest.mark.parametrize("name", ["listops", "pathfinder"])
def test_generated_tasks_depend_on_the_seed_only(name):
    one = load_task(name, sizes=(6, 2, 3))
    many = load_task(name, sizes=(8, 2, 3), processes=2)
    other = load_task(name, sizes=(6, 2, 3), seed=1)
    assert {split: len(part) for split, part in one.splits.items()} == {"train": 6, "validation": 2, "test": 3}
    for split, part in one.splits.items():
        assert all(np.array_equal(a, b) for a, b in zip(part.ids, many.splits[split].ids, strict=False))
        assert not any(np.array_equal(a, b) for a, b in zip(part.ids, other.splits[split].ids, strict=True))
        assert all(ids.min() >= 1 and ids.max() < one.vocab_size and len(ids) <= one.max_length for ids in part.ids)
    train, test = one.splits["train"], one.splits["test"]
    assert not any(np.array_equal(a, b) for a in train.ids for b in test.ids)


def test_text_is_bytes(tmp_path):
    texts = [f"{number} café" for number in range(20)] + ["x" * 5000]
    for part in ("train", "test"):
        table = pa.table({"text": texts, "label": [number % 2 for number in range(21)]})
        pq.write_table(table, tmp_path / f"imdb_{part}.parquet")
    task = load_task("text", data=tmp_path)
    splits = task.splits
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [19, 2, 21]
    assert max(len(ids) for ids in splits["test"].ids) == 4096
    assert bytes((splits["test"].ids[0] - 1).astype(np.uint8)).decode() == "0 café"
    seen = {bytes(ids) for name in ("train", "validation") for ids in splits[name].ids}
    assert len(seen) == 21
    all_ = load_task("text", data=tmp_path, sizes=(20, 1, 21)).splits
    assert [len(all_[name]) for name in ("train", "validation", "test")] == [20, 1, 21]
    assert all(map(np.array_equal, all_["train"].ids[:19], splits["train"].ids))
    with pytest.raises(ValueError, match="there are 21 examples"):
        load_task("text", data=tmp_path, sizes=(20, 2, 1))


def test_images_are_grey_pixels(tmp_path):
    row = np.concatenate([[7], np.full(1024, 255), np.zeros(2048)]).astype(np.uint8)
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        np.tile(row, 4).tofile(tmp_path / name)
    task = load_task("image", data=tmp_path)
    assert set(task.splits["train"].labels.tolist()) == {7}
    assert set(task.splits["test"].ids[0].tolist()) == {1 + 76}  # 0.299 of red


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="give data"):
        load_task("text")
    with pytest.raises(FileNotFoundError, match=r"imdb_train\.parquet"):
        load_task("text", data=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"data_batch_1\.bin"):
        load_task("image", data=tmp_path)
