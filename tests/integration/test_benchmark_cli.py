"""``linformers benchmark`` from its options to its files; interrupted, gone on with, and refused."""

import csv
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from linformers.cli import main
from linformers.cli.benchmark import benchmark
from linformers.commands import benchmark as benchmark_run
from linformers.commands.benchmark import BenchmarkSettings, predicted_seconds
from linformers.measure.cell import Measurement, Workload
from linformers.measure.contenders import Shape
from linformers.measure.show import growth_exponent

TINY = ["--hidden-size", "32", "--layers", "1", "--heads", "2", "--vocab-size", "100", "--device", "cpu"]


def start(output: Path, *arguments: str) -> int:
    return main.run(["benchmark", *TINY, "--output", str(output), *arguments])


def cells_of(output: Path) -> dict[tuple[str, int], dict[str, Any]]:
    content = json.loads((output / "results.json").read_text())
    return {(cell["name"], cell["length"]): cell for cell in content["cells"]}


def pretend(monkeypatch: pytest.MonkeyPatch, seconds: Any = lambda task: 0.01, stop_at: int = 10**9) -> list[Workload]:
    """Let cells be measured without a process; gives the list of those that are."""
    tasks: list[Workload] = []

    def run_cell(task: Workload) -> Measurement:
        if len(tasks) == stop_at:
            raise KeyboardInterrupt
        tasks.append(task)
        time = seconds(task)
        times = {"seconds": time, "seconds_min": time, "seconds_max": time, "repeats": 1}
        sizes = {"peak_bytes": 1000 * task.length * task.batch_size, "weight_bytes": 10**6, "hidden_bytes": 1}
        return Measurement(name=task.name, length=task.length, batch_size=task.batch_size, **times, **sizes)

    monkeypatch.setattr(benchmark_run, "run_cell", run_cell)
    monkeypatch.setattr(benchmark_run, "largest_batch", lambda task, memory: run_cell(task))
    return tasks


