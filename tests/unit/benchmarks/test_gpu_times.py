"""The script of `make gpu` measures every cell; here on a CPU, as the card is what it is for."""

import csv
import sys
from pathlib import Path

import gpu_times
import pytest
import torch


def test_every_cell_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_times, "SECONDS", 0.0)
    options = ["--device", "cpu", "--lengths", "80", "40", "--hidden-size", "16", "--heads", "2", "--layers", "1"]
    monkeypatch.setattr(sys, "argv", ["gpu_times.py", *options, "--output", str(tmp_path)])
    gpu_times.main()
    (path,) = tmp_path.iterdir()
    rows = list(csv.DictReader(line for line in path.read_text().splitlines() if not line.startswith("#")))
    sizes = gpu_times.Sizes(16, 2, 1)
    assert len(rows) == 2 * (len(gpu_times.layers(sizes, 40)) + 2 * len(gpu_times.encoders(sizes, 40)))
    assert [int(row["length"]) for row in rows] == sorted(int(row["length"]) for row in rows)
    for row in rows:
        no_kernel = row["name"] == "softmax, fused"  # the memory-efficient kernel is one of GPUs
        assert bool(row["problem"]) == no_kernel and (no_kernel or float(row["ms"]) > 0)


def test_what_is_left_when_time_is_over_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    rows = gpu_times.measure(gpu_times.Sizes(16, 2, 1), [40], "cpu", 0.0, Console(quiet=True))
    assert {row["problem"] for row in rows} == {"not measured: time was over"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_card_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_times.py"])
    with pytest.raises(SystemExit):
        gpu_times.main()
    assert "there is no CUDA device" in capsys.readouterr().err
