"""Taggers and question answering from file to score: learned, measured, stopped and gone on with, reported, scored."""

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from finetune_helpers import PLAIN, make_model, tiny, write_jsonl

from linformers.classification.settings import FinetuneSettings
from linformers.cli import main
from linformers.commands.functions import finetune
from linformers.files.folders import hash_once
from linformers.training.engine import Engine

NAMES = ("zqx", "kvw")  # words that the tokenizer does not know whole


def documents(count: int) -> list[tuple[list[str], list[int]]]:
    """Words, and the numbers of the names among them."""
    rng, found = random.Random(0), []
    for _ in range(count):
        words = [rng.choice(PLAIN) for _ in range(rng.randint(4, 14))]
        places = sorted(rng.sample(range(len(words)), 2))
        for place in places:
            words[place] = rng.choice(NAMES)
        found.append((words, places))
    return found


def rows(layout: str, count: int = 64) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number, (words, places) in enumerate(documents(count)):
        text = " ".join(words)
        starts = [len(" ".join(words[:place])) + bool(place) for place in places]
        if layout == "words":
            found.append({"tokens": words, "tags": ["B-X" if n in places else "O" for n in range(len(words))]})
        elif layout == "spans":
            entities = [{"start": start, "end": start + 3, "label": "X"} for start in starts]
            found.append({"text": text, "entities": entities})
        else:
            answers = {"text": [words[places[0]]], "answer_start": [starts[0]]} if number % 4 else None
            answers = answers or {"text": [], "answer_start": []}
            context = text if answers["text"] else " ".join(word for word in words if word not in NAMES)
            found.append({"id": f"n{number}", "question": "some book", "context": context, "answers": answers})
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotated")
    make_model(folder / "encoder", "linformer", exact_length=0)
    config = folder / "encoder" / "tokenizer_config.json"  # places are counted from the left whatever it says
    config.write_text(json.dumps(json.loads(config.read_text()) | {"padding_side": "left"}))
    for layout in ("words", "spans", "answers"):
        write_jsonl(folder / f"{layout}.jsonl", rows(layout))
    return folder


def fine_tune(work: Path, layout: str, name: str, **changes: Any) -> dict[str, Any]:
    given = {"task": str(work / f"{layout}.jsonl"), "epochs": 5, "learning_rate": 1e-2, **changes}
    return finetune(FinetuneSettings(**tiny(work, name, **given)))


@pytest.mark.parametrize("layout", ["words", "spans", "answers"])
def test_learned_measured_scored_and_reported(work: Path, layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    more: dict[str, Any] = {"id": ("id",)} if layout == "answers" else {}
    results = fine_tune(work, layout, layout, **more)
    said = capsys.readouterr().out
    run = work / layout
    assert results["task"]["layout"] == layout and results["metrics"]["f1"]["value"] > 0.6, results["metrics"]
    assert results["best"]["f1"] == pytest.approx(results["metrics"]["f1"]["value"])  # the validation rows chose it
    card = (run / "model" / "README.md").read_text()
    assert "linformers score --model" in card and ("SQuAD" if layout == "answers" else "seqeval") in card
    (line,) = [one for one in said.splitlines() if one.startswith("Next,")]
    command = line.split(": linformers ")[1].split()
    assert main.run([*command, "--format", "jsonl"]) == 0
    scored = (Path(command[command.index("--output") + 1]) / "runs" / "0001" / "scores.jsonl").read_text()
    predicted = pq.read_table(run / "predictions.parquet").to_pylist()
    for row, one in zip(predicted, map(json.loads, scored.splitlines()), strict=True):
        if layout == "answers":
            assert row["id"].startswith("n") and (one["answer"], one["start"]) == (row["predicted"], row["start"])
            assert one["score"] == pytest.approx(row["score"], rel=1e-3)
        else:  # what score finds in plain text is what was measured
            assert [(e["label"], e["start"], e["end"]) for e in one["entities"]] == [
                (e["label"], e["start"], e["end"]) for e in row["predicted"]
            ]
    assert main.run(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "Where it is most wrong" in page and results["names"]["f1"] in page


def test_a_stopped_run_ends_with_the_same_weights(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine_tune(work, "words", "straight", epochs=2)
    steps, step = [], Engine._step

    def stop(engine: Engine, batches: Any) -> None:
        steps.append(engine.history.step)
        if len(steps) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        step(engine, batches)

    monkeypatch.setattr(Engine, "_step", stop)
    with pytest.raises(KeyboardInterrupt, match="was stopped"):
        fine_tune(work, "words", "stopped", epochs=2)
    assert not (work / "stopped" / "model").exists()
    fine_tune(work, "words", "stopped", epochs=2)
    assert steps == list(range(16))
    weights = [work / name / "model" / "model.safetensors" for name in ("straight", "stopped")]
    assert hash_once(weights[0]) == hash_once(weights[1])


def test_bad_rows_stop_the_run_or_are_left_out(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = {"text": "the book", "entities": [{"start": 4, "end": 6, "label": "X"}]}
    path = write_jsonl(work / "some.jsonl", [*rows("spans", 40), cut])
    given = {"task": str(path), "epochs": 1}
    with pytest.raises(ValueError, match="max_reject_share=0.01 allows. The first is .*some.jsonl:41: cut token"):
        finetune(FinetuneSettings(**tiny(work, "some", **given)))
    finetune(FinetuneSettings(**tiny(work, "some", **given, max_reject_share=0.1)))
    assert "left out: 1 cut token" in capsys.readouterr().out
    (reject,) = map(json.loads, (work / "some" / "rejects.jsonl").read_text().splitlines())
    assert reject["line"] == 41 and reject["file"].endswith("some.jsonl")


def test_what_they_do_not_take(work: Path) -> None:
    for changes, said in (
        ({"teacher": "x"}, "teacher='x' is for labels of whole texts, not tags"),
        ({"class_weights": "balanced"}, "class_weights='balanced'"),
        ({"select_by": "auroc"}, "select_by"),
        ({"kind": "answers"}, "needs the columns question, context and answers"),
    ):
        with pytest.raises(ValueError, match=said):
            fine_tune(work, "words", "refused", **changes)
    assert not (work / "refused").exists()
