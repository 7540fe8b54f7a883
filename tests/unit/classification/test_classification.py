"""Batches of like length, settings, and the loss of a classifier."""

import numpy as np
import pytest
import torch

from linformers.classification.data import LengthBatches, by_length
from linformers.classification.objective import task_loss
from linformers.classification.settings import FinetuneSettings

LENGTHS = np.random.default_rng(0).integers(5, 500, 1003)


def test_every_epoch_reads_every_row_once_in_another_order() -> None:
    batches = LengthBatches(LENGTHS, 16, count=200, seed=0)
    found = list(batches)
    assert len(found) == len(batches) == 200
    first, second = found[:63], found[63:126]
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(1003)) and first != second
    assert list(LengthBatches(LENGTHS, 16, count=70, seed=0)) == found[:70]
    assert list(LengthBatches(LENGTHS, 16, count=70, seed=1)) != found[:70]


def test_rows_of_a_batch_are_about_as_long() -> None:
    batches = LengthBatches(LENGTHS, 16, count=63, seed=0)
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    assert padded < 1.05 * LENGTHS.sum()
    longest = [LENGTHS[batch].max() for batch in batches]
    assert longest != sorted(longest, reverse=True)  # batches come in any order


def test_evaluation_reads_the_longest_first() -> None:
    batches = by_length(LENGTHS, 100)
    assert sorted(sum(batches, [])) == list(range(1003)) and len(batches[-1]) == 3
    assert LENGTHS[batches[0][0]] == LENGTHS.max()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs=0 must be above 0"),
        ("batch_size", 0, "batch_size must be at least 1, got 0"),
        ("kind", "binary", "kind='binary' is unknown"),
        ("class_weights", "balance", "Did you mean 'balanced'"),
        ("hidden_weight", -1.0, "hidden_weight must be at least 0, got -1.0"),
        ("warmup_share", 1.0, "warmup_share=1.0"),
    ],
)
def test_settings_name_the_bad_field(bad_input, field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneSettings(model="m", task="sst2", output="o", **{field: value})  # type: ignore[arg-type]


def test_losses() -> None:
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    labels = torch.tensor([1, 1])
    plain = task_loss(logits, labels, "single_label", None)
    assert plain == pytest.approx(torch.nn.functional.cross_entropy(logits, labels))
    weighted = task_loss(logits, torch.tensor([1, 0]), "single_label", torch.tensor([0.0, 1.0]))
    assert weighted == pytest.approx(torch.nn.functional.cross_entropy(logits[:1], labels[:1]))
    assert task_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 3.0]), "regression", None) == 0.5