def test_measures_and_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    options = ["--dims", "8,64", "--against", "roberta,softmax-eager", "--repeats", "2", "projection_kind=mean_pool"]
    assert start(output, "--lengths", "64", *options) == 0
    cells = cells_of(output)
    assert set(cells) == {("linformer k=8", 64), ("roberta", 64), ("softmax-eager", 64)}  # 64 slots compress nothing
    shown = capsys.readouterr().out
    assert "x roberta" in shown and "1/3" in shown and "results.csv" in shown and "Next:" in shown

    assert start(output, "--lengths", "128", *options) == 0  # adds to the table, and measures nothing twice
    more = cells_of(output)
    assert len(more) == 7 and all(more[key] == cell for key, cell in cells.items())
    assert start(output, "--lengths", "64,128", *options) == 0
    assert "7 of 7 cells" in capsys.readouterr().out and cells_of(output) == more

    lines = (output / "results.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert [(row["name"], int(row["length"])) for row in rows] == list(more)
    assert all(float(row["seconds"]) > 0 and not row["problem"] for row in rows)
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert "torch" in header and "cannot be interleaved" in header and "roberta: PyTorch's" in header
    with Image.open(output / "plot.png") as plot:
        assert plot.width > 1000


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--lengths", "64,128", "--dims", "8", "--against", "roberta"]
    pretend(monkeypatch, stop_at=3)
    assert start(tmp_path / "out", *options) == 130
    before = cells_of(tmp_path / "out")
    assert len(before) == 3
    tasks = pretend(monkeypatch)
    assert start(tmp_path / "out", *options) == 0
    assert [(task.name, task.length) for task in tasks] == [("roberta", 128)]
    assert {key: value for key, value in cells_of(tmp_path / "out").items() if key in before} == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--repeats", "3"], "options.repeats was 5 and is now 3"),
        (["--layers", "2"], "options.shape.num_hidden_layers was 1 and is now 2"),
        (["--training"], "options.training was False and is now True"),
        (["projection_kind=mean_pool"], "options.fields.projection_kind was '(not set)' and is now 'mean_pool'"),
    ],
)
def test_options_are_not_mixed(
    change: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = pretend(monkeypatch)
    assert start(tmp_path / "out", "--lengths", "64", "--dims", "8") == 0
    before, count = (tmp_path / "out" / "results.json").read_bytes(), len(tasks)
    assert start(tmp_path / "out", "--lengths", "128", "--dims", "8", *change) == 1
    error = capsys.readouterr().err
    assert said in error and "Name another folder" in error and "Traceback" not in error
    assert len(tasks) == count and (tmp_path / "out" / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("machine", "processor", "another"), ("versions", "torch", "1.0"), ("versions", "x", "1")],
)
def test_machines_and_versions_are_not_mixed(
    part: str,
    key: str,
    value: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretend(monkeypatch)
    options = ["--lengths", "64", "--dims", "8"]
    assert start(tmp_path / "out", *options) == 0
    path = tmp_path / "out" / "results.json"
    content = json.loads(path.read_text())
    content["identity"][part][key] = value
    path.write_text(json.dumps(content))
    assert start(tmp_path / "out", *options) == 1
    assert f"{part}.{key} was {value!r} and is now" in capsys.readouterr().err


def test_cells_that_would_take_too_long_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quadratic time: 1, 4 and 16 seconds; the limit is raised afterwards, and only then the last is measured."""
    tasks = pretend(monkeypatch, seconds=lambda task: (task.length / 64) ** 2)
    options = ["--lengths", "64,128,256", "--dims", "8", "--against", ""]
    assert start(tmp_path / "out", *options, "--pass-limit", "10") == 0
    assert [task.length for task in tasks] == [64, 128]
    cell = cells_of(tmp_path / "out")["linformer k=8", 256]
    assert cell["problem"] == "left out: a pass would take about 16 s (pass_limit 10 s)" and cell["seconds"] is None
    assert "left out" in capsys.readouterr().out
    assert start(tmp_path / "out", *options, "--pass-limit", "20") == 0
    assert [task.length for task in tasks] == [64, 128, 256]
    assert not cells_of(tmp_path / "out")["linformer k=8", 256]["problem"]


def test_what_does_not_fit_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--lengths", "1000000", "--dims", "1000000", "--against", "softmax-eager", "--heads", "32"]
    assert start(tmp_path / "out", *options) == 0
    assert "does not fit: takes 384000.0 GB for its attention weights alone" in capsys.readouterr().out


def test_a_rival_that_fails_is_a_row_and_ours_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(task: Workload) -> Measurement:
        raise RuntimeError("expected scalar type BFloat16 but found Float\nmore")

    options = ["--lengths", "64", "--against", "nystromformer", "--dims"]
    tasks = pretend(monkeypatch)
    answers = benchmark_run.run_cell
    monkeypatch.setattr(benchmark_run, "run_cell", lambda t: (answers if t.model_type == "linformer" else fails)(t))
    assert start(tmp_path / "out", *options, "8") == 0 and len(tasks) == 1
    row = cells_of(tmp_path / "out")["nystromformer", 64]
    assert row["problem"] == "fails: expected scalar type BFloat16 but found Float"
    monkeypatch.setattr(benchmark_run, "run_cell", fails)
    assert start(tmp_path / "out", *options, "16") == 1
    assert "linformer k=16 fails at 64 tokens" in capsys.readouterr().err


def test_the_largest_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, memory = tmp_path / "out", 10 * 10**6
    options = ["--lengths", "2048", "--dims", "8", "--against", "", "--repeats", "1", "--memory", "10MB"]
    assert start(output, *options) == 0
    cell = cells_of(output)["linformer k=8", 2048]
    assert cell["batch_size"] > 1 and cell["weight_bytes"] + cell["peak_bytes"] <= memory
    assert "largest whose weights and peak fit into 10 MB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lengths", "64,x"], "--lengths='64,x' is no list of whole numbers above 0"),
        (["--against", "robert"], "Did you mean 'roberta'?"),
        (["--memory", "8GB", "--batch-size", "2"], "contradict each other"),
        (["--heads", "3"], "num_attention_heads=3 does not divide --hidden-size 32"),
        (["--model", "somewhere"], "--heads has no effect with --model"),
        (["--repeats", "0"], "repeats must be at least 1, got 0"),
        (["--against", "roberta,roberta"], "roberta is named twice"),
        (["nonsense"], "is no section.key=value"),
    ],
)
def test_bad_options(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(tmp_path / "out", *arguments) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert start(tmp_path, "--lengths", "64") == 1
    assert "holds other files (notes.txt)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_defaults_are_those_of_the_settings() -> None:
    options = {name: one.default for name, one in inspect.signature(benchmark).parameters.items()}
    for kind, names in (
        (BenchmarkSettings, {}),
        (Shape, {"num_hidden_layers": "layers", "num_attention_heads": "heads"}),
    ):
        for name, field in kind.model_fields.items():
            if name != "device":  # the best there is
                assert options[names.get(name, name)] == field.default, name


def test_growth() -> None:
    rows = [{"length": n, "batch_size": 1, "seconds": 3.0 * n**1.5} for n in (64, 128, 256, 512)]
    assert growth_exponent(rows) == pytest.approx(1.5)
    assert predicted_seconds(rows, 1024) == pytest.approx(3.0 * 1024**1.5)
    assert predicted_seconds(rows, 64) is None
