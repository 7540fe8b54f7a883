"""Distillation on plain text: what it gains, what it leaves alone, what it refuses, and that it goes on."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_helpers import BAD, GOOD, make_model, sentence
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import linformers
from linformers.cli import main
from linformers.commands.distil import DistilSettings, HiddenStates, run_distil


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose attention matters, a classifier on it, a Linformer of that, and text."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("distil")
    teacher = make_model(folder / "encoder", "bert", initializer_range=0.2, pad_token_id=1)
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    far: dict[str, Any] = {"projected_dim": 4, "projection_kind": "mean_pool", "local_window": 0}
    made = {
        f"student{name}": linformers.to_linformer(model, exact_length=n, **far) for name, n in (("", 0), ("-32", 32))
    }
    for name, one in {"teacher": model, **made}.items():
        one.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    rng = random.Random(0)
    text = "\n".join(sentence(rng, GOOD + BAD) for _ in range(800))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def own_cache(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINFORMERS_CACHE", str(work / "cache"))


def settings(work: Path, name: str, **changes: Any) -> DistilSettings:
    found: dict[str, Any] = {
        "model": str(work / "student"),
        "teacher": str(work / "teacher"),
        "texts": (str(work / "text.txt"),),
        "output": str(work / name),
        "length": 32,
        "steps": 30,
        "batch_size": 8,
        "learning_rate": 3e-4,
        "evaluation_share": 0.1,
        "evaluate_every": 10,
        "save_every": 10,
        "device": "cpu",
    }
    return DistilSettings(**(found | changes))


def run(given: DistilSettings) -> dict[str, Any]:
    assert run_distil(given, console=Console(quiet=True)) == 0
    return json.loads((Path(given.output) / "results.json").read_text())


def test_weights_stored_in_half_are_trained_in_full(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    AutoModelForSequenceClassification.from_pretrained(work / "student").half().save_pretrained(work / "half")
    AutoTokenizer.from_pretrained(work / "teacher").save_pretrained(work / "half")
    assert run_distil(settings(work, "of-half", model=str(work / "half"), steps=10), console=Console()) == 0
    assert "stored in float16; they are trained in float32" in capsys.readouterr().out
    card = (work / "of-half" / "model" / "README.md").read_text()
    assert "Weights trained in float32; they were stored in float16." in card
    assert AutoModelForSequenceClassification.from_pretrained(work / "of-half" / "model").dtype == torch.float32


def test_the_student_comes_closer_and_keeps_its_head(work: Path) -> None:
    results = run(settings(work, "run"))
    assert results["best"]["loss"] < 0.73 * results["before"]["loss"]  # 0.697, whatever the number of threads
    assert [step for step, _ in results["evaluations"]] == [0, 10, 20, 30]
    assert results["before"] == results["evaluations"][0][1]
    assert results["best"]["cosine"] > results["before"]["cosine"]
    made = AutoModelForSequenceClassification.from_pretrained(work / "run" / "model")
    before = AutoModelForSequenceClassification.from_pretrained(work / "student")
    assert type(made) is linformers.LinformerForSequenceClassification
    assert torch.equal(made.classifier.out_proj.weight, before.classifier.out_proj.weight)
    assert not torch.equal(
        made.linformer.encoder.layers[0].output.weight, before.linformer.encoder.layers[0].output.weight
    )
    assert "held-out text" in (work / "run" / "model" / "README.md").read_text()
    assert run(settings(work, "run")) == results  # finished: nothing is done again


def test_a_run_that_comes_no_closer_changes_nothing(work: Path) -> None:
    results = run(settings(work, "worse", steps=4, evaluate_every=2, learning_rate=1.0))
    assert results["best"]["step"] == 0 and results["evaluations"][-1][1]["loss"] > results["before"]["loss"]
    weights = [load_file(work / name / "model.safetensors") for name in ("student", "worse/model")]
    assert all(torch.equal(weights[0][name], weight) for name, weight in weights[1].items())


@pytest.mark.parametrize("order", ["all", "greedy"])
def test_a_stopped_run_goes_on_to_the_same_weights(work: Path, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = settings(work, f"whole-{order}", steps=20, order=order)
    run(whole)
    cut = settings(work, f"cut-{order}", steps=20, order=order)
    loss = HiddenStates.loss

    def fail(self: Any, model: Any, batch: Any, items: int, step: int) -> Any:
        if step == 15:
            raise KeyboardInterrupt
        return loss(self, model, batch, items, step)

    monkeypatch.setattr(HiddenStates, "loss", fail)
    with pytest.raises(KeyboardInterrupt):
        run_distil(cut, console=Console(quiet=True))
    monkeypatch.undo()
    monkeypatch.setenv("LINFORMERS_CACHE", str(work / "cache"))
    run(cut)
    weights = [(Path(name) / "model" / "model.safetensors").read_bytes() for name in (whole.output, cut.output)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": "nowhere"}, ["teacher", "nowhere"]),
        ({"length": 128}, ["length=128", "64"]),
        ({"texts": ("nothing.txt",)}, ["nothing.txt"]),
        ({"order": "random"}, ["order", "random", "greedy"]),
    ],
)
def test_what_is_refused_leaves_nothing(work: Path, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises((ValueError, OSError)) as raised:
        run_distil(settings(work, "refused", **changes), console=Console(quiet=True))
    assert all(word in str(raised.value) for word in words)
    assert not (work / "refused").exists()


def test_only_texts_longer_than_the_exact_ones_have_something_to_teach(work: Path) -> None:
    student = {"model": str(work / "student-32"), "steps": 2, "evaluate_every": 2}
    with pytest.raises(ValueError, match="length=32: texts of up to 32 tokens are read by softmax"):
        run_distil(settings(work, "refused", **student), console=Console(quiet=True))
    assert run(settings(work, "longer", **student, length=33))["before"]["loss"] > 1e-3
    assert AutoConfig.from_pretrained(work / "longer" / "model").exact_length == 32


def test_another_teacher_is_refused(work: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", "bert", num_hidden_layers=3)
    with pytest.raises(ValueError, match="num_hidden_layers=3, but the model has 2"):
        run_distil(settings(work, "refused", teacher=str(other)), console=Console(quiet=True))


def test_another_run_in_the_folder_is_refused(work: Path) -> None:
    run(settings(work, "taken", steps=2, evaluate_every=2))
    with pytest.raises(ValueError, match="steps"):
        run_distil(settings(work, "taken", steps=3), console=Console(quiet=True))


def test_the_command(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", work / "student", "--teacher", work / "teacher", "--texts", work / "text.txt"]
    options += ["--output", work / "command", "--length", 32, "--steps", 2, "--batch-size", 4, "--device", "cpu"]
    assert main.run(["distil", *map(str, options)]) == 0
    assert "Cosine of the last hidden states" in capsys.readouterr().out
    assert main.run(["distil", *map(str, options[:-2]), "--steps", "0"]) == 1
    assert "steps must be at least 1, got 0" in capsys.readouterr().err
