"""``linformers reproduce`` on data sets that are given, and with pretraining in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finetune_helpers import rows
from transformers import AutoTokenizer, MPNetConfig, MPNetModel

from linformers.cli import main
from linformers.data.books import load_books
from linformers.reproduce import figure3
from linformers.reproduce.tiny import make_encoder

SST2 = "{sst2: {train_size: 64, validation_size: 16, max_length: 64, batch_size: 16, epochs: 1.0, student_epochs: 0.5}}"
NAIVE = "{projected_dim: 16, projection_kind: linear, projection_init: random, local_window: 0, global_tokens: 0}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of the names that are looked for."""
    folder = tmp_path_factory.mktemp("data")
    for name, count, seed in (("sst2_train", 200, 0), ("sst2_dev", 40, 1)):
        labelled = [{"text": row["text"], "label": i % 2} for i, row in enumerate(rows(count, seed))]
        pq.write_table(pa.Table.from_pylist(labelled), folder / f"{name}.parquet")
    text = load_books(1)[0].text
    pq.write_table(pa.table({"text": [text[:60_000], text[60_000:120_000]]}), folder / "gutenberg_train.parquet")
    reviews = [text[start : start + 400] for start in range(0, 8000, 400)]
    pq.write_table(pa.table({"text": reviews, "label": [0] * len(reviews)}), folder / "imdb_train.parquet")
    return folder


def run(output: Path, *arguments: str) -> int:
    return main.run(["reproduce", *arguments, "--scale", "smoke", "--device", "cpu", "--output", str(output)])


def results(output: Path, target: str) -> dict[str, Any]:
    return json.loads((output / target / "results.json").read_text())


