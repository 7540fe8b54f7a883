"""Fine-tuning from labelled texts: what it leaves, what it refuses, and what it survives."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from finetune_helpers import make_model, rows, tiny, train, write_jsonl
from pretrain_helpers import exit_code, fingerprint, processes
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import linformers  # noqa: F401  (registers the model type)
from linformers.classification.settings import FinetuneSettings
from linformers.cli import main
from linformers.commands.finetune import run_finetune
from linformers.files.folders import damage


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finetune")
    make_model(folder / "encoder")
    write_jsonl(folder / "rows.jsonl", rows(100))
    return folder


def run(work: Path, name: str, **changes: Any) -> Path:
    console = Console(quiet=True)
    assert run_finetune(FinetuneSettings(**tiny(work, name, **changes)), console=console) == 0
    return work / name


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def whole(work: Path) -> Path:
    return run(work, "whole")


def test_what_a_run_leaves(work: Path, whole: Path) -> None:
    found = results(whole)
    assert found["task"] == {"name": "rows.jsonl", "kind": "single_label", "classes": ["bad", "good"]}
    assert found["reported_on"] == "validation" and found["parts"]["train"]["rows"] == 90
    assert found["parts"]["validation"]["labels"] == {"bad": 5, "good": 5}
    accuracy = found["metrics"]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    best = max(metrics["accuracy"] for _, metrics in found["evaluations"])
    assert found["best"]["accuracy"] == best == accuracy["value"]
    assert [step for step, _ in found["evaluations"]] == [6, 12, 18, 24]

    splits = json.loads((whole / "splits.json").read_text())
    lines = {name: set(files[str(work / "rows.jsonl")]) for name, files in splits.items()}
    assert len(lines["train"]) == 90 and len(lines["validation"]) == 10 and not lines["train"] & lines["validation"]

    predicted = pq.read_table(whole / "predictions.parquet").to_pylist()
    assert {row["row"] for row in predicted} == lines["validation"]
    assert np.mean([row["label"] == row["predicted"] for row in predicted]) == accuracy["value"]
    assert all(sum(row["probabilities"]) == pytest.approx(1) for row in predicted)

    model = whole / "model"
    assert damage(model) is None and (model / "confusion_matrix.png").is_file()
    card = (model / "README.md").read_text()
    assert all(part in card for part in ("## Data", "## Results", "## Limits", "rows.jsonl", "a little optimistic"))
    assert str(work) not in card
    loaded = AutoModelForSequenceClassification.from_pretrained(model)
    assert loaded.config.id2label == {0: "bad", 1: "good"}
    classify = pipeline("text-classification", model=loaded, tokenizer=AutoTokenizer.from_pretrained(model))
    texts = {row["line"]: row["text"] for row in _numbered(work / "rows.jsonl")}
    for row in predicted:
        assert classify(texts[row["row"]])[0]["label"] == row["predicted"]


def _numbered(path: Path) -> list[dict[str, Any]]:
    return [{"line": line, **json.loads(text)} for line, text in enumerate(path.read_text().splitlines(), start=1)]


def test_it_learns_and_tests_on_other_rows(work: Path) -> None:
    write_jsonl(work / "more.jsonl", rows(300, seed=2))
    write_jsonl(work / "test.jsonl", rows(60, seed=1))
    options = {"extra_train": (str(work / "more.jsonl"),), "test": str(work / "test.jsonl"), "evaluate_every": 40}
    found = results(run(work, "learns", epochs=4, **options))
    assert found["reported_on"] == "test" and found["parts"]["test"]["rows"] == 60
    assert found["metrics"]["accuracy"]["value"] > 0.9
    assert "They chose nothing" in (work / "learns" / "model" / "README.md").read_text()


def test_weights_stored_in_half_are_trained_in_full(work: Path, whole: Path, capsys) -> None:
    """What is trained in bfloat16 takes steps too small for it, without a word, and learns next to nothing."""
    half = AutoModelForSequenceClassification.from_pretrained(work / "encoder").to(torch.bfloat16)
    half.save_pretrained(work / "half")
    AutoTokenizer.from_pretrained(work / "encoder").save_pretrained(work / "half")
    run_finetune(FinetuneSettings(**tiny(work, "of-half", model=str(work / "half"))), console=Console())
    assert "stored in bfloat16; they are trained in float32" in capsys.readouterr().out
    card = (work / "of-half" / "model" / "README.md").read_text()
    assert "| dtype of the weights | float32; they were stored in bfloat16 |" in card
    assert AutoModelForSequenceClassification.from_pretrained(work / "of-half" / "model").dtype == torch.float32
    assert results(work / "of-half")["best"]["loss"] == pytest.approx(results(whole)["best"]["loss"], abs=0.02)
    kept = run(work, "kept-half", model=str(work / "half"), dtype="bfloat16")
    assert AutoModelForSequenceClassification.from_pretrained(kept / "model").dtype == torch.bfloat16


def test_a_finished_run_is_left_alone_and_other_settings_are_refused(work: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    run(work, "whole")
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
    with pytest.raises(ValueError, match="learning_rate was 0.003 and is now 0.1"):
        run(work, "whole", learning_rate=0.1)


def test_a_run_goes_on_bit_by_bit(work: Path, whole: Path) -> None:
    folder = run(work, "again")
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "checkpoint-24")
    assert fingerprint(run(work, "again")) == fingerprint(whole)
    (folder / "results.json").unlink()
    write_jsonl(work / "rows.jsonl.new", rows(100, seed=7))
    kept = (work / "rows.jsonl").read_text()
    (work / "rows.jsonl.new").replace(work / "rows.jsonl")
    with pytest.raises(ValueError, match="data of this run have changed"):
        run(work, "again")
    (work / "rows.jsonl").write_text(kept)


def test_kills(work: Path, whole: Path) -> None:
    context = processes()
    for number in (4, 15, 14):
        assert exit_code(context, tiny(work, "killed"), train, die_at_flush=number) == -signal.SIGKILL
    assert exit_code(context, tiny(work, "killed"), train) == 0
    assert fingerprint(work / "killed") == fingerprint(whole)


def test_other_kinds_of_tasks(work: Path) -> None:
    found = rows(100)
    many = [{**row, "label": [row["label"]] if i % 5 else ["bad", "good"]} for i, row in enumerate(found)]
    several = results(run(work, "many", task=str(write_jsonl(work / "many.jsonl", many)), class_weights="balanced"))
    assert several["task"]["kind"] == "multi_label" and set(several["metrics"]) >= {"f1_macro", "f1_micro"}
    scored = [{**row, "label": 0.5 + (row["label"] == "good")} for row in found]
    numbers = results(run(work, "scored", task=str(write_jsonl(work / "scored.jsonl", scored)), epochs=10))
    assert numbers["task"]["kind"] == "regression" and numbers["metrics"]["rmse"]["value"] < 0.45
    config = json.loads((work / "scored" / "model" / "config.json").read_text())
    assert config["problem_type"] == "regression" and list(config["id2label"].values()) == ["value"]


def test_pairs_on_bert_with_balanced_classes_and_early_stopping(work: Path) -> None:
    make_model(work / "bert", "bert")
    rng = rows(120)
    pairs = [
        {"question": one["text"], "sentence": two["text"], "label": int(one["label"] != two["label"] and i % 4 == 0)}
        for i, (one, two) in enumerate(zip(rng[:60], rng[61:], strict=False))
    ]
    folder = run(
        work,
        "pairs",
        model=str(work / "bert"),
        task=str(write_jsonl(work / "pairs.jsonl", pairs)),
        class_weights="balanced",
        early_stopping=1,
        epochs=20,
    )
    found = results(folder)
    scores = [metrics["f1_macro"] for _, metrics in found["evaluations"]]
    assert len(scores) < 20 and found["best"]["f1_macro"] == max(scores)
    assert scores[-1] <= scores[-2]
    AutoModelForSequenceClassification.from_pretrained(folder / "model")


def test_a_teacher(work: Path, whole: Path) -> None:
    teacher = str(whole / "model")
    alone = results(run(work, "alone", epochs=1))
    taught = results(run(work, "taught", epochs=1, teacher=teacher))
    assert (
        taught["losses"] != alone["losses"]
        and "| teacher | whole, hidden" in (work / "taught" / "model" / "README.md").read_text()
    )
    same = results(run(work, "same", model=teacher, epochs=1, teacher=teacher, learning_rate=1e-9))
    assert same["metrics"] == results(whole)["metrics"]  # a saved classifier of the same classes is kept

    write_jsonl(work / "stars.jsonl", rows(100, labels=("one star", "five stars")))
    with pytest.raises(ValueError, match="tells apart .*'bad', 'good'.* fine-tune the teacher on this task"):
        run(work, "other", task=str(work / "stars.jsonl"), teacher=teacher)
    with pytest.raises(ValueError, match="has no trained classifier"):
        run(work, "other", teacher=str(work / "encoder"))
    deep = make_model(work / "deep", num_hidden_layers=3)
    with pytest.raises(ValueError, match="num_hidden_layers=2, but the model has 3"):
        run(work, "other", model=str(deep), teacher=teacher)
    long = make_model(work / "long", max_position_embeddings=128)
    with pytest.raises(ValueError, match="reads 64 tokens, but max_length=100"):
        run(work, "other", model=str(long), teacher=teacher, max_length=100)
    assert not (work / "other").exists()


def test_models_that_do_not_do(work: Path) -> None:
    with pytest.raises(ValueError, match="model='no/such' cannot be loaded .no such folder"):
        run(work, "bad", model="no/such")
    with pytest.raises(ValueError, match="max_length=65 is more than the 64 tokens"):
        run(work, "bad", max_length=65)
    shutil.copytree(work / "encoder", work / "pickled")
    (work / "pickled" / "model.safetensors").rename(work / "pickled" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        run(work, "bad", model=str(work / "pickled"))
    shutil.copytree(work / "encoder", work / "code")
    config = json.loads((work / "code" / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
    (work / "code" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot be loaded"):
        run(work, "bad", model=str(work / "code"))
    assert not (work / "bad").exists()


def test_bad_rows_are_named_and_counted(work: Path) -> None:
    found = rows(100)
    bad = ["{broken", {"text": " ", "label": "bad"}, {"text": "no label here"}, {"text": "x", "label": None}]
    clash = [{"text": "The same film", "label": "good"}, {"text": "the  same film", "label": "bad"}]
    write_jsonl(work / "dirty.jsonl", [*found, *bad, *clash])
    held_out = [{**found[3]}, {"text": "new", "label": "awful"}, *rows(10, seed=5)]
    write_jsonl(work / "held.jsonl", held_out)
    options = {"task": str(work / "dirty.jsonl"), "validation": str(work / "held.jsonl"), "epochs": 1}
    with pytest.raises(ValueError, match="more than max_reject_share=0.01"):
        run(work, "dirty", **options)
    assert [path.name for path in (work / "dirty").iterdir()] == ["rejects.jsonl"]
    folder = run(work, "dirty", max_reject_share=0.1, **options)
    rejects = [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
    named = {(Path(one["file"]).name, one["line"]): one["reason"] for one in rejects}
    assert named["dirty.jsonl", 101].startswith("wrong JSON")
    assert named["dirty.jsonl", 102] == "empty: no text in 'text'"
    assert named["dirty.jsonl", 103] == "missing field: 'label'" and named["dirty.jsonl", 104].startswith("no label")
    assert named["dirty.jsonl", 105] == named["dirty.jsonl", 106]
    assert named["dirty.jsonl", 105] == "conflict: the same text has the labels bad and good"
    assert named["dirty.jsonl", 4].startswith("duplicate: the same text is in the validation set")
    assert named["held.jsonl", 2] == "unknown label: 'awful' is none of the training classes (bad, good)"
    parts = results(folder)["parts"]
    assert parts["train"]["rows"] + parts["validation"]["rows"] + len(rejects) == 106 + 12
    assert sum(results(folder)["left_out"].values()) == len(rejects)


def test_the_command(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["finetune", "--device", "cpu", "--epochs", "1", "--output", str(work / "command")]
    arguments += ["--model", str(work / "encoder"), "--task", str(work / "rows.jsonl")]
    assert main.run(arguments) == 0
    said = capsys.readouterr().out
    assert "accuracy" in said and "95% interval" in said and "command/model" in said and "Next:" in said
    assert main.run([*arguments, "--learning-rate", "-1"]) == 1
    assert "--learning-rate -1.0 must be above 0" in capsys.readouterr().err
    assert main.run([*arguments[:-1], "imbd", "--output", str(work / "other")]) == 1
    assert "Did you mean 'imdb'" in capsys.readouterr().err
