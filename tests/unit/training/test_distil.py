"""The distance to a teacher, on numbers worked out by hand."""

import math

import pytest
import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from linformers.training.distil import (
    Distillation,
    distillation_loss,
    each_for_itself,
    hidden_state_loss,
    one_of_many,
)


def test_hidden_states_count_relative_to_their_size_and_without_padding() -> None:
    teacher = torch.tensor([[[3.0, 4.0], [0.0, 5.0], [9.0, 9.0]]])
    student = torch.tensor([[[3.0, 3.0], [0.0, 2.0], [0.0, 0.0]]])
    mask = torch.tensor([[1, 1, 0]])
    embeddings = torch.zeros(1, 3, 2)
    loss = hidden_state_loss((embeddings, student), (embeddings + 1, teacher), mask)
    assert loss.item() == pytest.approx((1 + 9) / (25 + 25))  # the embeddings are left out
    both = hidden_state_loss((embeddings, student, teacher), (embeddings, teacher, teacher), mask)
    assert both.item() == pytest.approx(0.5 * (1 + 9) / 50)


def test_predictions() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert one_of_many(student, teacher).item() == pytest.approx(expected)
    assert one_of_many(teacher, teacher).item() == pytest.approx(0, abs=1e-7)
    assert one_of_many(torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [4.0]])).item() == pytest.approx(2.5)


def test_predictions_of_several_labels() -> None:
    student, teacher = torch.tensor([[0.0, 1.0]]), torch.tensor([[math.log(3), 1.0]])
    first = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert each_for_itself(student, teacher).item() == pytest.approx(first / 2)  # the second label agrees


def test_weights() -> None:
    def outputs(shift: float) -> SequenceClassifierOutput:
        states = (torch.zeros(1, 2, 2), torch.ones(1, 2, 2) + shift)
        return SequenceClassifierOutput(logits=torch.tensor([[shift, 0.0]]), hidden_states=states)  # type: ignore[arg-type]

    def loss(**weights: float) -> float:
        return distillation_loss(outputs(1.0), outputs(0.0), None, Distillation(**weights)).item()

    hidden, logits = loss(logits_weight=0.0), loss(hidden_weight=0.0)
    assert hidden == pytest.approx(1.0) and logits > 0
    assert loss(hidden_weight=2.0, logits_weight=3.0) == pytest.approx(2 * hidden + 3 * logits)