def test_table_2_of_a_named_task(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [f"table2.tasks={SST2}", "table2.encoders={}", "table2.scratch=[sst2]"]
    students = f"table2.students={{'k = 16': {{projected_dim: 16}}, 'naive, k = 16': {NAIVE}}}"
    options = ["table2", *changes, students, "--data", str(data)]
    assert run(tmp_path, *options) == 0
    found = results(tmp_path, "table2")
    cells = found["cells"]["sst2"]
    assert list(cells) == [
        "teacher",
        "k = 16, converted",
        "k = 16, distilled",
        "naive, k = 16, converted",
        "naive, k = 16, fine-tuned",
        "naive, k = 16, distilled",
        "from scratch",
    ]
    assert all(cell["correct"]["rows"] == 40 for cell in cells.values())
    assert cells["k = 16, distilled"]["steps"] == 2 == cells["from scratch"]["steps"]
    assert cells["teacher"]["steps"] == 4 and found["changes"] == [*changes, students]
    (plan,) = (tmp_path / "cells").glob("table2-sst2-naive-k-16-fine-tuned-*/run/finetune.json")
    assert json.loads(plan.read_text())["teacher"] is None
    (plan,) = (tmp_path / "cells").glob("table2-sst2-k-16-distilled-*/run/finetune.json")
    assert json.loads(plan.read_text())["teacher"].endswith("model")
    assert found["cells"]["sst2"]["teacher"]["commonest"] == 0.5
    assert "93.1" in capsys.readouterr().out  # published

    cells = sorted((tmp_path / "cells").glob("*/cell.json"))
    rewritten = pq.read_table(data / "sst2_dev.parquet").slice(0, 30)  # other rows are other cells
    pq.write_table(rewritten, data / "sst2_dev.parquet")
    assert run(tmp_path, *options) == 0
    assert len(list((tmp_path / "cells").glob("*/cell.json"))) == 2 * len(cells)
    assert results(tmp_path, "table2")["cells"]["sst2"]["teacher"]["correct"]["rows"] == 30


def test_table_2_of_an_encoder_that_we_have_no_class_for(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its own class, and nothing is written beside it."""
    encoder = tmp_path / "mine" / "mpnet"
    tokenizer = AutoTokenizer.from_pretrained(make_encoder(tmp_path / "tiny"))
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    MPNetModel(MPNetConfig(vocab_size=len(tokenizer), max_position_embeddings=130, **shape)).save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    task = SST2.replace("student_epochs: 0.5", "student_epochs: 0")
    options = ["table2", f"table2.tasks={task}", "table2.encoders={}", "table2.scratch=[]", "table2.more_students={}"]
    options += [f"table2.teacher={encoder}", "--data", str(data)]
    assert run(tmp_path / "out", *options, f"table2.students={{naive: {NAIVE}}}") == 1
    assert "argument of linearise in table2, student 'naive'" in capsys.readouterr().err
    assert run(tmp_path / "out", *options, f"table2.teacher={tmp_path / 'none'}") == 1
    assert f"table2.teacher: model={tmp_path / 'none'} is no folder" in capsys.readouterr().err
    students = "table2.students={'k = 16': {projected_dim: 16, exact_length: 16}}"
    assert run(tmp_path / "out", *options, students) == 0
    assert list(results(tmp_path / "out", "table2")["cells"]["sst2"]) == ["teacher", "k = 16, converted"]
    options[options.index("table2.scratch=[]")] = "table2.scratch=[sst2]"
    assert run(tmp_path / "out", *options, students.replace("16}", "16, local_window: 4}"), "table2.tasks=" + SST2) == 0
    made = ("converted", "from-scratch-start")
    found = [file for name in made for file in (tmp_path / "out" / "cells").glob(f"*-{name}-*/run/config.json")]
    assert len(found) == 3  # two conversions
    for file in found:
        config = json.loads(file.read_text())
        assert config["model_type"] == "mpnet" and config["linformers"]["projected_dim"] == 16
    assert [path.name for path in encoder.parent.iterdir()] == ["mpnet"]


def test_figure_1_on_texts_that_are_given(data: Path, tmp_path: Path) -> None:
    options = ["figure1", "figure1.texts=[gutenberg, imdb]", "figure1.count=5", "--data", str(data)]
    assert run(tmp_path, *options) == 0
    cells = results(tmp_path, "figure1")["cells"]
    assert {name: cell["texts"] for name, cell in cells.items()} == {"tiny, gutenberg": 5, "tiny, imdb": 5}
    lines = (tmp_path / "texts" / "gutenberg-5-64.jsonl").read_text().splitlines()
    passages = [json.loads(line)["text"] for line in lines]
    text = load_books(1)[0].text
    assert passages[0] == text[6000 : 6000 + 12 * 64] and passages[1].startswith(text[66_000:66_050])
    assert len(set(passages)) == 5


def test_pretraining_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same figures as in this process."""
    cells = "figure3.cells={softmax: [softmax, data.length=64], plain: [plain, data.length=64]}"
    few = [cells, "figure3.seeds=[]", "figure3.seeded=[]", "figure3.compare={softmax: softmax}"]
    commands = []
    real = subprocess.Popen

    def noted(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return real(command, **options)

    monkeypatch.setattr(figure3.subprocess, "Popen", noted)
    assert run(tmp_path / "apart", "figure3", *few, "figure3.launch=[linformers]", "figure3.jobs=2") == 0
    started = [command for command in commands if "pretrain" in command]
    assert len(started) == 2 and all(command[1:4] == ["-m", "linformers", "pretrain"] for command in started)
    assert run(tmp_path / "here", "figure3", *few) == 0
    apart, here = (results(tmp_path / name, "figure3")["cells"] for name in ("apart", "here"))
    assert {n: c["perplexity"] for n, c in apart.items()} == pytest.approx(
        {n: c["perplexity"] for n, c in here.items()}
    )


@pytest.mark.parametrize(("code", "ends"), [(130, 130), (143, 143), (1, 1)])
def test_a_process_that_stops(
    code: int, ends: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert signal.SIGINT + 128 == 130

    real = subprocess.Popen

    def stops(command: list[str], **options: Any) -> Any:
        return real(
            [sys.executable, "-c", f"import sys; print('it says why', file=sys.stderr); sys.exit({code})"], **options
        )

    monkeypatch.setattr(figure3.subprocess, "Popen", stops)
    try:
        found = run(tmp_path / "out", "figure3", "figure3.launch=[linformers]")
    except SystemExit as error:
        found = error.code
    assert found == ends and not (tmp_path / "out" / "figure3").exists()
    assert ("it says why" in capsys.readouterr().err) == (code == 1)


def test_sigterm_ends_the_processes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher or a scheduler sends it to the command alone."""
    real, started = subprocess.Popen, []

    def waits(command: list[str], **options: Any) -> Any:
        started.append(real([sys.executable, "-c", "import time; time.sleep(60)"], **options))
        if len(started) == 2:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return started[-1]

    monkeypatch.setattr(figure3.subprocess, "Popen", waits)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ends:
        run(tmp_path / "out", "figure3", "figure3.launch=[linformers]", "figure3.jobs=2")
    assert ends.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    assert [process.poll() for process in started] == [-signal.SIGTERM] * 2


@pytest.mark.parametrize("code", [1, 143])
def test_none_is_begun_after_one_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    real, started = subprocess.Popen, {}
    both = tmp_path / "both"  # have begun: the first fails only then, however slow the machine is
    waits = f"import os, sys, time\nwhile not os.path.exists({str(both)!r}): time.sleep(0.01)\nsys.exit({code})"
    codes = {True: waits, False: "import time; time.sleep(2)"}

    def fails(command: list[str], **options: Any) -> Any:
        first = "figure3-softmax" in command[-1]  # of the cells; either of the two threads may come before the other
        assert first not in started, "none is begun any more"
        started[first] = real([sys.executable, "-c", codes[first]], **options)
        if len(started) == 2:
            both.touch()
        return started[first]

    monkeypatch.setattr(figure3.subprocess, "Popen", fails)
    try:
        found = run(tmp_path / "out", "figure3", "figure3.launch=[linformers]", "figure3.jobs=2")
    except SystemExit as error:
        found = error.code
    assert found == code
    assert {first: process.poll() for first, process in started.items()} == {True: code, False: 0}, "both end"


def test_a_signal_while_a_process_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, started = subprocess.Popen, []

    def late(command: list[str], **options: Any) -> Any:
        if len(started) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        started.append(real([sys.executable, "-c", "import time; time.sleep(60)"], **options))
        return started[-1]

    monkeypatch.setattr(figure3.subprocess, "Popen", late)
    with pytest.raises(SystemExit) as ends:
        run(tmp_path / "late", "figure3", "figure3.launch=[linformers]", "figure3.jobs=2")
    assert ends.value.code == 143
    assert {process.poll() for process in started} == {-signal.SIGTERM}
