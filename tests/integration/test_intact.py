"""A flipped bit in a model folder that we wrote is an error of every command that loads it, not a wrong result."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from scoring_helpers import make_classifier, texts

from linformers.cli import main
from linformers.files.folders import write_folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier as our commands write one, the same in our own class, and a file for each command to read."""
    folder = tmp_path_factory.mktemp("intact")
    for kind in ("bert", "linformer"):
        write_folder(folder / kind, lambda target, kind=kind: make_classifier(target, kind))
    rows = [{"text": text, "label": ("ham", "spam")[i % 2]} for i, text in enumerate(texts(60))]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def model(work: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(work / "bert", tmp_path / "model"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def other(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))


def score(work: Path, model: Path) -> list[str]:
    options = {"model": model, "input": work / "rows.jsonl", "output": model.parent / "out"}
    return ["score", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


COMMANDS = {
    "score": "score --model MODEL --input ROWS --output OUT",
    "embed": "embed --model MODEL --input ROWS --output OUT",
    "calibrate": "calibrate --model MODEL --labelled ROWS --output OUT --precision 0.5",
    "convert": "convert --model MODEL --output OUT",
    "finetune": "finetune --model MODEL --task ROWS --output OUT",
    "finetune, teacher": "finetune --model INTACT --teacher MODEL --task ROWS --output OUT",
    "distil": "distil --model MODEL --teacher INTACT --texts ROWS --output OUT",
    "distil, teacher": "distil --model LINEAR --teacher MODEL --texts ROWS --output OUT",
    "adapt": "adapt --model MODEL --texts ROWS --output OUT",
    "spectrum": "spectrum --model MODEL --texts ROWS --output OUT",
    "advise": "advise --model MODEL --texts ROWS --output OUT",
    "export": "export --model MODEL --output OUT",
    "benchmark": "benchmark --model MODEL --output OUT",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_a_flipped_bit_is_an_error(command: str, work: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(model / "model.safetensors")
    places = {"MODEL": model, "ROWS": work / "rows.jsonl", "OUT": model.parent / "out"}
    places |= {"INTACT": work / "bert", "LINEAR": work / "linformer"}
    assert main.run([str(places.get(word, word)) for word in command.split()]) == main.FAILED
    assert "is damaged: model.safetensors has other contents than were written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "hurt", "said"),
    [
        ("config.json", other, "config.json has other contents"),
        ("tokenizer.json", flip, "tokenizer.json has other contents"),
        ("tokenizer_config.json", Path.unlink, "tokenizer_config.json is missing"),
        ("manifest.json", flip, "manifest.json cannot be read"),
    ],
)
def test_what_else_is_checked(
    name: str, hurt: Callable[[Path], None], said: str, work: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hurt(model / name)
    command = score(work, model)
    assert main.run(command) == main.FAILED
    assert f"is damaged: {said}" in capsys.readouterr().err
    (model / "manifest.json").unlink()  # as the message says, where the change was meant
    if not name.startswith("tokenizer"):  # without one of its own files a tokenizer is another
        assert main.run(command) == main.OK


def test_an_edited_card_and_further_files_are_not_damage(work: Path, model: Path) -> None:
    (model / "README.md").write_text("# Mine\n")
    (model / "notes.txt").write_text("added")
    command = score(work, model)
    assert main.run(command) == main.OK
