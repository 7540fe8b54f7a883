"""Bad input: the right type of error, and a message with the field and the value that is wrong."""

import re

import pytest
import torch
from attention_helpers import hidden, make_kfree, make_linformer, make_softmax

from linformers.attention import KFreeAttention, LinformerAttention, ProjectionBank, SoftmaxAttention

pytestmark = pytest.mark.usefixtures("bad_input")


def raises(error: type[Exception], *words: object):
    """Expect the error with all the words in its message, in any order."""
    return pytest.raises(error, match="(?s)" + "".join(rf"(?=.*(?<![\w.]){word}(?![\w]))" for word in words))


every_module = pytest.mark.parametrize(
    "make", [make_linformer, make_softmax, make_kfree], ids=lambda make: make.__name__
)
constructors = pytest.mark.parametrize(
    "build",
    [lambda d, h, **o: LinformerAttention(d, h, 16, 4, **o), SoftmaxAttention, KFreeAttention],
    ids=["linformer", "softmax", "kfree"],
)


@every_module
@pytest.mark.parametrize("shape", [(6,), (9, 6), (1, 2, 9, 6)])
def test_rank_of_hidden_states(make, shape):
    with raises(ValueError, "hidden_states", re.escape(str(shape))) as caught:
        make()(torch.randn(shape, dtype=torch.float64))
    assert "batch" in str(caught.value)  # says which shape it wants


@every_module
def test_rank_of_context(make):
    with raises(ValueError, "context", re.escape("(9, 6)")):
        make()(hidden(2, 9, 6), context=hidden(2, 9, 6)[0])


@every_module
def test_hidden_size_of_the_input(make):
    with raises(ValueError, "hidden_states", 5, 6):
        make()(hidden(2, 9, 5))
    with raises(ValueError, "context", 7, 6):
        make()(hidden(2, 9, 6), context=hidden(2, 9, 7))


@every_module
@pytest.mark.parametrize("shape", [(2, 8), (3, 9), (2, 9, 1), (9,), (2, 1, 1, 9)])
def test_shape_of_the_mask(make, shape):
    with raises(ValueError, "attention_mask", shape[-1]):
        make()(hidden(2, 9, 6), torch.ones(shape, dtype=torch.bool))


@every_module
def test_a_mask_of_the_queries_is_no_mask_of_the_context(make):
    with raises(ValueError, "attention_mask", 9, 4):
        make()(hidden(2, 9, 6), torch.ones(2, 9, dtype=torch.bool), context=hidden(2, 4, 6))


@every_module
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_float_masks(make, dtype):
    """Ones and zeros are taken; additive masks (0 = keep) would mean the opposite, silently."""
    kept = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    layer, x = make(), hidden(2, 9, 6)
    torch.testing.assert_close(layer(x, kept.to(dtype)), layer(x, kept.bool()))
    for added in (torch.zeros(2, 9, dtype=dtype), (kept - 1).to(dtype) * 1e4):
        with raises(TypeError, "attention_mask", f"torch.{dtype}".replace("torch.torch.", "(?:torch.)?")) as caught:
            layer(x, added)
        assert "bool" in str(caught.value)


@every_module
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_hidden_states_must_be_floating(make, dtype):
    with raises(TypeError, "hidden_states", str(dtype).removeprefix("torch.").join(("(?:torch.)?", ""))):
        make()(torch.ones(2, 9, 6, dtype=dtype))


def test_too_long():
    module = make_linformer(max_length=16)
    module(hidden(1, 16, 6))
    with raises(ValueError, 17, 16, "max_length"):
        module(hidden(1, 17, 6))
    with raises(ValueError, 17, 16, "max_length"):
        module(hidden(1, 17, 6), torch.arange(17)[None] < 3)
    with raises(ValueError, 17, 16, "max_length"):
        module(hidden(1, 4, 6), context=hidden(1, 17, 6))


@every_module
def test_empty_sequences(make):
    with raises(ValueError, "hidden_states", 0):
        make()(hidden(2, 0, 6))
    with raises(ValueError, "context", 0):
        make()(hidden(2, 3, 6), context=hidden(2, 0, 6))


@every_module
def test_batches_of_queries_and_context(make):
    with raises(ValueError, "context", 3, 2):
        make()(hidden(2, 9, 6), context=hidden(3, 9, 6))
    with raises(ValueError, "context", 1, 2):
        make()(hidden(2, 9, 6), context=hidden(1, 9, 6))


@pytest.mark.parametrize("name", ["local_window", "global_tokens"])
def test_local_window_and_global_tokens_with_context(name):
    with raises(ValueError, name, "context", 2):
        make_linformer(**{"window" if name == "local_window" else name: 2})(hidden(2, 9, 6), context=hidden(2, 9, 6))


@constructors
@pytest.mark.parametrize(("hidden_size", "heads"), [(6, 4), (7, 2), (2, 3)])
def test_heads_must_divide_the_hidden_size(build, hidden_size, heads):
    with raises(ValueError, "hidden_size", "num_attention_heads", hidden_size, heads):
        build(hidden_size, heads)


@constructors
@pytest.mark.parametrize("heads", [0, -2])
def test_number_of_heads(build, heads):
    with raises(ValueError, "num_attention_heads", heads):
        build(6, heads)


@constructors
@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5])
def test_dropout(build, dropout):
    with raises(ValueError, "dropout", dropout):
        build(6, 2, dropout=dropout)


