"""A table of messy files and options, and what a user sees of each: from a CSV to figures, scores and a threshold."""

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from finetune_helpers import make_model, rows, write_jsonl
from scoring_helpers import read_scores
from transformers import AutoTokenizer, pipeline

from linformers.cli import main

FOUND = rows(60)


def table(path: Path, header: Sequence[str], found: Sequence[Sequence[Any]], encoding: str = "utf-8") -> Path:
    """A CSV with semicolons, as Excel writes it where the comma is in numbers."""
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=";").writerows([header, *found])
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("messy")
    make_model(folder / "encoder", "bert")
    return folder


def finetune(work: Path, task: Path, output: str, *more: object) -> int:
    given = ("finetune", "--model", work / "encoder", "--task", task, "--output", work / output, "--device", "cpu")
    return main.run([str(one) for one in (*given, "--epochs", 0.5, "--batch-size", 16, *more)])


def mails(work: Path) -> Path:
    """Mails with umlauts, several lines, and a quotation mark that is never closed."""
    found = [(f"m{i}", f"Größe {i}", f"{one['text']}\nsecond line", one["label"]) for i, one in enumerate(FOUND)]
    path = table(work / "mails.csv", ("id", "subject", "body", "label"), found, "cp1252")
    lines = path.read_bytes().split(b"\r\n")
    lines[3:3] = [b'm99;"open;text;good']
    path.write_bytes(b"\r\n".join(lines))
    return path


