"""The same command every night: what is new is read once, what has changed takes its place, what is gone stays."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from finetune_helpers import write_jsonl
from pretrain_helpers import exit_code, processes
from scoring_helpers import make_classifier, read_scores, score, texts

from linformers.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("nightly") / "model")


class Nights:
    """An inbox that is scored again and again."""

    def __init__(self, model: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.model, self.inbox, self.output, self.capsys = model, folder / "inbox", folder / "scores", capsys
        self.inbox.mkdir()

    def mail(self, name: str, *lines: str) -> None:
        (self.inbox / f"{name}.txt").write_text("\n".join(lines or (f"this film is {name}",)))

    def run(self, *more: str, command: str = "score", code: int = 0, inbox: Path | None = None) -> str:
        given = ["--model", self.model, "--input", inbox or self.inbox, "--output", self.output, *more]
        found = main.run([command, *map(str, given)])
        said = self.capsys.readouterr()
        assert found == code, said
        return said.err if code else said.out

    def names(self, shards: str = "scores") -> list[str]:
        return sorted(Path(row["file"]).stem for row in read_scores(self.output, shards))

    def of_run(self, number: int, shards: str = "scores") -> list[str]:
        rows = pq.read_table(self.output / "runs" / f"{number:04}" / f"{shards}.parquet").to_pylist()
        return [Path(row["file"]).stem for row in rows]

    def results(self) -> dict[str, Any]:
        return json.loads((self.output / "results.json").read_text())


@pytest.fixture
def nights(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Nights:
    return Nights(model, tmp_path, capsys)


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("command", "shards"), [("score", "scores"), ("embed", "embeddings")])
def test_new_files_are_read_and_others_are_not(nights: Nights, command: str, shards: str) -> None:
    for name in "abc":
        nights.mail(name)
    nights.run(command=command)
    first = stamps(nights.output / shards)
    assert nights.of_run(1, shards) == ["a", "b", "c"]
    nights.mail("d")
    nights.mail("e")
    said = nights.run(command=command)
    assert "Run 2: new files 2, files of before 3." in said and "2 rows in = 2" in said
    assert "with all runs before: 5 = 5" in said and "runs/0002/" in said
    assert nights.of_run(2, shards) == ["d", "e"] and nights.names(shards) == ["a", "b", "c", "d", "e"]
    assert first.items() <= stamps(nights.output / shards).items()
    results = nights.results()
    assert results["run"] == 2 and results["new"]["counts"]["rows"] == 2 and results["counts"]["rows"] == 5
    before = stamps(nights.output / shards)
    assert "Nothing new" in nights.run(command=command)
    assert before == stamps(nights.output / shards) and nights.results()["run"] == 2
    assert main.run(["report", str(nights.output)]) == 0
    assert "Run 2 over 2 files; the folder holds 5." in (nights.output / "report.html").read_text()


def test_a_changed_file_takes_its_place_and_one_that_is_gone_stays(nights: Nights, tmp_path: Path) -> None:
    for name in "abc":
        nights.mail(name)
    nights.run()
    nights.mail("b", "a much longer film than it was before")
    (nights.inbox / "c.txt").rename(tmp_path / "archived.txt")
    said = nights.run()
    assert "Run 2: new files 0, changed 1 (read anew, in place of what was there), files of before 2." in said
    assert "no longer there: 1; what was scored of them stays" in said
    assert nights.names() == ["a", "b", "c"] and nights.of_run(2) == ["b"]
    assert len(list((nights.output / "scores").iterdir())) == 3
    shutil.rmtree(nights.inbox)
    nights.inbox.mkdir()
    (nights.inbox / "logo.png").touch()
    assert "Nothing new" in nights.run() and nights.names() == ["a", "b", "c"]  # an empty inbox is no error
    assert "no such file" in nights.run(code=1, inbox=tmp_path / "inbxo")  # a wrong name is


def test_other_names_of_the_same_files_are_not_new(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    nights.mail("a")
    nights.run()
    monkeypatch.chdir(nights.inbox.parent)
    (nights.inbox.parent / "link").symlink_to("inbox")
    for path in (Path("inbox"), Path("link"), Path("inbox/a.txt")):
        assert "Nothing new" in nights.run(inbox=path)
    assert nights.names() == ["a"]


def test_kills_in_the_second_night(nights: Nights, tmp_path: Path) -> None:
    options = {"model": str(nights.model), "input": (str(nights.inbox),), "output": str(nights.output)}
    for name in "abc":
        nights.mail(name)
    nights.run()
    nights.mail("b", "it has changed")
    nights.mail("d")
    context = processes()
    context.set_forkserver_preload(["linformers.commands.score", "linformers.models.heads", "pandas"])
    # The plan, a shard and its note, the other ones; then the rejects, what is gathered, the results.
    for number in (1, 4, 7, 3):
        assert exit_code(context, options, score, die_at_flush=number) == -signal.SIGKILL
    nights.mail("e")  # it joins the run that has not ended
    nights.run()
    assert nights.names() == ["a", "b", "c", "d", "e"] and nights.results()["run"] == 2
    assert nights.of_run(2) == ["b", "d", "e"]


def test_a_file_that_goes_half_read_is_taken_away(nights: Nights) -> None:
    write_jsonl(nights.inbox / "long.jsonl", [{"text": text} for text in texts(9)])
    nights.mail("a")
    given = {"shard_rows": 2, "input": (str(nights.inbox),), "model": str(nights.model), "output": str(nights.output)}
    context = processes()
    assert exit_code(context, given, score, die_at_flush=16) == -signal.SIGKILL
    assert "long" in nights.names()
    (nights.inbox / "long.jsonl").unlink()
    assert "long.jsonl went before it was read to its end" in nights.run("--shard-rows", "2")
    assert nights.names() == ["a"] and nights.results()["counts"]["rows"] == 1


def test_the_share_of_rejects_is_of_the_night(nights: Nights) -> None:
    write_jsonl(nights.inbox / "monday.jsonl", [{"text": text} for text in texts(30)])
    nights.run()
    (nights.inbox / "tuesday.jsonl").write_text('{"text": "good"}\n{"text": ""}\n')
    said = nights.run(code=1)  # 1 of 32 in all, but 1 of 2 of this night
    assert "1 of 2 records are unusable" in said and "--max-reject-share" in said and "tuesday.jsonl:2" in said
    assert nights.run("--max-reject-share", "0.5")
    (nights.inbox / "wednesday.jsonl").write_text("{\n")
    assert "nothing was scored: all 1 rows were rejected" in nights.run("--max-reject-share", "1", code=1)
    (nights.inbox / "thursday.jsonl").write_text('{"text": "good"}\n')
    nights.run()
    assert nights.results()["run"] == 4 and nights.results()["counts"]["rejected"] == 2


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_the_queue_has_the_surest_first_with_their_texts(nights: Nights, form: str) -> None:
    given = [{"ref": f"r{i}", "text": text} for i, text in enumerate(["=2+3", *texts(40)])]
    write_jsonl(nights.inbox / "mails.jsonl", given)
    said = nights.run("--queue", "spam=0.3", "--queue", "ham=0.9", "--id", "ref", "--format", form)
    folder = nights.output / "runs" / "0001"
    rows = {row["ref"]: row for row in read_scores(nights.output)}
    queue = pq.read_table(folder / "queue.parquet").to_pylist()
    flagged = {name for name, row in rows.items() if row["flagged"]}
    assert {row["ref"] for row in queue} == flagged and 0 < len(flagged) < 41
    assert f"{len(flagged)} flagged for review, the surest first: {folder / 'queue.csv'}" in said
    probabilities = [row["probability"] for row in queue]
    assert probabilities == sorted(probabilities, reverse=True)
    text_of = {line["ref"]: line["text"] for line in given}
    for row in queue:
        assert row["text"] == text_of[row["ref"]] and row["file"].endswith("mails.jsonl")
        assert row["probability"] == pytest.approx(rows[row["ref"]]["probabilities"][row["label"]])
    assert {row["text"] for row in rows.values() if not row["flagged"]} == {None}
    with (folder / "queue.csv").open(encoding="utf-8-sig", newline="") as lines:
        in_csv = list(csv.DictReader(lines))
    assert [row["ref"] for row in in_csv] == [row["ref"] for row in queue]
    assert not any(row["text"].startswith("=") for row in in_csv)  # a spreadsheet would run it
    assert main.run(["report", str(nights.output)]) == 0
    page = (nights.output / "report.html").read_text()
    assert "Review queue" in page and queue[0]["text"][:40] in page


def test_touching_files_or_an_old_folder(nights: Nights) -> None:
    nights.mail("a")
    nights.run()
    os.utime(nights.inbox / "a.txt", (1, 1))
    assert "changed 1" in nights.run() and nights.names() == ["a"]
    plan = json.loads((nights.output / "plan.json").read_text())
    plan["fixed"]["format"] = 1
    (nights.output / "plan.json").write_text(json.dumps(plan))
    assert "of another version (format 1); start anew with --restart" in nights.run(code=1)
    nights.run("--restart")
    assert nights.names() == ["a"] and nights.of_run(1) == ["a"]