@pytest.mark.parametrize("kind", ["linear", "mean_pool", "conv"])
@pytest.mark.parametrize("k", [0, -3])
def test_projected_dim_value(kind, k):
    with raises(ValueError, "projected_dim", k):
        LinformerAttention(6, 2, 16, k, projection_kind=kind)
    with raises(ValueError, "projected_dim", k):
        ProjectionBank(2, 2, 16, [4, k], sharing="none", kind=kind)


@pytest.mark.parametrize("k", [True, 2.0, 4.5, "4"])
def test_projected_dim_type(k):
    with raises(TypeError, "projected_dim", k):
        LinformerAttention(6, 2, 16, k)
    with raises(TypeError, "projected_dim", k):
        ProjectionBank(2, 2, 16, [4, k], sharing="none", kind="linear")


@pytest.mark.parametrize("length", [0, -1])
def test_max_length(length):
    with raises(ValueError, "max_length", length):
        LinformerAttention(6, 2, length, 4)
    with raises(ValueError, "max_length", length):
        ProjectionBank(2, 2, length, 4, sharing="none", kind="linear")


@pytest.mark.parametrize("name", ["local_window", "global_tokens"])
def test_local_window_and_global_tokens(name):
    with raises(ValueError, name, -1):
        LinformerAttention(6, 2, 16, 4, **{name: -1})


@pytest.mark.parametrize(
    ("kind", "closest"),
    [("mean_pol", "mean_pool"), ("maxpool", "max_pool"), ("Linear", "linear"), ("convolution", "conv")],
)
def test_unknown_kind(kind, closest):
    with raises(ValueError, "projection_kind|kind", kind, closest):
        LinformerAttention(6, 2, 16, 4, projection_kind=kind)
    with raises(ValueError, "projection_kind|kind", kind, closest):
        ProjectionBank(2, 2, 16, 4, sharing="none", kind=kind)


@pytest.mark.parametrize(
    ("sharing", "closest"),
    [("key-value", "key_value"), ("layer_wise", "layerwise"), ("headwize", "headwise"), ("None", "none")],
)
def test_unknown_sharing(sharing, closest):
    with raises(ValueError, "projection_sharing|sharing", sharing, closest):
        LinformerAttention(6, 2, 16, 4, projection_sharing=sharing)
    with raises(ValueError, "projection_sharing|sharing", sharing, closest):
        ProjectionBank(2, 2, 16, 4, sharing=sharing, kind="linear")


@pytest.mark.parametrize("dims", [[4], [4, 4, 4], []])
def test_one_projected_dim_per_layer(dims):
    with raises(ValueError, "projected_dim", len(dims), 2):
        ProjectionBank(2, 2, 16, dims, sharing="none", kind="linear")


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_layerwise_sharing_needs_one_projected_dim(kind):
    with raises(ValueError, "projected_dim", "layerwise", 4, 5):
        ProjectionBank(3, 2, 16, [4, None, 5], sharing="layerwise", kind=kind)


def test_misspelt_arguments():
    with raises(TypeError, "'?mask'?"):
        make_linformer()(hidden(2, 9, 6), mask=torch.ones(2, 9, dtype=torch.bool))
    with raises(TypeError, "'?projected_dims'?"):
        LinformerAttention(6, 2, 16, 4, projected_dims=4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"projection_kind": "conv"}, ("projection_kind", "conv", "linear")),
        ({"projected_dim": 5}, ("projected_dim", 5, 4)),
        ({"max_length": 32}, ("max_length", 32, 16)),
        ({"projection_sharing": "none"}, ("projection_sharing", "none", "key_value")),
        ({"projection_sharing": "headwise"}, ("projection_sharing", "headwise", "key_value")),
    ],
)
def test_arguments_that_contradict_the_bank(arguments, words):
    bank = ProjectionBank(2, 2, 16, 4, sharing="key_value", kind="linear")
    given = {"max_length": 16, "projected_dim": 4} | arguments
    with raises(ValueError, *words):
        LinformerAttention(6, 2, projections=bank[0], **given)
    same = {"projection_kind": "linear", "projection_sharing": "key_value"}
    assert LinformerAttention(6, 2, 16, 4, projections=bank[0], **same).key_projection is bank[0][0]


def test_heads_that_contradict_the_bank():
    bank = ProjectionBank(1, 2, 16, 4, sharing="none", kind="linear")
    with raises(ValueError, "num_attention_heads", 3, 2):
        LinformerAttention(6, 3, 16, 4, projections=bank[0])


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_exact_length_needs_slots_that_stand_for_tokens(kind):
    with raises(ValueError, "exact_length", 8, kind, "cluster"):
        LinformerAttention(6, 2, 16, 4, projection_kind=kind, exact_length=8)
    with raises(ValueError, "exact_length", -1):
        LinformerAttention(6, 2, 16, 4, projection_kind="cluster", exact_length=-1)


@pytest.mark.parametrize("kind", ["mean_pool", "max_pool", "attention_pool", "cluster"])
def test_kinds_that_learn_nothing_have_no_longest_text(kind):
    assert LinformerAttention(6, 2, None, 4, projection_kind=kind)(torch.randn(1, 50, 6)).shape == (1, 50, 6)
    with raises(TypeError, "max_length", "None"):
        LinformerAttention(6, 2, None, 4, projection_kind="linear")
