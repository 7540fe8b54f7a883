"""``linformers reproduce all --scale smoke`` as a user runs it: killed, gone on with, run again; and its reports."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from html_helpers import check_whole
from PIL import Image

from linformers.cli import main

TARGETS = ("figure1", "figure2", "table3", "figure3", "table2")
COMMAND = ["reproduce", "all", "--scale", "smoke", "--device", "cpu"]


def start(cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "linformers", *COMMAND],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """The folder, the cells there were when a first run was killed amid Figure 3, and what the next one says."""
    home = tmp_path_factory.mktemp("reproduce")
    process = start(home)
    assert process.stdout is not None
    before = ""
    for line in process.stdout:
        before += line
        if line.startswith("plain: perplexity"):
            process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait(60) == -signal.SIGKILL, before[-3000:]
    cells = sorted(path.parent.name for path in (home / "runs" / "reproduce" / "smoke" / "cells").glob("*/cell.json"))
    process = start(home)
    out = process.communicate(timeout=500)[0]
    assert process.returncode == 0, out[-3000:]
    assert "Traceback" not in out and "Warning" not in out
    return home / "runs" / "reproduce" / "smoke", cells, out


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_killed_run_goes_on(finished: tuple[Path, list[str], str]) -> None:
    folder, cells, out = finished
    assert sum(name.startswith("figure3-") for name in cells) >= 3
    assert "12 of 12 cells are in" in out  # of the timings
    kept = int(out.split(" of 9 cells are trained already")[0].rsplit(maxsplit=1)[-1])
    assert 3 <= kept < 9
    after = {path.parent.name for path in (folder / "cells").glob("*/cell.json")}
    assert set(cells) < after and not list(folder.glob(".*")) and not list(folder.glob("*/.*"))


def test_it_says_what_it_found_and_where(finished: tuple[Path, list[str], str]) -> None:
    _, _, out = finished
    for text in ("Did the claims hold here?", "published", "excerpts of the shipped books stand for the corpora"):
        assert text in out, text
    assert f"Report: {Path('runs/reproduce/smoke/index.html')}" in out
    assert "Next: linformers reproduce all --scale laptop" in out


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_writes_results_data_plots_and_a_report(
    target: str, finished: tuple[Path, list[str], str]
) -> None:
    folder = finished[0] / target
    results = load(folder / "results.json")
    assert results["kind"] == "linformers reproduce" and results["target"] == target
    assert results["seconds"] > 0 and results["environment"]["versions"]["torch"] and "smoke" in results["command"]
    assert results["notes"][0].startswith("smoke: excerpts")
    plots = sorted(path.stem for path in folder.glob("*.png"))
    assert plots and plots == sorted(path.stem for path in folder.glob("*.csv"))
    for name in plots:
        with Image.open(folder / f"{name}.png") as image:
            assert image.width > 500
        with (folder / f"{name}.csv").open(encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        assert rows and all(len(row) == len(head) for row in rows)
    assert all(one["verdict"] == "not decidable" for one in results["evidence"])
    html = (folder / "report.html").read_text(encoding="utf-8")
    check_whole(html)
    assert html.count("data:text/csv") == len(plots)
    assert str(Path.home()) not in html and str(folder) not in html


def test_figures_are_those_of_the_runs(finished: tuple[Path, list[str], str]) -> None:
    folder = finished[0]
    found = load(folder / "figure3" / "results.json")["cells"]
    (run,) = (folder / "cells").glob("figure3-sharing-layerwise-*/run/results.json")
    assert found["sharing-layerwise"]["perplexity"] == load(run)["evaluations"][-1][1]["perplexity"]
    assert found["plain"]["step_seconds"] == found["plain-seed1"]["step_seconds"]
    assert found["plain"]["perplexity"] != found["plain-seed1"]["perplexity"]
    cells = load(folder / "table2" / "results.json")["cells"]["books"]
    (run,) = (folder / "cells").glob("table2-books-k-16-distilled-*/run/results.json")
    assert cells["k = 16, distilled"]["metrics"] == load(run)["metrics"]
    rows = cells["teacher"]["correct"]
    right = bin(int(rows["hex"], 16)).count("1") / rows["rows"]
    assert right == pytest.approx(cells["teacher"]["metrics"]["accuracy"]["value"])
    saved = load(folder / "table3" / "results.json")
    one = {(cell["name"], cell["length"]): cell for cell in saved["cells"]}
    row = saved["saved"][0]
    ratio = one["softmax-sdpa", row["n"]]["seconds"] / one[f"linformer k={row['k']}", row["n"]]["seconds"]
    assert row["time_saved_sdpa"] == pytest.approx(ratio)


def test_the_index_leads_to_all_reports(finished: tuple[Path, list[str], str]) -> None:
    folder = finished[0]
    checker = check_whole((folder / "index.html").read_text(encoding="utf-8"))
    assert checker.addresses == [f"{target}/report.html" for target in TARGETS]
    assert all((folder / address).is_file() for address in checker.addresses)


def test_again_it_measures_nothing(
    finished: tuple[Path, list[str], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On as many threads: their number is part of what a cell is."""
    import torch

    folder = finished[0]
    before = {path: path.stat().st_mtime_ns for path in (folder / "cells").glob("*/cell.json")}
    monkeypatch.chdir(folder.parents[2])
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    torch.set_num_threads(1)
    old = load(folder / "table2" / "results.json")
    assert main.run(COMMAND) == 0
    assert "9 of 9 cells are trained already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (folder / "cells").glob("*/cell.json")} == before
    assert load(folder / "table2" / "results.json")["cells"] == old["cells"]


def test_every_run_below_has_a_report(
    finished: tuple[Path, list[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Real results of pretraining, fine-tuning, a spectrum, benchmarks and reproductions."""
    folder = finished[0]
    runs = [path.parent for path in (folder / "cells").glob("*/run/results.json")]
    assert len(runs) > 15
    chosen = {run.parent.name.split("-")[0]: run for run in runs}
    assert set(chosen) == {"figure1", "figure3", "table2", "time"}
    for run in (*chosen.values(), folder, folder / "figure2"):
        assert main.run(["report", str(run)]) == 0, capsys.readouterr().err
        check_whole((run / "report.html").read_text(encoding="utf-8"))
