"""``linformers score`` as its user meets it: everything once, kills and restarts, refusals, models and formats."""

import json
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from finetune_helpers import make_model, rows, write_jsonl
from pretrain_helpers import exit_code, processes
from scoring_helpers import BAD_ROWS, fingerprint, make_classifier, read_scores, score, texts, write_documents

from linformers.cli import main

ROWS = 60


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("score")
    make_classifier(folder / "model")
    write_documents(folder / "docs", ROWS)
    score(options(folder, "whole"))
    return folder


def options(work: Path, name: str, **changes: Any) -> dict[str, Any]:
    fields = {
        "model": str(work / "model"),
        "input": (str(work / "docs"),),
        "output": str(work / name),
        "shard_rows": 25,
    }
    return {**fields, **changes}


def run(work: Path, name: str, *more: str, documents: str = "docs") -> int:
    given = ["--model", work / "model", "--input", work / documents, "--output", work / name, "--shard-rows", 25, *more]
    return main.run(["score", *map(str, given)])


def test_everything_once(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import pipeline

    assert run(work, "first", "--queue", "spam=0.5") == 0
    said = capsys.readouterr().out
    total = 3 * ROWS + 4
    assert f"{total} rows in = {total - BAD_ROWS} scored + {BAD_ROWS} rejected" in said
    found = read_scores(work / "first")
    assert len({(row["file"], row["row"]) for row in found}) == len(found) == total - BAD_ROWS
    bad = [json.loads(line) for line in (work / "first" / "rejects.jsonl").read_text().splitlines()]
    assert [(Path(one["file"]).name, one["row"], one["reason"].split(":")[0]) for one in bad] == [
        ("a.parquet", ROWS, "empty"),
        ("b.jsonl", 4, "wrong JSON"),
        ("b.jsonl", 5, "wrong type"),
        ("c.csv", ROWS + 2, "invalid UTF-8"),
        ("c.csv", ROWS + 3, "wrong CSV"),
    ]
    # The texts, and what transformers' pipeline says of them one by one.
    expected = [*texts(ROWS - 1), *texts(ROWS, 1), *texts(ROWS, 2)]
    theirs: Any = pipeline("text-classification", model=str(work / "model"), top_k=None, truncation=True, max_length=64)
    for place in range(0, len(found), 9):
        answer = {one["label"]: one["score"] for one in theirs([expected[place]])[0]}
        assert found[place]["probabilities"] == pytest.approx(answer, abs=1e-5)
        assert found[place]["label"] == max(answer, key=lambda name: answer[name])
        assert found[place]["flagged"] == (found[place]["probabilities"]["spam"] >= 0.5)
    results = json.loads((work / "first" / "results.json").read_text())
    counts = results["counts"]
    assert counts["rows"] == total and counts["shards"] == 9 and counts["long"] > 5
    assert counts["flagged"] == sum(row["flagged"] for row in found)
    assert results["model"]["labels"] == ["ham", "spam"] and len(results["model"]["sha256"]) == 64
    assert pq.read_table(work / "first" / "scores").num_rows == len(found)  # as others read it: a data set


def test_going_on_after_kills(work: Path) -> None:
    context = processes()
    context.set_forkserver_preload(["linformers.commands.score", "linformers.models.heads", "pandas"])
    # The plan takes two flushes; a unit its shard, the folder, its note, the folder: a death before each of them.
    for number in (1, 3, 2, 3, 4, 7):
        assert exit_code(context, options(work, "killed"), score, die_at_flush=number) == -signal.SIGKILL
    assert exit_code(context, options(work, "killed"), score) == 0
    assert fingerprint(work / "killed") == fingerprint(work / "whole")
    assert not list((work / "killed").rglob(".unfinished*"))
    before = {path: path.stat().st_mtime_ns for path in (work / "killed" / "scores").rglob("*") if path.is_file()}
    score(options(work, "killed"))  # nothing is left to do
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_what_is_lost_or_damaged_is_scored_again(work: Path) -> None:
    score(options(work, "hurt"))
    shards = sorted((work / "hurt" / "scores").glob("*/[0-9]*.parquet"))
    shards[1].unlink()
    shards[4].write_bytes(b"")
    (shards[7].parent / f"_{shards[7].stem}.json").unlink()
    score(options(work, "hurt"))
    assert fingerprint(work / "hurt") == fingerprint(work / "whole")


def test_changes_are_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = write_documents(work / "changing", 20)
    assert run(work, "changed", documents="changing") == 0
    capsys.readouterr()

    def refused(*more: str) -> str:
        assert run(work, "changed", *more, documents="changing") == 1
        return capsys.readouterr().err

    said = refused("--max-length", "32")
    assert "options.max_length was None and is now 32" in said and "--restart" in said and said.count("\n") == 1
    make_classifier(work / "other", hidden_act="relu")
    assert main.run(
        ["score", "--model", str(work / "other"), "--input", str(documents), "--output", str(work / "changed")]
    )
    assert "model.sha256" in capsys.readouterr().err
    assert run(work, "changed", "--restart", "--max-length", "32", documents="changing") == 0
    assert read_scores(work / "changed")[0]["row"] == 1


def test_folders_that_are_not_ours(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = work / "foreign"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    for more in ((), ("--restart",)):
        assert run(work, "foreign", *more) == 1
        assert "holds other files (thesis.txt)" in capsys.readouterr().err
    assert (folder / "thesis.txt").read_text() == "mine"
    linked = work / "linked"
    score(options(work, "linked"))
    (linked / "results.json").unlink()
    (linked / "results.json").symlink_to(folder / "thesis.txt")
    assert run(work, "linked") == 1
    assert "is a link" in capsys.readouterr().err and (folder / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--queue", "spam"], "--queue 'spam' must be LABEL=P"),
        (["--queue", "scam=0.5"], "'scam' is no label of the model: it has ham, spam"),
        (["--memory", "plenty"], "--memory 'plenty' is no amount"),
        (["--text", "txet"], "--text 'txet' is no column"),
        (["--max-length", "65"], "--max-length 65 is more than the 64 tokens"),
    ],
)
def test_options_that_cannot_be(work: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(work, "nothing", *more) == 1
    assert said in capsys.readouterr().err
    assert not (work / "nothing").exists()


def test_a_file_for_the_output_and_an_input_that_is_not_there(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "file").touch()
    assert run(work, "file") == 1
    assert "/file is a file; name a folder" in capsys.readouterr().err
    assert run(work, "nothing", "--input", "not-there.parquet") == 1
    assert "--input not-there.parquet: no such file or folder" in capsys.readouterr().err


def test_ids_jsonl_windows_and_embeddings(work: Path) -> None:
    lines = [{"id": f"n{i}", "label": 1, "text": text} for i, text in enumerate(texts(30))]
    write_jsonl(work / "lines.jsonl", lines)
    given = options(work, "lines", input=(str(work / "lines.jsonl"),), id=("id",), format="jsonl", embeddings=True)
    score({**given, "long": "windows", "pool": "max"})
    found = read_scores(work / "lines")
    assert [row["id"] for row in found] == [row["id"] for row in lines]
    assert set(found[0]) == {"id", "label", "probabilities", "embedding"} and len(found[0]["embedding"]) == 32
    counts = json.loads((work / "lines" / "results.json").read_text())["counts"]
    assert counts["windows"] > counts["scored"] == 30 and counts["long"] > 3
    with pytest.raises(ValueError, match="id='label' is a name that the scores have"):
        score({**given, "id": ("label",), "output": str(work / "none")})
    make_model(work / "encoder")
    score({**given, "model": str(work / "encoder"), "output": str(work / "embedded")})
    assert set(read_scores(work / "embedded")[0]) == {"id", "embedding"}


def test_exports_score_the_same(work: Path) -> None:
    pytest.importorskip("onnxruntime")
    from linformers.commands.export import export_onnx

    export_onnx(work / "model", work / "exported")
    score(options(work, "by-onnx", model=str(work / "exported")))
    found, expected = read_scores(work / "by-onnx"), read_scores(work / "whole")
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one["file"], one["row"]) == (other["file"], other["row"])
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
    assert json.loads((work / "by-onnx" / "results.json").read_text())["model"]["runtime"] == "onnxruntime"
    with pytest.raises(ValueError, match="embeddings are not among the outputs"):
        score(options(work, "none", model=str(work / "exported"), embeddings=True))


def test_calibrate_and_flag(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Numbers for the labels, and the model's own verdicts with some turned round: what precision there is, is known.
    lines = [{"text": row["text"], "label": "ham"} for row in rows(80)]
    write_jsonl(work / "labelled.jsonl", lines)
    score(options(work, "verdicts", input=(str(work / "labelled.jsonl"),)))
    probabilities = [row["probabilities"]["spam"] for row in read_scores(work / "verdicts")]
    middle = sorted(probabilities)[40]
    for number, (line, probability) in enumerate(zip(lines, probabilities, strict=True)):
        line["label"] = int((probability >= middle) != (number % 8 == 0))  # type: ignore[assignment]
    write_jsonl(work / "labelled.jsonl", [*lines, {"text": "", "label": 1}])
    given = [
        "calibrate",
        "--model",
        work / "model",
        "--labelled",
        work / "labelled.jsonl",
        "--output",
        work / "calibration",
        "--max-reject-share",
        0.02,
    ]
    assert main.run([*map(str, given), "--precision", "0.8"]) == 1
    assert "--target is missing: name the label to find, one of ham, spam" in capsys.readouterr().err
    given += ["--target", "spam"]
    assert main.run([*map(str, given), "--precision", "0.8"]) == 0
    said = capsys.readouterr().out
    facts = json.loads((work / "calibration" / "calibration.json").read_text())
    flagged = [p >= facts["threshold"] for p in probabilities]
    right = sum(line["label"] for line, flag in zip(lines, flagged, strict=True) if flag)
    assert facts["precision"]["value"] == pytest.approx(right / sum(flagged)) and facts["precision"]["value"] >= 0.8
    assert facts["flagged"] == sum(flagged)
    assert facts["documents"]["rows"] == 80 and facts["documents"]["rejected"] == 1
    assert (work / "calibration" / "reliability.png").stat().st_size > 1000
    queue = said.partition("--queue ")[2].split()[0]
    assert (
        main.run(
            [
                "score",
                "--model",
                str(work / "model"),
                "--input",
                str(work / "labelled.jsonl"),
                "--queue",
                queue,
                "--output",
                str(work / "flagged"),
            ]
        )
        == 0
    )
    assert [row["flagged"] for row in read_scores(work / "flagged")] == flagged
    assert run(work, "other-way", "--queue", queue, "--max-length", "32") == 1
    assert "is not None, with which --queue" in capsys.readouterr().err
    assert main.run([*map(str, given), "--precision", "0.5", "--recall", "0.5"]) == 1
    assert main.run([*map(str, given), "--recall", "0.5", "--target", "scam"]) == 1
    assert "--target 'scam' is no label" in capsys.readouterr().err
