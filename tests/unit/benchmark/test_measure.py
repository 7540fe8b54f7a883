import os
from typing import Any

import pytest

from linformers.benchmark.cell import Cell, measure_cell
from linformers.benchmark.sweep import measure

CONFIG: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "projected_dim": 8,
}


def cell(length: int, **fields: Any) -> dict[str, Any]:
    arguments = {"device": "cpu", "repeats": 3, "seconds_limit": 10.0, "seed": 0}
    return measure_cell("ours", CONFIG, length, **{**arguments, **fields})


def test_a_cell_is_timed() -> None:
    result = Cell(**cell(128))
    assert (result.name, result.length, result.repeats) == ("ours", 128, 2)  # the first of three is a warm-up
    assert 0 < result.seconds < 5
    assert result.peak_bytes is None or result.peak_bytes >= 0


def test_the_time_limit_leaves_one_pass() -> None:
    assert cell(64, repeats=50, seconds_limit=0.0)["repeats"] == 1


def test_sweep_takes_each_cell_in_a_process_of_its_own() -> None:
    seen: list[Cell] = []
    models = {"ours": CONFIG, "softmax": {**CONFIG, "attention_type": "softmax"}}
    cells = measure(models, [128, 64], repeats=1, on_cell=seen.append)
    assert [(c.length, c.name) for c in cells] == [(64, "ours"), (64, "softmax"), (128, "ours"), (128, "softmax")]
    assert seen == cells and all(c.seconds > 0 for c in cells)
    if os.name == "posix":
        assert all(c.peak_bytes is not None for c in cells)


def test_sweep_stops_when_the_time_is_up() -> None:
    """But never before every model has a cell of the shortest length."""
    cells = measure({"one": CONFIG, "other": CONFIG}, [32, 64], repeats=1, total_seconds=-1.0)
    assert [(cell.name, cell.length) for cell in cells] == [("one", 32), ("other", 32)]


def test_an_error_of_a_cell_comes_back() -> None:
    with pytest.raises(ValueError, match="512 tokens exceeds"):
        measure({"ours": CONFIG}, [512])
