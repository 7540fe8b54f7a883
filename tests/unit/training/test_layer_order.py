"""Layers that become linear one after another."""

import pytest
import torch
from transformers import BertConfig, BertModel

import linformers
from linformers.training.layer_order import LayerOrder, easiest_first

TOKENS = torch.arange(5, 65).view(2, 30)


@pytest.fixture(params=["linearise", "to_linformer"])
def pair(request):
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    teacher = BertModel(BertConfig(vocab_size=80, max_position_embeddings=32, initializer_range=0.3, **size)).eval()
    return getattr(linformers, request.param)(teacher, projected_dim=4, exact_length=0), teacher


def test_layers_get_linear_at_equal_intervals_over_the_first_half(pair):
    student, _ = pair
    order = LayerOrder(student, [2, 0, 3, 1], steps=80)
    waiting = [order.waiting(step) for step in (0, 9, 10, 19, 20, 29, 30, 79)]
    assert waiting == [[0, 3, 1], [0, 3, 1], [3, 1], [3, 1], [1], [1], [], []]
    assert LayerOrder(student, [], steps=80).waiting(0) == []
    assert LayerOrder(student, [1, 0], steps=1).waiting(0) == [0]  # a run of one step ends with one left out


@torch.no_grad()
def test_a_layer_that_waits_computes_what_the_teacher_computes(pair):
    student, teacher = pair
    names = list(student.state_dict())
    expected = teacher(TOKENS, output_hidden_states=True).hidden_states
    linear = student(TOKENS).last_hidden_state
    with LayerOrder(student, [3, 0, 1, 2], steps=80).at(0):
        states = student(TOKENS, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[:4], expected[:4], rtol=0, atol=1e-5)
    assert not torch.allclose(states[4], expected[4], atol=1e-3)  # the last layer does not wait
    assert torch.equal(student(TOKENS).last_hidden_state, linear) and list(student.state_dict()) == names


def test_gradients_reach_the_weights_of_a_layer_that_waits(pair):
    student, _ = pair
    with LayerOrder(student, [3, 0, 1, 2], steps=80).at(0):
        student(TOKENS).last_hidden_state.sin().sum().backward()
    gradients = {name: weight.grad for name, weight in student.named_parameters() if ".0." in name and "k" in name}
    (key,) = (x for name, x in gradients.items() if name.endswith(("k_proj.weight", "self.key.weight")))
    assert key.abs().sum() > 0


def test_easiest_first(pair):
    """With its queries zero a layer attends to all tokens alike, and mean pooling loses nothing."""
    student, teacher = pair
    for model in (teacher, student):
        names = [name for name, _ in model.named_modules() if ".2." in name and name.endswith(("self.query", "q_proj"))]
        linear = model.get_submodule(*names)
        with torch.no_grad():
            linear.weight.zero_(), linear.bias.zero_()
    order = easiest_first(student, teacher, TOKENS)
    assert order[0] == 2 and sorted(order) == [0, 1, 2, 3]