def test_from_a_messy_table_to_a_threshold(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mails(work)
    texts = ("--text", "subject", "--text", "body", "--id", "id")
    share = ("--max-reject-share", 0.1)
    assert finetune(work, path, "run", *texts, *share, "--test-size", 0.2, "--max-length", 16) == 0
    said = capsys.readouterr().out
    for part in (
        "mails.csv: read as semicolon-separated, cp1252",
        "2 classes (rows for train / validation / test): bad",
        "the first reject: ",
        "wrong CSV: ",
        "training texts cut at 16 tokens; --max-length",
        "bag of words",
        "each class",
    ):
        assert part in said, part
    results = json.loads((work / "run" / "results.json").read_text())
    predicted = pq.read_table(work / "run" / "predictions.parquet").to_pylist()
    assert len(predicted) == 12 and list(predicted[0])[:4] == ["id", "file", "row", "text"]
    for one in predicted:
        number = int(one["id"][1:])
        assert one["text"] == f"Größe {number}\n\n{FOUND[number]['text']}\nsecond line"
        assert one["label"] == FOUND[number]["label"]
    assert [one["rows"] for one in results["per_class"]] == [6, 6]

    # The trained length is the model's, and so are its columns.
    model = work / "run" / "model"
    assert AutoTokenizer.from_pretrained(model).model_max_length == 16
    assert main.run(["score", "--model", str(model), "--input", str(path), "--output", str(work / "scores")]) == 0
    assert "columns read: subject + body" in capsys.readouterr().out
    by_row = {one["row"]: one["probabilities"]["bad"] for one in read_scores(work / "scores")}
    assert all(by_row[one["row"]] == pytest.approx(one["probabilities"][0], abs=1e-5) for one in predicted)
    line = next(line for line in said.splitlines() if line.startswith("Next: "))
    long = eval(line.partition("transformers.")[2], {"pipeline": pipeline})("word " * 3000)
    assert set(long[0]) == {"label", "score"}
    given = ["calibrate", "--model", str(model), "--labelled", str(path), "--output", str(work / "calibrated")]
    given += ["--target", "bad", "--recall", "0.5", "--id", "id"]
    assert main.run(given) == 1
    error = capsys.readouterr().err
    assert "--max-reject-share 0.01 allows" in error and "calibrated-rejects.jsonl" in error
    assert (work / "calibrated-rejects.jsonl").is_file()
    assert main.run([*given, "--max-reject-share", "0.1"]) == 0


def test_pairs_are_scored_as_pairs(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(0)
    found = [(one["text"], rng.choice(FOUND)["text"], i % 2) for i, one in enumerate(FOUND)]
    path = table(work / "pairs.csv", ("question1", "question2", "is_duplicate"), found)
    assert finetune(work, path, "pairs", "--no-baseline") == 0
    said = capsys.readouterr().out
    assert "F1 of 1" in said and "bag of words" not in said and "These rows chose the step" in said
    model = str(work / "pairs" / "model")
    assert main.run(["score", "--model", model, "--input", str(path), "--output", str(work / "pair-scores")]) == 0
    scores = {one["row"]: one["probabilities"]["1"] for one in read_scores(work / "pair-scores")}
    for one in pq.read_table(work / "pairs" / "predictions.parquet").to_pylist():
        assert scores[one["row"]] == pytest.approx(one["probabilities"][1], abs=1e-5)
    single = write_jsonl(work / "single.jsonl", [{"text": "one"}])
    assert main.run(["score", "--model", model, "--input", str(single), "--output", str(work / "no")]) == 1
    assert "trained on pairs: give --text and --pair" in capsys.readouterr().err.replace(
        "text and pair", "--text and --pair"
    )


def test_columns_of_zeros_and_ones(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [(one["text"], int(one["label"] == "bad"), i % 3 == 0, int(i % 2)) for i, one in enumerate(FOUND)]
    found += [("unmarked", -1, -1, -1), ("wrong", 2, 0, 0)]
    path = table(work / "toxic.csv", ("comment", "toxic", "insult", "threat"), found)
    assert finetune(work, path, "toxic", "--labels", "toxic,insult,threat", "--max-reject-share", 0.1) == 0
    results = json.loads((work / "toxic" / "results.json").read_text())
    assert results["task"] == {"name": "toxic.csv", "kind": "multi_label", "classes": ["toxic", "insult", "threat"]}
    reasons = [json.loads(line)["reason"] for line in (work / "toxic" / "rejects.jsonl").read_text().splitlines()]
    assert "no label: 'toxic' is -1" in reasons
    assert "unknown label: 'toxic' holds '2' where 0 or 1 is expected" in reasons
    capsys.readouterr()


def labelled(label: Callable[[int], Any], count: int = 60) -> list[dict[str, Any]]:
    return [{"text": f"{one['text']} {i}", "label": label(i)} for i, one in enumerate((FOUND * 3)[:count])]


# Rows, options, exit code, and what is said.
CASES: dict[str, tuple[list[dict[str, Any]], tuple[str, ...], int, str]] = {
    "one class": (labelled(lambda i: "ham"), (), 1, "all 60 usable training rows have the label 'ham'"),
    "no label": (labelled(lambda i: None), (), 1, "The first is"),
    "no text": ([{"text": "nan", "label": "a"}], (), 1, "empty: no text in 'text' but 'nan', which stands for none"),
    "minus one": (labelled(lambda i: i % 3 - 1), (), 1, "no label: -1, which marks rows without one as in GLUE"),
    "minus one as a class": (labelled(lambda i: 2 * (i % 2) - 1), (), 0, "the label -1 is a class here"),
    "spelt in two ways": (
        labelled(lambda i: ("complaint", "Complaint ", "praise")[i % 3]),
        (),
        0,
        "the classes 'Complaint' and 'complaint' differ in case, blanks or punctuation only",
    ),
    "many numbers": (labelled(lambda i: i % 30, 180), (), 0, "30 whole numbers are 30 classes here"),
    "rare class": (
        labelled(lambda i: "rare" if i == 7 else ("ham", "spam")[i % 2]),
        (),
        0,
        "no row of 'rare' among the 6 validation rows",
    ),
    "no such metric": (labelled(lambda i: i % 2), ("--select-by", "rmse"), 1, "--select-by 'rmse' is unknown"),
    "another metric": (labelled(lambda i: i % 2), ("--select-by", "f1"), 0, "F1 of 1"),
    "positive": (labelled(lambda i: "ab"[i % 2]), ("--positive", "a"), 0, "F1 of a"),
    "no such class": (labelled(lambda i: "ab"[i % 2]), ("--positive", "c"), 1, "--positive 'c' must be one of two"),
    "no such column": (labelled(lambda i: i % 2), ("--text", "txt"), 1, "--text 'txt' is no column of it"),
    "no such id": (labelled(lambda i: i % 2), ("--id", "key"), 1, "--id 'key' is no column of it"),
    "encoding": (labelled(lambda i: i % 2), ("--encoding", "utf9"), 1, "--encoding 'utf9' is unknown to Python"),
    "delimiter": (labelled(lambda i: i % 2), ("--delimiter", ";;"), 1, "--delimiter ';;' must be one character"),
    "rate": (labelled(lambda i: i % 2), ("--learning-rate", "-1"), 1, "--learning-rate -1.0 must be above 0"),
    "id of ours": (
        labelled(lambda i: i % 2),
        ("--id", "row"),
        1,
        "--id 'row' is the name of a column that",
    ),
    "seed": (labelled(lambda i: i % 2), ("--seed", "-1"), 1, "--seed must be at least 0, got -1"),
    "no share": (
        labelled(lambda i: i % 2),
        ("--validation-size", "1.5"),
        1,
        "--validation-size 1.5 must be a number of rows (1, 2, ...) or a share between 0 and 1",
    ),
    "columns of zeros": (
        [{"text": one["text"], "ham": i % 2, "spam": 1 - i % 2} for i, one in enumerate(FOUND)],
        (),
        1,
        "give --label, or --labels for columns of 0 and 1 (columns: text, ham, spam)",
    ),
    "one very long text": (
        [{"text": "x" * 300_000, "label": 1}, *labelled(lambda i: i % 2)],
        (),
        0,
        "1 of 55 training texts cut at 64 tokens; the longest has ",
    ),
    "longer texts": (
        [{"text": one["text"] * 8, "label": i % 2} for i, one in enumerate(FOUND)],
        (),
        0,
        "(this model reads 64; linformers convert --max-length 128 --segment-length 64 makes a longer one of it)",
    ),
    "size": (labelled(lambda i: i % 2), ("--test-size", "60"), 1, "--test-size 60 must be between 1 and 59"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_user_sees(work: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, more, code, said = CASES[case]
    path, output = write_jsonl(work / f"{case}.jsonl", found), f"case {case}"
    assert finetune(work, path, output, "--no-baseline", *more) == code
    shown = capsys.readouterr()
    assert said in " ".join((shown.err if code else shown.out).split())
    if listed := shown.err.partition("all are listed in ")[2]:
        assert Path(listed.partition(". Repair")[0].strip()).is_file() or "rejects.jsonl" in listed


def test_files_named_twice_and_files_of_other_formats(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(work / "rows.jsonl", labelled(lambda i: i % 2))
    (work / "link.jsonl").symlink_to(path)
    for option in ("test", "validation", "extra-train"):
        assert finetune(work, path, "twice", f"--{option}", work / "link.jsonl") == 1
        assert f"--{option} {work / 'link.jsonl'} is the same file as --task" in capsys.readouterr().err
    assert finetune(work, path, "small", "--no-baseline") == 0
    model, inbox = str(work / "small" / "model"), work / "inbox"
    inbox.mkdir()
    (inbox / "a.jsonl").write_bytes(path.read_bytes())
    (inbox / "b.eml").write_text("From: somebody")
    assert main.run(["score", "--model", model, "--input", str(inbox), "--output", str(work / "night")]) == 0
    assert "not read: 1 files of other formats (1 .eml)" in capsys.readouterr().out
    last = json.loads((work / "night" / "rejects.jsonl").read_text().splitlines()[-1])
    assert last["file"].endswith("b.eml") and last["reason"].startswith("not read: readable are .txt")
    assert json.loads((work / "night" / "results.json").read_text())["files_not_read"] == [str(inbox / "b.eml")]


@pytest.mark.parametrize(
    ("lines", "share", "said"),
    [
        ([], (), "nothing was scored: the files hold no row"),
        ([{"text": ""}], (), "nothing was scored: all 1 rows were rejected. The first is"),
        ([{"text": "a"}, {"text": ""}], (), "1 of 2 records are unusable, more than --max-reject-share 0.1 allows"),
        ([{"text": "a"}, {"text": ""}], ("--max-reject-share", "0.5"), ""),
    ],
)
def test_exit_codes_of_a_night(
    work: Path,
    tmp_path: Path,
    lines: list[dict[str, str]],
    share: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    given = ["score", "--model", str(work / "encoder"), "--input", str(tmp_path / "in.jsonl")]
    assert main.run([*given, "--output", str(tmp_path / "out"), *share]) == bool(said)
    assert said in capsys.readouterr().err
    assert (tmp_path / "out" / "results.json").is_file()  # what is scored stays
