"""Every scale loads, and the paper's is a whole configuration; what is missing is named before anything is run."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from linformers.cli import main
from linformers.reproduce import figure3, published, table2, table3
from linformers.reproduce.cells import Context
from linformers.reproduce.run import check
from linformers.reproduce.scales import SCALES, Scale, load_scale
from linformers.reproduce.timing import make_plan


def context(folder: Path, scale: str, data: Path | None = None) -> Context:
    return Context(scale=scale, folder=folder, data=data, device="cpu", console=Console(quiet=True))


@pytest.fixture(scope="module")
def scales() -> dict[str, Scale]:
    return {name: load_scale(name) for name in SCALES}


def test_scales_load(scales: dict[str, Scale]) -> None:
    assert not scales["smoke"].decides and scales["laptop"].decides
    assert [scale.needs_gpu for scale in scales.values()] == [False, False, True]
    for scale in scales.values():
        names = set(figure3.grid(scale.figure3))
        told = scale.figure3.compare
        compared = {told[key] for key in ("softmax", "quarter", "unshared", "layerwise")}
        assert compared | set(told["dims"].values()) | set(told["lengths"].values()) <= names


def test_laptop_is_what_was_measured_before(scales: dict[str, Scale]) -> None:
    """The names of the committed results."""
    import json

    results = Path(__file__).parents[3] / "results"
    cells = json.loads((results / "figure3-laptop.json").read_text())["cells"]
    grid = figure3.grid(scales["laptop"].figure3)
    measured = {name: [base, *changes] for name, (base, changes) in ((n, c["recipe"]) for n, c in cells.items())}
    later = json.loads((results / "figure3-content-slots.json").read_text())["cells"]
    for name, cell in later.items():
        recipe, *changes = cell["recipe"].split()
        measured.setdefault(name, [Path(recipe).stem, *changes])
    assert grid == {name: measured[name] for name in grid}
    size = scales["laptop"].table2
    before = json.loads((results / "table2-second-core.json").read_text())["cells"]
    assert list(size.tasks) == list(before)
    for task, found in before.items():
        assert set(size.students_of(task)) <= {name.rpartition(", ")[0] for name in found}
    figure2, table = (make_plan(one, "cpu") for one in (scales["laptop"].figure2, scales["laptop"].table3))
    assert (figure2.settings, figure2.options) == (table.settings, table.options)  # so that cells are shared
    assert set(published.TIME) == set(scales["laptop"].table3.lengths)


def test_the_papers_scale_is_a_whole_configuration(scales: dict[str, Scale], tmp_path: Path) -> None:
    data, scale = tmp_path / "data", scales["paper"]
    files = ["bookcorpus/a.txt.gz", "wikipedia/a.jsonl.gz", "wikitext103_train.parquet"]
    files += [f"{task}_{part}.parquet" for task in ("sst2", "qnli", "qqp") for part in ("train", "dev")]
    for name in (*files, "imdb_train.parquet", "imdb_test.parquet"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).touch()
    check(["figure1", "figure2", "table3", "figure3", "table2"], scale, context(tmp_path, "paper", data))
    recipes = {
        name: figure3.recipe_of(name, scale.figure3, context(tmp_path, "paper", data)) for name in ("k128", "n4096")
    }
    assert recipes["k128"].model["projected_dim"] == 128 and recipes["k128"].training.steps == 250_000
    assert recipes["n4096"].data.length == 4096 and recipes["n4096"].data.train[0] == str(data / "bookcorpus/*.txt.gz")
    assert list(scale.table2.encoders) == list(published.ACCURACY) and tuple(scale.table2.tasks) == published.TASKS


def test_everything_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, data = tmp_path / "out", tmp_path / "data"
    options = ["reproduce", "all", "--scale", "laptop", "--output", str(output)]
    assert main.run(options) == 1
    error = capsys.readouterr().err
    assert "sst2" in error and "qqp" in error and "needs --data" in error
    data.mkdir()
    (data / "imdb_train.parquet").touch()
    assert main.run([*options, "--data", str(data)]) == 1
    error = capsys.readouterr().err
    for name in ("gutenberg_train.parquet", "sst2_train.parquet", "imdb_test.parquet", "qnli_dev.parquet"):
        assert name in error, name
    assert "imdb_train.parquet" not in error and not output.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table4"], "target='table4' is unknown"),
        (["table3", "--scale", "huge"], "--scale 'huge' is unknown"),
        (["table3", "tabel3.dims=[8]"], "Did you mean 'table3'?"),
        (["table3", "table3.dims=8"], "table3.dims must be a list"),
        (
            ["table3", "table3.shape={heads: 2}"],
            "shape.heads is no key of a recipe",
        ),
        (["table3", "table3.memory=much"], "table3.memory='much' is no amount of memory"),
        (["figure1", "figure1.texts=[films]", "--data", "."], "figure1.texts='films' is unknown"),
        (["figure3", "figure3.seeded=[nothing]"], "which is none of the cells"),
        (["figure3", "figure3.changes=['data.stages=[]', training.stesp=1]"], "training.stesp is no key of a recipe"),
        (["table2", "table2.tasks={films: {}}"], "table2.tasks.films is no task"),
        (["table2", "table2.tasks.books.epoch=1"], "table2.tasks.books.epoch is no key"),
        (["table2", "table2.students={a: {projected_dims: 8}}"], "Did you mean 'projected_dim'?"),
        (["table2", "table2.encoders={a: b}"], "table2.encoders names 'b', which is no cell of figure3"),
        (["table3", "--output", "notes.txt"], "is a file; name a folder"),
        (["table3", "--output", "notes.txt/below"], "is a file; name a folder"),
        (["table3", "--output", "."], "holds other files (notes.txt)"),
        (["table3", "--device", "tpu"], "--device 'tpu' is unknown"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert main.run(["reproduce", *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error and "should not happen" not in error
    assert not (tmp_path / "runs").exists() and (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would begin")
def test_the_papers_scale_needs_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["reproduce", "figure3", "--scale", "paper", "--output", str(tmp_path / "out")]) == 1
    assert "needs GPUs" in capsys.readouterr().err.replace("need GPUs", "needs GPUs")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("teacher", "RoBERTa-base"),
        ("k = 128, distilled", "k = 128"),
        ("slots only, k = 128, converted", "k = 128"),
        ("naive, k = 128, fine-tuned", "k = 128"),
        ("linear, none, k = 128, distilled", "k = 128"),
        ("linear, key_value, k = 128, distilled", "k = 128, shared kv"),
        ("linear, layerwise, k = 128, distilled", "k = 128, shared kv, shared layer"),
        ("n = 1024, k = 256, shared kv", "n = 1024, k = 256, shared kv"),
    ],
)
def test_rows_of_the_papers_table(name: str, row: str) -> None:
    assert table2.published_name(name) == row and published.accuracy(row, "imdb") is not None


def test_published_figures() -> None:
    assert published.accuracy("k = 256, shared kv, shared layer", "qnli") == pytest.approx(0.912)
    assert published.accuracy("k = 64", "qnli") is None and published.accuracy("k = 128", "books") is None
    assert published.saved(published.TIME, 65536, 2048) == 7.9 and published.saved(published.TIME, 512, 512) is None
    assert published.saved(published.MEMORY, 4096, 128) == 14


def test_largest_batches() -> None:
    single = {"batch_size": 1, "weight_bytes": 100, "peak_bytes": 50, "problem": ""}
    assert table3.largest(single, None, 1000) == 18  # 100 + 50 each
    several = {**single, "batch_size": 4, "peak_bytes": 80}  # 20 each
    assert table3.largest(single, several, 1000) == 45
    assert table3.largest(single, {**several, "problem": "does not fit"}, 1000) == 18
    assert table3.largest({**single, "peak_bytes": None}, None, 1000) == 0
