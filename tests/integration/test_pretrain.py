"""Pretraining from a recipe: what it leaves, what it refuses, and what it survives."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_helpers import fingerprint, tiny, write_text
from rich.console import Console
from transformers import AutoModelForMaskedLM, AutoTokenizer

import linformers  # noqa: F401  (registers the model type)
from linformers.cli import main
from linformers.commands.pretrain import run_recipe
from linformers.files.folders import DiskFullError, damage
from linformers.training import tensors
from linformers.training.recipe import Recipe, load_recipe


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pretrain")
    write_text(folder)
    return folder


def run(work: Path, name: str, **sections: dict[str, Any]) -> Path:
    assert run_recipe(Recipe(**tiny(work, name, **sections)), console=Console(quiet=True)) == 0
    return work / name


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def whole(work: Path) -> Path:
    return run(work, "whole")


def test_what_a_run_leaves(work: Path, whole: Path) -> None:
    assert load_recipe(whole / "recipe.yaml") == Recipe(**tiny(work, "whole"))
    about = json.loads((whole / "run.json").read_text())
    assert about["environment"]["versions"]["torch"] == torch.__version__ and "git_commit" in about
    found = results(whole)
    assert found["steps"] == 12 and [step for step, _ in found["evaluations"]] == [6, 12]
    best = min(metrics["loss"] for _, metrics in found["evaluations"])
    assert found["best"]["loss"] == best

    model = whole / "model"
    assert damage(model) is None
    assert {"recipe.yaml", "run.json", "README.md", "config.json"} <= {path.name for path in model.iterdir()}
    card = (model / "README.md").read_text()
    assert all(part in card for part in ("## Data", "## Configuration", "## Results", "## Limits", "text.txt"))
    loaded = AutoModelForMaskedLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert loaded.config.vocab_size == len(tokenizer) and tokenizer.model_max_length == 32
    assert torch.isfinite(loaded(**tokenizer("The <mask> sat.", return_tensors="pt")).logits).all()


def test_nothing_is_pickled(whole: Path) -> None:
    assert {path.suffix for path in whole.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".yaml", ".md", ""}


def test_a_finished_run_is_left_alone(work: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    run(work, "whole")
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_another_recipe_is_refused_with_the_difference(work: Path, whole: Path) -> None:
    with pytest.raises(ValueError, match="training.learning_rate was 0.001 and is now 0.002"):
        run(work, "whole", training={"learning_rate": 2e-3})


def test_a_folder_of_something_else_is_refused(work: Path) -> None:
    (work / "notes").mkdir()
    (work / "notes" / "diary.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files .diary.txt."):
        run(work, "notes")
    (work / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        run(work, "file")


def test_a_run_that_cannot_begin_leaves_nothing(work: Path) -> None:
    with pytest.raises((ValueError, OSError), match="no-such"):
        run(work, "missing", data={"train": [str(work / "no-such.txt")]})
    with pytest.raises(ValueError, match="training.micro_batch_size=3 does not divide the 4 sequences"):
        run(work, "uneven", training={"micro_batch_size": 3})
    assert not (work / "missing").exists() and not (work / "uneven").exists()


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(work: Path, whole: Path) -> None:
    folder = run(work, "damaged")
    (folder / "results.json").unlink()
    weights = folder / "checkpoints" / "checkpoint-12" / "optimizer.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    console = Console(record=True, width=400)
    assert run_recipe(Recipe(**tiny(work, "damaged")), console=console) == 0
    said = console.export_text()
    assert "checkpoint-12 is damaged (optimizer.safetensors has other contents" in said
    assert "Going on from" in said and "checkpoint-9" in said
    assert fingerprint(folder) == fingerprint(whole)


def test_a_full_disk_leaves_the_last_checkpoint(work: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = tensors.save_optimizer, []

    def full(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments)

    monkeypatch.setattr(tensors, "save_optimizer", full)
    with pytest.raises(DiskFullError, match="checkpoint-9 was not written, the checkpoint of step 6 is intact"):
        run(work, "full")
    assert [path.name for path in sorted((work / "full" / "checkpoints").iterdir())] == ["checkpoint-3", "checkpoint-6"]
    assert fingerprint(run(work, "full")) == fingerprint(whole)


def test_accumulation_changes_nothing_but_rounding(work: Path, whole: Path) -> None:
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    one = results(run(work, "at-once", model=plain))
    four = results(run(work, "accumulated", model=plain, training={"micro_batch_size": 1}))
    assert [loss for _, loss in four["losses"]] == pytest.approx([loss for _, loss in one["losses"]], abs=1e-5)


def test_another_seed_is_another_run_on_the_same_evaluation(work: Path, whole: Path) -> None:
    other = results(run(work, "seed", training={"seed": 1}))
    assert other["losses"] != results(whole)["losses"]
    assert other["data"]["fingerprint"] == results(whole)["data"]["fingerprint"]


def test_early_stopping_keeps_the_best(work: Path) -> None:
    training = {"learning_rate": 3.0, "warmup_share": 0.5, "evaluate_every": 2, "early_stopping": 2, "steps": 40}
    folder = run(work, "early", training={**training, "max_grad_norm": 100.0})
    found = results(folder)
    losses = [metrics["loss"] for _, metrics in found["evaluations"]]
    assert found["steps"] < 40 and losses.index(min(losses)) == len(losses) - 3
    assert found["best"]["step"] == found["steps"] - 4
    (folder / "results.json").unlink()  # as if it had been killed before the end was written
    assert results(run(work, "early", training={**training, "max_grad_norm": 100.0}))["steps"] == found["steps"]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear", (0.5, 0.05)), ("cosine", (0.55, 0.02)), ("wsd", (1.0, 0.3))],
)
def test_schedules(work: Path, schedule: str, expected: tuple[float, float]) -> None:
    training = {"schedule": schedule, "steps": 24, "warmup_share": 0.125, "decay_share": 0.25, "log_every": 1}
    folder = run(work, schedule, training=training)
    state = json.loads((folder / "checkpoints" / "checkpoint-24" / "state.json").read_text())
    rates = [entry["learning_rate"] / 1e-3 for _, entry in state["log"]]
    assert max(rates) == pytest.approx(1.0) and rates[0] < 0.5
    assert rates[13] == pytest.approx(expected[0], abs=0.08) and 0 <= rates[-1] <= expected[1]


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("bf16", {"training": {"precision": "bfloat16"}}),
        ("recomputed", {"training": {"activation_checkpointing": True}}),
        ("streamed-layers", {"model": {"stream_chunk_size": 8}}),
        ("stages", {"data": {"stages": [{"length": 8, "share": 0.5}, {"length": 32, "share": 0.5}]}}),
        ("whole-words", {"data": {"whole_words": True, "documents": "apart"}}),
        ("workers", {"data": {"workers": 1}}),
        ("tensorboard", {"output": {"report_to": "tensorboard"}}),
        ("twin", {"model": {"attention_type": "softmax"}}),
    ],
)
def test_options(work: Path, whole: Path, name: str, sections: dict[str, Any]) -> None:
    found = results(run(work, name, **sections))
    assert found["losses"][-1][1] == pytest.approx(results(whole)["losses"][-1][1], abs=0.2)
    if name in ("recomputed", "workers", "tensorboard"):  # these must not change a bit of the losses
        assert found["losses"] == results(whole)["losses"]
    assert (work / name / "logs").is_dir() == (name == "tensorboard")


def test_resuming_a_streamed_corpus(work: Path) -> None:
    source = {"path": str(work / "text.txt"), "documents": "blank_line"}
    sections = {"data": {"streaming": True, "evaluation": [source], "workers": 2}, "training": {"steps": 9}}
    one = run(work, "stream", **sections)
    two = run(work, "stream-2", **sections)
    (two / "results.json").unlink()
    (two / "checkpoints" / "checkpoint-9" / "state.json").unlink()
    assert fingerprint(run(work, "stream-2", **sections)) == fingerprint(one)


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch.compile itself
def test_compiled_layers(work: Path, whole: Path) -> None:
    found = results(run(work, "compiled", training={"compile": True}))
    assert found["losses"][-1][1] == pytest.approx(results(whole)["losses"][-1][1], abs=0.05)


def test_the_command(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "recipe.yaml").write_text(Recipe(**tiny(work, "command")).as_yaml())
    assert main.run(["pretrain", str(work / "recipe.yaml"), "training.steps=4"]) == 0
    said = capsys.readouterr().out
    assert "perplexity" in said and "command/model" in said and "Next:" in said
    assert main.run(["pretrain", str(work / "recipe.yaml"), "training.stesp=4"]) == 1
    assert "Did you mean 'training.steps'" in capsys.readouterr().err
