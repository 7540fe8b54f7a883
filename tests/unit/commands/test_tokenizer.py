"""``linformers tokenizer``."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from linformers.cli.main import FAILED, MISUSED, OK, run

pytestmark = pytest.mark.usefixtures("bad_input")  # typer's own calls do not pass the shape hook

TEXTS = [f"The cat sat on mat {number}. " * 20 for number in range(30)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (tmp_path / "b.txt").write_text("Ein anderer Text.\n" * 50)
    return tmp_path


def test_trains_on_files_and_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tokenizer", "--input", f"{folder}/texts", "--input", f"{folder}/b.txt", "--vocab-size", "290"]
    assert run([*arguments, "--output", f"{folder}/out", "--model-max-length", "128"]) == OK
    shown = capsys.readouterr().out
    assert "31 documents" in shown and f"tokenizer of 290 tokens in {folder}/out" in shown
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    assert len(tokenizer) == 290 and tokenizer.mask_token == "<mask>" and tokenizer.model_max_length == 128
    assert tokenizer.decode(tokenizer(TEXTS[0])["input_ids"], skip_special_tokens=True) == TEXTS[0]


def test_says_when_the_text_is_too_short(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tokenizer", "--input", f"{folder}/b.txt", "--output", f"{folder}/out"]) == OK
    assert "too few pairs for vocab_size=50,265" in capsys.readouterr().out


def test_errors_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "texts" / "a.jsonl").open("a") as file:
        file.write("nonsense\n")
    assert run(["tokenizer", "--input", f"{folder}/texts", "--output", f"{folder}/out"]) == FAILED
    shown = capsys.readouterr().err
    assert "a.jsonl:31: wrong JSON" in shown and shown.count("\n") == 1
    assert not (folder / "out" / "tokenizer.json").exists()
    assert json.loads((folder / "out" / "rejects.jsonl").read_text())["line"] == 31
    arguments = ["tokenizer", "--input", f"{folder}/texts", "--output", f"{folder}/out"]
    assert run([*arguments, "--max-reject-share", "0.1"]) == OK
    assert run([*arguments, "--vocab-size", "100"]) == FAILED and "--vocab-size 100" in capsys.readouterr().err
    assert run(["tokenizer", "--input", f"{folder}/none", "--output", f"{folder}/out"]) == FAILED
    assert run(["tokenizer", "--output", f"{folder}/out"]) == MISUSED
