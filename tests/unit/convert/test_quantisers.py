"""Quantisers and offloading change a linear model as they change any other: on texts that slots read, too."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertModel

from linformers import linearise, to_linformer

SHAPE: dict[str, Any] = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LINEAR: dict[str, Any] = {"exact_length": 16, "projected_dim": 8}


MAKERS: dict[str, Any] = {
    "own class": partial(linearise, **LINEAR),
    "ours": partial(to_linformer, **LINEAR),
    "ours, learned E": partial(to_linformer, projected_dim=8, projection_kind="linear"),
}


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    teacher = BertModel(BertConfig(**SHAPE, intermediate_size=64)).eval()
    with torch.no_grad():
        for name, weight in teacher.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.normal_(std=0.3)
    path = tmp_path_factory.mktemp("model")
    MAKERS[request.param](teacher).save_pretrained(path)
    return path


@torch.no_grad()
def states(model: Any) -> Tensor:
    """Of a text that slots read and of a padded one that softmax attention reads."""
    ids = torch.randint(1, 100, (2, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, 12:] = 0
    return model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor")
def test_dynamic_int8(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder).eval()
    small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert any(isinstance(module, nn.Linear) for module in model.modules())
    assert not any(isinstance(module, nn.Linear) for module in small.modules())
    cosine = torch.cosine_similarity(states(small), states(model), dim=-1)
    assert 0.97 < cosine.mean() < 1  # random weights, each layer with one scale


def test_weights_on_disk(folder: Path, tmp_path: Path) -> None:
    expected = states(AutoModel.from_pretrained(folder).eval())
    model = AutoModel.from_pretrained(folder, device_map={"": "disk"}, offload_folder=str(tmp_path)).eval()
    assert all(weight.is_meta for weight in model.parameters())
    torch.testing.assert_close(states(model), expected)
