"""benchmarks/lra.py, a few steps of it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "lra.py"
MODELS = ["softmax", "linformer", "linformer-window", "kfree", "none"]


def run(folder: Path, *options: str) -> str:
    command = [sys.executable, str(SCRIPT), "--runs", str(folder / "runs"), "--output", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_recipe_trains_every_model_and_keeps_what_is_finished(tmp_path: Path):
    options = ["--task", "listops", "--steps", "2", "--sizes", "20", "6", "6", "--shorter", "20", "--batch-size", "2"]
    run(tmp_path, *options, "--models", "kfree", "none")
    again = run(tmp_path, *options)
    assert "kfree rate 0.001 seed 0: step" not in again and "linformer rate 0.001 seed 0: step" in again
    found = json.loads((tmp_path / "lra-listops.json").read_text())
    assert [row["model"] for row in found["table"]] == MODELS
    assert found["settings"]["pooling"] == "first" and found["settings"]["projection_kind"] == "conv"  # the recipe's
    assert found["settings"]["seconds"] is None, "steps that are given replace the recipe's time"
    assert {cell["steps"] for cell in found["cells"].values()} == {2}
    assert found["data"]["shorter"]["longest"] < 500 <= found["data"]["test"]["mean_length"]


@pytest.mark.slow
def test_the_rate_is_chosen_with_the_first_seed(tmp_path: Path):
    options = "--task pathfinder --steps 2 --sizes 8 6 6 --batch-size 2 --models none --rates 1e-3 1e-5"
    run(tmp_path, *options.split(), "--seeds", "3", "4", "5")
    found = json.loads((tmp_path / "lra-pathfinder.json").read_text())
    tried = {name.removeprefix("pathfinder-none-") for name in found["cells"]}
    (row,) = found["table"]
    first = {f"rate{rate}-seed3" for rate in ("0.001", "1e-05")}
    assert tried == first | {f"rate{row['learning_rate']:g}-seed{seed}" for seed in (4, 5)} and row["seeds"] == 3
    cells = [cell for cell in found["cells"].values() if cell["learning_rate"] == row["learning_rate"]]
    assert row["accuracy"] == pytest.approx(100 * sum(cell["accuracy"] for cell in cells) / 3)


@pytest.fixture
def lra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import lra

    return lra


def test_the_rate_is_that_of_the_best_validation(lra):
    def cell(model: str, rate: float, validation: float, test: float) -> dict[str, Any]:
        return {"model": model, "learning_rate": rate, "accuracy": test, "best": {"accuracy": validation, "step": 1}}

    cells = [cell("none", 1e-3, 0.4, 0.9), cell("none", 3e-3, 0.5, 0.1), cell("kfree", 1e-4, 0.9, 0.9)]
    assert lra.chosen_rate(cells, "none") == 3e-3
    assert lra.chosen_rate([*cells, cell("none", 1e-2, 0.5, 1.0)], "none") == 3e-3, "of equal ones the first"


def test_all_cells_of_a_model_take_the_steps_of_its_first(lra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["lra.py", "--task", "listops", "--seconds", "60"])
    options = lra.parse()
    assert lra.steps_of(tmp_path, "listops", "linformer") is None
    assert (lra.budget_of(options, 1e-3).steps, lra.budget_of(options, 1e-3).seconds) == (None, 60)
    (tmp_path / "listops-linformer-window-rate0.001-seed0.json").write_text('{"steps": 5}')
    (tmp_path / "listops-linformer-rate0.001-seed0.json").write_text('{"steps": 7}')
    steps = lra.steps_of(tmp_path, "listops", "linformer")
    budget = lra.budget_of(options, 3e-4, steps)
    assert (budget.steps, budget.seconds) == (7, None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--batch-size", "4"],
            "error: 5 examples leave a last batch of 1, too few for a batch norm: change --sizes",
        ),
        (["--steps", "0"], "error: steps must be above 0, got 0"),
        (["--local-window", "-3"], "error: local_window must be at least 0, got -3"),
    ],
)
def test_what_cannot_be_trained_is_said_first(
    lra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], message: str
):
    options = ["--task", "pathfinder", "--sizes", "5", "2", "2", "--runs", str(tmp_path / "runs"), *more]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    with pytest.raises(SystemExit, match=message):
        lra.main()
    assert not (tmp_path / "runs").exists()


def test_what_the_classifier_reads_is_standardised(lra, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["lra.py", "--task", "text"])
    options = lra.parse()
    task = lra.LraTask(name="text", vocab_size=257, classes=2, max_length=64, splits={})
    model = lra.build("linformer", task, options).train()
    assert not model.linformer.embeddings.position_embeddings.weight.any()
    read = []
    model.classifier.dense[1].register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    model(input_ids=torch.randint(1, 257, (8, 64)))
    torch.testing.assert_close(read[0].mean(0), torch.zeros(64), atol=1e-4, rtol=0)
    monkeypatch.setattr(sys, "argv", ["lra.py", "--task", "text", "--no-standardise"])
    assert isinstance(lra.build("linformer", task, lra.parse()).classifier.dense, torch.nn.Linear)


def test_sinusoidal_positions_are_as_large_as_the_initial_weights(lra, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["lra.py", "--task", "listops"])
    task = lra.LraTask(name="listops", vocab_size=16, classes=10, max_length=99, splits={})
    positions = lra.build("kfree", task, lra.parse()).linformer.embeddings.position_embeddings.weight
    torch.testing.assert_close(positions.square().mean(1).sqrt(), torch.full((100,), 0.1))
    assert positions.requires_grad and positions[0] @ positions[1] > positions[0] @ positions[50]
