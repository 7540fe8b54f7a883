"""The products of the limit are those that the encoder computes, counted by PyTorch."""

from typing import Any

import limit
import pytest
import torch
from limit import measure_limit, products, routes
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from linformers.measure.cell import Workload
from linformers.models import LinformerConfig, LinformerModel

FIELDS: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 600,
    "projected_dim": 16,
}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"projection_sharing": "headwise"},
        {"projection_sharing": "layerwise"},
        {"attention_type": "softmax"},
        {"attention_type": ["linformer", "none"]},
        {"projected_dim": [8, None]},
        {"projection_kind": "max_pool"},
        {"projection_kind": "cluster", "exact_length": 600},
    ],
)
def test_products_are_those_of_the_encoder(fields: dict[str, Any]) -> None:
    config = LinformerConfig(**{**FIELDS, **fields})
    model = LinformerModel(config).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.randint(5, 64, (1, 600)))
    spent, needed = counter.get_total_flops(), sum(product.flops for product in products(config, 600))
    assert 0.99 * spent < needed <= spent  # beside the products there are row sums of E, for the biases


@pytest.mark.parametrize("kind", ["attention_pool", "cluster"])
def test_placing_slots_takes_the_same_at_every_length(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apart from that, the products are those of the encoder; of short inputs sampled keys are those at hand."""
    monkeypatch.setattr("linformers.attention.projection.FEW", 0)  # so few slots are summed by a product
    beside = []
    for length in (5000, 6000):
        config = LinformerConfig(**{**FIELDS, "projection_kind": kind, "max_position_embeddings": length})
        model = LinformerModel(config).eval()
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(torch.randint(5, 64, (1, length)))
        beside.append(counter.get_total_flops() - sum(product.flops for product in products(config, length)))
    assert beside[0] == beside[1] > 0


def test_attention_without_worked_out_products_is_refused() -> None:
    for fields in ({"attention_type": "kfree"}, {"local_window": 4}, {"projection_sharing": "none"}):
        with pytest.raises(ValueError, match="the limit is worked out for"):
            products(LinformerConfig(**{**FIELDS, **fields}), 600)


def test_routes_compute_the_whole_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """The multiplications of every route are the product's; of a longer product, those of its part that is timed."""
    monkeypatch.setattr(limit, "_ROWS", 500)
    monkeypatch.setattr(limit, "_CHUNKS", (128,))
    for product in products(LinformerConfig(**{**FIELDS, "max_position_embeddings": 1300}), 1300):
        for name, call in routes(product, torch.float32, torch.device("cpu")).items():
            with torch.inference_mode(), FlopCounterMode(display=False) as counter:
                call()
            assert product.count * product.scale * counter.get_total_flops() == pytest.approx(product.flops), name


def test_fraction_of_the_limit() -> None:
    found = measure_limit(Workload(name="ours", fields=FIELDS, length=512), rounds=2)
    assert 0 < found.limit_best <= found.limit and found.seconds_best <= found.seconds
    assert found.fraction == found.limit / found.seconds < 1.2
    assert set(found.routes) == {p.name for p in products(LinformerConfig(**FIELDS), 512)}
    with pytest.raises(ValueError, match="forward passes of our encoder"):
        measure_limit(Workload(name="roberta", model_type="roberta", fields={}, length=512))
