"""What the commands advise runs as it is printed: fine-tune, convert, fine-tune or distil again."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from finetune_helpers import make_model, rows, write_jsonl

from linformers.cli import main

SHORT = ["--epochs", "1", "--batch-size", "16", "--device", "cpu"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("a folder")
    make_model(folder / "encoder", "bert", initializer_range=0.2)
    write_jsonl(folder / "rows.jsonl", [{"words": row["text"], "label": row["label"]} for row in rows(60)])
    return folder


def run(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command and give what it prints."""
    assert main.run(arguments) == 0
    return capsys.readouterr().out


def advised(shown: str, start: str) -> list[str]:
    """The arguments of the command in the line that starts so."""
    line = next(line for line in shown.splitlines() if line.startswith(start))
    program, *arguments = shlex.split(line[line.index("linformers ") :])
    assert program == "linformers"
    return arguments


def test_a_classifier_learns_on_from_the_rows_of_its_teacher(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--task", str(work / "rows.jsonl"), "--text", "words", "--output", str(work / "teacher")]
    shown = run(capsys, ["finetune", "--model", str(work / "encoder"), *files, *SHORT])
    convert = advised(shown, "For longer inputs: ")
    shown = run(capsys, [*convert, "--projected-dim", "4", "--exact-length", "0"])
    finetune = advised(shown, "next: ")
    assert finetune[finetune.index("--text") + 1] == "words" and finetune[finetune.index("--max-length") + 1] == "64"
    shown = run(capsys, [*finetune, *SHORT])
    assert "For longer inputs" not in shown  # it is linear already
    config = json.loads((work / "teacher-linear-finetuned" / "model" / "config.json").read_text())
    assert config["linformers"]["projected_dim"] == 4 and config["max_position_embeddings"] == 4096


def test_an_encoder_is_distilled_on_the_books(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINFORMERS_CACHE", str(work / "cache"))
    small = ["--projected-dim", "4", "--exact-length", "0"]
    shown = run(capsys, ["convert", "--model", str(work / "encoder"), "--output", str(work / "linear"), *small])
    distil = advised(shown, "next (on books")
    run(capsys, [*distil, "--steps", "2", "--device", "cpu"])
    assert (work / "linear-distilled" / "model" / "model.safetensors").is_file()
