"""ONNX graphs against the models they are made of: every mechanism, any batch, length and padding."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from onnx import numpy_helper
from torch import nn
from transformers import AutoConfig

import linformers
from linformers import LinformerConfig
from linformers.export import graph as graphs
from linformers.export.check import Session, check, kept_rows, run
from linformers.export.graph import check_size, random_inputs, trace, translate
from linformers.export.int8 import float_products, quantise

pytestmark = pytest.mark.compile

LENGTH = 40
TINY = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": LENGTH,
    "projected_dim": 8,
    "initializer_range": 0.4,  # outputs of the size of trained ones
}
# Head, and what differs from TINY: between them every kind, sharing mode, norm position and option.
QUICK: dict[str, tuple[str, dict[str, Any]]] = {
    "linear, none, k per layer": (
        "Model",
        {"projection_sharing": "none", "projected_dim": [5, 3], "num_hidden_layers": 2, "norm_position": "pre"},
    ),
    "mean_pool, window, global tokens, token types": (
        "ForSequenceClassification",
        {"projection_kind": "mean_pool", "local_window": 3, "global_tokens": 2, "type_vocab_size": 2, "num_labels": 3},
    ),
    "kfree, softmax, mean of tokens": (
        "ForSequenceClassification",
        {"attention_type": ["kfree", "softmax"], "num_hidden_layers": 2, "classifier_pooling": "mean"},
    ),
}
# In the model's own class: its type, head, and fields beside those of TINY.
OWN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert with a pooler": ("bert", "", {"type_vocab_size": 2}),
    "bert in segments": ("bert", "", {}),
    "bert in segments alone": ("bert", "", {}),
    "modernbert": (
        "modernbert",
        "ForMaskedLM",
        {"num_hidden_layers": 2, "global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 1}
        | {"bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "pad_token_id": 0},
    ),
}
SLOW: dict[str, tuple[str, dict[str, Any]]] = {
    "cluster, global token": ("ForMaskedLM", {"projection_kind": "cluster", "global_tokens": 1}),
    "linear, layerwise, window": (
        "ForMaskedLM",
        {"projection_sharing": "layerwise", "local_window": 4, "num_hidden_layers": 2},
    ),
    "linear, headwise, global token": (
        "ForTokenClassification",
        {"projection_sharing": "headwise", "global_tokens": 1},
    ),
    "max_pool, window": ("ForQuestionAnswering", {"projection_kind": "max_pool", "local_window": 2}),
    "cluster, window": ("Model", {"projection_kind": "cluster", "local_window": 2, "global_tokens": 1}),
    "attention_pool, window": ("ForSequenceClassification", {"projection_kind": "attention_pool", "local_window": 2}),
    "attention_pool": ("Model", {"projection_kind": "attention_pool", "num_hidden_layers": 2}),
    "conv, none": ("ForMultipleChoice", {"projection_kind": "conv", "projection_sharing": "none"}),
    "conv, key_value, layers without attention": (
        "Model",
        {"projection_kind": "conv", "attention_type": ["linformer", "none"], "num_hidden_layers": 2},
    ),
    "mean_pool, more slots than tokens, gelu_new": (
        "Model",
        {"projection_kind": "mean_pool", "projected_dim": 64, "hidden_act": "gelu_new"},
    ),
}


def build(head: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    config = LinformerConfig(**{**TINY, **fields})
    return getattr(linformers, f"Linformer{head}")(config).eval().requires_grad_(False)


def graph_of(model: Any, **options: Any) -> Any:
    return translate(trace(model), model, list(run(model, random_inputs(model, 1, 1))), **options)


def assert_equal(session: Session, model: Any, mask: torch.Tensor) -> None:
    batch, length = mask.shape
    inputs = random_inputs(model, batch, length, seed=length)
    inputs["attention_mask"] = mask if inputs["input_ids"].ndim == 2 else mask[:, None].expand(-1, 2, -1).clone()
    expected, found = run(model, inputs), session(inputs)
    assert list(found) == list(expected)
    for name, value in expected.items():
        rows = kept_rows(model, name, inputs["attention_mask"])
        np.testing.assert_allclose(found[name][rows], value[rows], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "bert with a pooler",
        "bert in segments",
        "bert in segments alone",
        pytest.param("modernbert", marks=pytest.mark.slow),
    ],
)
def test_graph_is_the_model_in_its_own_class(name: str) -> None:
    family, head, fields = OWN[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{key: x for key, x in TINY.items() if key != "projected_dim"} | fields)
    auto = getattr(transformers, f"AutoModel{head}")
    model = auto.from_config(config).eval().requires_grad_(False)
    segments = {"segment_length": 8 if "segments" in name else 0, "context_weight": 0.0 if "alone" in name else 0.125}
    linformers.configure(model, exact_length=0, projected_dim=8, **segments)
    graph = graph_of(model)
    assert len(check(graph, model)) == 5
    mask = torch.ones(3, 33, dtype=torch.long)
    mask[1, 20:] = 0
    assert_equal(Session(graph), model, mask)


@pytest.mark.parametrize(
    ("head", "fields"),
    [
        *(pytest.param(*variant, id=name) for name, variant in QUICK.items()),
        *(pytest.param(*variant, id=name, marks=pytest.mark.slow) for name, variant in SLOW.items()),
    ],
)
def test_graph_is_the_model(head: str, fields: dict[str, Any]) -> None:
    model = build(head, **fields)
    graph = graph_of(model)
    assert len(check(graph, model)) == 5
    session = Session(graph)
    draws = torch.Generator().manual_seed(0)
    for length in (1, 2, 7, 8, 9, 31, LENGTH - 1, LENGTH):
        assert_equal(session, model, torch.ones(1, length, dtype=torch.long))
        mask = torch.randint(2, (3, length), generator=draws)
        mask[:, length // 2] = 1
        assert_equal(session, model, mask)
    for number, name in enumerate(graphs.axes(model)):
        assert {one.type.tensor_type.shape.dim[number].dim_param for one in graph.graph.input} == {name}
    assert [one.name for one in graph.graph.input] == list(graphs.input_names(model))
    assert "site-packages" not in str(graph) and ".py" not in str(graph)  # stack traces

    small = quantise(graph_of(model, for_int8=True) if head == "ForMaskedLM" else graph)
    assert not float_products(small)
    inputs = random_inputs(model, 2, LENGTH)
    for name, value in run(model, inputs).items():
        # Random weights of this size multiply the rounding of inputs; outputs of another model would differ by 1.4.
        assert np.linalg.norm(Session(small)(inputs)[name] - value) < 0.25 * np.linalg.norm(value)


def test_int8_reaches_every_linear_layer_and_embedding() -> None:
    model = build("ForSequenceClassification", projection_kind="mean_pool", vocab_size=5000)
    graph = quantise(graph_of(model, for_int8=True))
    products = [node for node in graph.graph.node if node.op_type == "MatMulInteger"]
    assert len(products) == sum(isinstance(module, nn.Linear) for module in model.modules())
    weights = {one.name: numpy_helper.to_array(one) for one in graph.graph.initializer}
    for node in products:
        codes = weights[node.input[1]]
        assert codes.dtype == np.int8 and np.abs(codes.astype(int)).max() <= 64  # no sum of two products overflows
    table = next(value for value in weights.values() if value.shape == (5000, 16))
    scale = next(value for value in weights.values() if value.shape == (5000, 1))
    error = np.abs(table * scale - model.get_input_embeddings().weight.numpy())
    assert table.dtype == np.int8 and (error <= scale / 2 * 1.001).all()


def test_a_graph_that_is_not_the_model_is_refused() -> None:
    model = build("Model", attention_type="none")
    graph = graph_of(model)
    with torch.no_grad():
        model.encoder.layers[0].output.bias[0] += 0.01
    with pytest.raises(ValueError, match=r"not the model.*differ by .* at 1 tokens"):
        check(graph, model)
    with torch.no_grad():
        model.encoder.layers[0].output.bias[0] = torch.nan
    with pytest.raises(ValueError, match="differ by nan"):
        check(graph, model)


def test_what_cannot_be_traced_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("Model", projection_kind="conv")

    def forward(self: Any, **inputs: Any) -> Any:
        return {"last_hidden_state": torch.zeros(int(inputs["input_ids"].sum()))}

    monkeypatch.setattr(type(model), "forward", forward)
    with pytest.raises(ValueError, match=r"cannot be exported with .*projection_kind='conv'"):
        trace(model)


def test_models_that_a_file_cannot_hold_are_refused() -> None:
    with torch.device("meta"):
        model = linformers.LinformerModel(LinformerConfig(**{**TINY, "vocab_size": 34_000_000}))
    with pytest.raises(ValueError, match=r"2\.2 GB of weights.*2 GB"):
        check_size(model)
