"""The commands `spectrum` and `advise`: what they write, kills, what they refuse, and that advice can be followed."""

import csv
import json
import multiprocessing
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finetune_helpers import PLAIN, make_model
from transformers import AutoModel, ModernBertConfig, ModernBertModel

import linformers
from linformers import LinformerModel, spectrum, to_linformer
from linformers.cli.main import run

LENGTH = 32
SPECIAL: dict[str, Any] = {
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "cls_token_id": 0,
    "sep_token_id": 2,
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny-bert", "bert")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    rng = np.random.default_rng(0)
    rows = [" ".join(rng.choice(PLAIN, 60)) for _ in range(5)]
    rows.insert(2, "too short")
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


def command(model: Path, texts: Path, output: Path, *more: str) -> list[str]:
    options = ["--model", str(model), "--texts", str(texts), "--output", str(output), "--length", str(LENGTH)]
    return ["spectrum", *options, "--index", "8", *more]


def rows_of(path: Path) -> list[list[str]]:
    with path.open() as file:
        return list(csv.reader(file))


def test_spectrum_writes_what_the_function_finds(encoder: Path, texts: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    assert run(command(encoder, texts, output)) == 0
    shown = capsys.readouterr().out
    assert "higher layers have lower rank: " in shown and "6 texts read, 1 shorter than 32 tokens" in shown
    assert f"results in {output}" in shown and f"next: linformers advise --model {encoder}" in shown
    written = sorted(path.name for path in output.iterdir())
    assert written == [
        "curves.csv",
        "curves.png",
        "heads.csv",
        "heads.png",
        "results.json",
        "run.json",
        "spectrum.json",
    ]
    results = json.loads((output / "results.json").read_text())
    rows = [json.loads(line)["text"] for line in texts.read_text().splitlines()]
    found = spectrum(encoder, rows, length=LENGTH, index=8)
    assert results["spectrum"] == json.loads(json.dumps(found.to_dict()))
    assert results["texts_too_short"] == 1 and results["projections"] == []
    header, *curves = rows_of(output / "curves.csv")
    assert header == ["singular_values", "layer_0", "layer_1"] and len(curves) == LENGTH
    assert float(curves[7][2]) == pytest.approx(found.curves[1, :, 7].mean(), abs=1e-6)
    header, *heads = rows_of(output / "heads.csv")
    assert len(heads) == 4 and float(heads[3][2]) == pytest.approx(found.shares[:, 1, 1].mean(), abs=1e-6)
    assert str(tmp_path) not in (output / "results.json").read_text()

    assert run(command(encoder, texts, output)) == 0  # finished: says so, and does nothing
    assert "is finished" in capsys.readouterr().out


def test_spectrum_of_a_linformer_shows_its_projections(texts: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "linformer")
    assert run(command(model, texts, tmp_path / "out", "--max-texts", "2")) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [one["name"] for one in results["projections"]] == ["layer_0", "layer_1"]
    assert results["projections"][0]["slots"] == 8
    assert (tmp_path / "out" / "projections.png").stat().st_size > 1000


def killed(arguments: list[str], saves: int) -> None:
    """Saves after each text, and dies while it writes the state for the n-th time."""
    from linformers.commands import spectrum as spectrum_run
    from linformers.files import folders

    flush, left = folders.flush, [saves]

    def dying(path: Path) -> None:
        left[0] -= path.name.endswith(spectrum_run.STATE)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(path)

    folders.flush, spectrum_run.SAVE_EVERY = dying, 0.0  # type: ignore[assignment]
    run(arguments)


def test_a_killed_run_goes_on_to_the_same_figures(encoder: Path, texts: Path, tmp_path: Path, capsys) -> None:
    whole, output = tmp_path / "whole", tmp_path / "killed"
    assert run(command(encoder, texts, whole)) == 0
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["linformers.commands.spectrum"])
    for saves in (3, 2):  # with two texts on disk, and with three
        process = context.Process(target=killed, args=(command(encoder, texts, output), saves))
        process.start()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL and (output / "state.safetensors").is_file()
    capsys.readouterr()
    assert run(command(encoder, texts, output, "--max-texts", "4")) == 1
    assert "--max-texts was 200 and is now 4" in capsys.readouterr().err
    assert run(command(encoder, texts, output)) == 0
    assert "Going on after 3 of 5 texts" in capsys.readouterr().out
    for name in ("curves.csv", "heads.csv"):
        assert (output / name).read_bytes() == (whole / name).read_bytes()
    figures = [json.loads((folder / "results.json").read_text())["spectrum"] for folder in (whole, output)]
    assert figures[0] == figures[1]
    assert {path.name for path in output.iterdir()} == {path.name for path in whole.iterdir()}


def test_changed_text_or_damaged_state_is_noticed(encoder: Path, texts: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    context: Any = multiprocessing.get_context("forkserver")
    process = context.Process(target=killed, args=(command(encoder, texts, output), 2))
    process.start()
    process.join(300)
    (output / "state.safetensors").write_bytes((output / "state.safetensors").read_bytes()[:-40])
    before = texts.read_text()
    texts.write_text(before.replace("film", "book"))
    assert run(command(encoder, texts, output)) == 1
    assert "have changed since it began" in capsys.readouterr().err
    texts.write_text(before)
    assert run(command(encoder, texts, output)) == 0
    assert "is damaged" in capsys.readouterr().out and (output / "results.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nothing/there"], "nothing/there"),
        (["--texts", "nothing.jsonl"], "nothing.jsonl"),
        (["--texts", "short.jsonl"], "--texts short.jsonl: none of 1 has 32 tokens"),
        (["--length", "65"], "--length 65 exceeds the 64 tokens"),
        (["--index", "33"], "--index 33 exceeds --length 32"),
        (["--max-texts", "0"], "--max-texts must be at least 1"),
        (["--output", "short.jsonl"], "is a file"),
        (["--output", "."], "holds other files"),
    ],
)
def test_spectrum_refuses_and_leaves_nothing(
    arguments: list[str], said: str, encoder: Path, texts: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    (tmp_path / "short.jsonl").write_text('{"text": "a b c"}\n')
    monkeypatch.chdir(tmp_path)
    option, value = arguments
    given = Path(value) if option == "--texts" else texts  # which could be repeated
    assert run([*command(encoder, given, Path("out")), *(arguments if given == texts else [])]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error
    assert sorted(os.listdir()) == ["short.jsonl", "texts.jsonl"]


def test_advise(encoder: Path, texts: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "advice"
    options = ["advise", *command(encoder, texts, output)[1:-2], "--local-window", "2"]
    assert run([*options, "--mean-dim", "4", "--no-timing"]) == 0
    shown = capsys.readouterr().out
    assert sorted(path.name for path in output.iterdir()) == [
        "advice.json",
        "errors.png",
        "linearise.json",
        "manifest.json",
    ]
    advice = json.loads((output / "advice.json").read_text())
    dims = advice["projected_dim"]
    assert sum(dims) <= 8 and advice["hidden_error"] <= advice["uniform_error"] and advice["costs"] == []
    assert f"--projected-dim {dims[0]},{dims[1]} --local-window 2 --global-tokens 1" in shown
    model = to_linformer(encoder, **json.loads((output / "linearise.json").read_text()))
    assert isinstance(model, LinformerModel) and [k for _, k in model.config.layer_attention] == dims

    assert run([*options, "--target-mass", "0.999999", "--no-timing"]) == 0  # an earlier advice is replaced
    advice = json.loads((output / "advice.json").read_text())
    assert advice["target"] == {"mass": 0.999999}
    if advice["projected_dim"] == [None, None]:
        assert "nothing to convert" in capsys.readouterr().out


def test_advice_on_another_family_can_be_followed(encoder: Path, texts: Path, tmp_path: Path, capsys) -> None:
    """ModernBERT, of which there is no class of ours: its sliding layers stay, and the suggested line converts it."""
    shape: dict[str, Any] = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = ModernBertConfig(**shape, **SPECIAL, intermediate_size=48, global_attn_every_n_layers=2, local_attention=8)
    model, output = tmp_path / "modernbert", tmp_path / "advice"
    ModernBertModel(config).save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_bytes((encoder / name).read_bytes())
    options = command(model, texts, output)[1:-2]
    assert run(["advise", *options, "--mean-dim", "4", "--max-texts", "1"]) == 0
    shown, advice = capsys.readouterr().out, json.loads((output / "advice.json").read_text())
    assert advice["layers"] == [0, 2] and advice["projected_dim"][1] is None and "as it is, a window" in shown
    assert {cost["attention"] for cost in advice["costs"]} == {"advised", "softmax"}
    line = shlex.split(shown.rpartition("next: ")[2])
    assert line[:2] == ["linformers", "convert"] and run(line[1:]) == 0
    found = linformers.configure(AutoModel.from_pretrained(f"{output}-converted"))
    assert type(found) is ModernBertModel and found.config.linformers["projected_dim"] == advice["projected_dim"]
    assert run(["report", str(output)]) == 0


def test_advise_measures_this_machine(encoder: Path, texts: Path, tmp_path: Path, capsys) -> None:
    options = ["advise", *command(encoder, texts, tmp_path / "advice")[1:-2], "--max-texts", "1"]
    assert run([*options, "--target-error", "0.9"]) == 0
    costs = json.loads((tmp_path / "advice" / "advice.json").read_text())["costs"]
    assert {(cost["attention"], cost["length"]) for cost in costs} >= {("advised", 32), ("softmax", 32)}
    assert "A text on this machine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give exactly one of --target-mass, --target-error, --mean-dim"),
        (["--mean-dim", "4", "--target-mass", "0.5"], "give exactly one"),
        (["--mean-dim", "17"], "must be between 1 and 16"),
        (["--mean-dim", "4", "--output", "."], "holds other files"),
        (["--mean-dim", "4", "--model", "nothing/there"], "nothing/there"),
    ],
)
def test_advise_refuses_and_leaves_nothing(
    arguments: list[str], said: str, encoder: Path, texts: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["advise", *command(encoder, texts, Path("out"))[1:-2], *arguments]) == 1
    assert said in capsys.readouterr().err
    assert os.listdir() == ["texts.jsonl"]
