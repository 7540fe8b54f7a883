"""The report of every kind of run: well formed, alone, escaped, with its figures; and what it refuses."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from html_helpers import check_whole
from PIL import Image

from linformers.cli import main
from linformers.commands.report import make_report, write_report
from linformers.report.document import Chart, Report, Section, Table
from linformers.report.plots import plain, plot_lines, plot_passages

EVIL = "<script>alert('x')</script>&\" $x$ $"
MACHINE = {
    "processor": "A processor",
    "cores": 2,
    "threads": 2,
    "memory_gb": 8.0,
    "device": "cpu",
    "load_average": 0.1,
    "system": "Linux",
    "python": "3.12",
    "versions": {"torch": "2.13"},
}
METRIC = {"value": 0.81, "low": 0.7, "high": 0.9}
CELL = {"seconds": 0.5, "seconds_min": 0.4, "seconds_max": 0.6, "repeats": 3, "batch_size": 1, "problem": ""}
TRAINED = {"format": 1, "steps": 20, "seconds": 4.0, "tokens": 640, "environment": MACHINE}
RUNS: dict[str, dict[str, Any]] = {
    "pretrain": {
        **TRAINED,
        "kind": "linformers pretrain",
        "parameters": 1234,
        "best": {"step": 20, "loss": 2.0, "perplexity": 7.39},
        "evaluations": [
            [10, {"loss": 3.0, "perplexity": 20.1}],
            [15, {"loss": 2.5, "perplexity": 12.2}],
            [20, {"loss": 2.0, "perplexity": 7.39}],
        ],
        "losses": [[5, 3.5], [15, 2.5]],
        "data": {"train": "a book", "train_tokens": 9000, "fingerprint": "abc"},
    },
    "finetune": {
        **TRAINED,
        "kind": "linformers finetune",
        "parameters": 1234,
        "task": {"name": "films", "kind": "single_label", "classes": ["bad", "good"]},
        "reported_on": "test",
        "metrics": {"accuracy": METRIC, "f1": METRIC},
        "evaluations": [
            [10, {"loss": 0.7, "accuracy": 0.5}],
            [20, {"loss": 0.5, "accuracy": 0.8}],
            [30, {"loss": 0.6, "accuracy": 0.7}],
        ],
        "losses": [[5, 0.7], [15, 0.6]],
        "parts": {"test": {"source": "films.csv", "rows": 40, "cut": 1, "tokens": 900}},
    },
    "distil": {
        **TRAINED,
        "kind": "linformers distil",
        "evaluations": [
            [0, {"loss": 0.4, "cosine": 0.9123}],
            [10, {"loss": 0.2, "cosine": 0.9456}],
            [20, {"loss": 0.1, "cosine": 0.9876}],
        ],
    },
    "adapt": {
        **TRAINED,
        "kind": "linformers adapt",
        "alone": {"loss": 0.4, "segments": 0.51, "passages": 0.6234},
        "before": {"loss": 0.4, "segments": 0.5, "passages": 0.6},
        "best": {"step": 20, "loss": 0.1, "segments": 0.7, "passages": 0.8125},
        "evaluations": [
            [0, {"loss": 0.4, "segments": 0.5, "passages": 0.6}],
            [10, {"loss": 0.2, "segments": 0.6, "passages": 0.7}],
            [20, {"loss": 0.1, "segments": 0.7, "passages": 0.8125}],
        ],
    },
    "benchmark": {
        "kind": "linformers benchmark",
        "format": 1,
        "command": "linformers benchmark",
        "written": "2026-01-01",
        "notes": ["forward pass", "medians"],
        "identity": {"machine": MACHINE, "versions": {"torch": "2.13"}, "options": {"repeats": 3}},
        "cells": [
            {**CELL, "name": "linformer k=8", "length": 64, "peak_bytes": 2**21},
            {**CELL, "name": "linformer k=8", "length": 128, "peak_bytes": 2**22, "seconds": 1.25},
            {**CELL, "name": "softmax", "length": 64, "peak_bytes": None, "seconds": None, "problem": "does not fit"},
        ],
    },
    "spectrum": {
        "options": {"model": "tiny", "length": 4},
        "environment": MACHINE,
        "spectrum": {
            "length": 4,
            "texts": 3,
            "index": 2,
            "layers": [0, 1],
            "share": [[0.5, 0.6], [0.7, 0.8]],
            "effective_rank": [[3.0, 3.1], [2.0, 2.1]],
            "higher_layers_have_lower_rank": {"correlation": -0.87, "low": -0.9, "high": -0.8, "p_value": 0.01},
        },
    },
    "advise": {
        "model": "tiny",
        "texts": ["a.txt"],
        "target": {"mean_dim": 4},
        "length": 32,
        "projected_dim": [2, None],
        "grid": [2, 4],
        "errors_are": "relative error",
        "errors": [[0.5, 0.3], [0.9, 0.8]],
        "hidden_error": 0.25,
        "uniform_error": 0.3125,
        "costs": [{"attention": "advised", "length": 32, "seconds": 0.1, "peak_bytes": None}],
        "environment": MACHINE,
    },
}
RUNS |= {
    "convert": {
        "converted_from": "a/minilm",
        "architecture": "BertModel",
        "settings": {"projected_dim": [64, None], "local_window": 0, "causal": False},
        "notes": ["a note"],
        "exact_up_to": 1024,
        "max_length": 4096,
        "command": "linformers convert",
        "seconds": 1.5,
        "environment": MACHINE,
    },
    "export": {
        "model": "minilm",
        "architecture": "BertModel",
        "format": "onnx-int8",
        "max_length": 4096,
        "bytes": 12_300_000,
        "checks": [{"batch": 2, "length": 63, "padding": "left", "difference": 1e-6, "texts": 1}],
        "int8": {
            "error": {"texts": 64, "cosine": 0.9991, "mean_change": None},
            "accuracy": {"metric": "accuracy", "rows": 872, "torch": 0.9, "onnx": 0.8967},
        },
        "command": "linformers export",
        "environment": MACHINE,
        "onnx_versions": {"onnx": "1.2"},
    },
    "calibrate": {
        "kind": "linformers calibrate",
        "command": "linformers calibrate",
        "model": {"name": "films", "sha256": "abc"},
        "documents": {"file": "held.csv", "rows": 30, "positives": 12, "rejected": 1},
        "target": "spam",
        "asked": {"recall": 0.9},
        "threshold": 0.4321,
        "flagged": 14,
        "precision": METRIC,
        "recall": METRIC,
        "auroc": 0.95,
        "brier": 0.1,
        "calibration_error": 0.05,
        "bins": [{"documents": 10, "predicted": 0.1 + i / 3, "found": i / 3} for i in range(3)],
        "thresholds": [[0.1, 0.4, 1.0], [0.5, 0.7, 0.8], [0.9, 1.0, 0.2]],
        "environment": MACHINE,
    },
    "score": {
        "kind": "linformers score",
        "command": "linformers score",
        "model": {"name": "films", "labels": ["ham", "spam"], "vectors": {"dim": 3}},
        "options": {"long": "truncate", "pool": "mean"},
        "files": 3,
        "counts": {"rows": 1203, "scored": 1200, "rejected": 3, "long": 7, "shards": 2, "reasons": {"empty": 3}},
        "run": 2,
        "new": {
            "files": 1,
            "counts": {"rows": 20, "scored": 18, "rejected": 2, "long": 1, "shards": 1, "reasons": {"empty": 2}},
        },
        "files_not_read": ["a.eml"],
        "seconds": 12.3,
        "environment": MACHINE,
    },
}
RUNS["embed"] = {
    **RUNS["score"],
    "kind": "linformers embed",
    "counts": {"rows": 1203, "embedded": 1203, "rejected": 0, "shards": 1, "reasons": {}},
    "new": {"files": 1, "counts": {"rows": 20, "embedded": 20, "rejected": 0, "shards": 1, "reasons": {}}},
}
NAMES = {"advise": "advice", "calibrate": "calibration", "export": "export", "convert": "conversion"}
# Of each kind: what must stand on its page, and the names of its charts.
SHOWN = {
    "pretrain": (("7.39", "1,234", "9,000"), {"loss", "perplexity"}),
    "finetune": (("films", "0.8100", "0.7000 to 0.9000", "films.csv"), {"loss", "accuracy"}),
    "distil": (("0.9876", "0.9123 at the start"), {"loss", "cosine"}),
    "adapt": (("0.812", "0.600 before", "0.623"), {"loss", "segments", "passages"}),
    "benchmark": (("does not fit", "1.25 s", "2 MiB", "medians"), {"time", "memory"}),
    "spectrum": (("-0.87", "-0.90 to -0.80", "0.750"), {"curves", "heads"}),
    "advise": (("softmax", "0.250", "0.312", "not measured"), {"errors"}),
    "convert": (("64, none", "up to 1,024 tokens", "0.9300", "a note"), {"layers"}),
    "export": (("12.3 MB", "1.0e-06", "0.9991", "0.8967"), set()),
    "calibrate": (("0.4321", "0.7000 to 0.9000", "14 flagged", "held.csv"), {"reliability", "thresholds"}),
    "score": (("1,203", "1,200 in all runs", "empty", "Files that no reader takes: 1", "a.eml", "films"), set()),
    "embed": (("1,203", "Documents embedded", "truncate"), set()),
}


def write(folder: Path, kind: str, content: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{NAMES.get(kind, 'results')}.json").write_text(json.dumps(content))
    if kind == "convert":
        layers = [{"cosine": 0.99 - i / 50, "relative_error": 0.1} for i in range(4)]
        found = {"layers": layers, "embedding_cosine": 0.98, "texts": 5, "tokens": 900, "longest": 300}
        (folder / "fidelity.json").write_text(json.dumps(found))
    if kind == "spectrum":
        (folder / "curves.csv").write_text("singular_values,layer_0,layer_1\n1,0.3,0.5\n2,0.6,0.8\n3,0.9,0.95\n4,1,1\n")
    return folder


def data_of(html: str) -> dict[str, list[list[str]]]:
    """The CSV files inside a page, by name."""
    found = re.findall(r'download="([^"]+)\.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', html)
    return {name: list(csv.reader(io.StringIO(base64.b64decode(data).decode()))) for name, data in found}


@pytest.mark.parametrize("kind", RUNS)
def test_report_of_a_run(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "run", kind, RUNS[kind])
    assert main.run(["report", str(folder)]) == 0
    assert str(folder / "report.html") in capsys.readouterr().out
    html = (folder / "report.html").read_text()
    check_whole(html)
    texts, charts = SHOWN[kind]
    for text in (*texts, "A processor", "2.13"):
        assert text in html, text
    assert set(data_of(html)) == charts
    assert html.count('role="img"') + html.count("<img") == len(charts)
    assert [path.name for path in folder.glob(".*")] == []


def test_data_of_a_chart_are_what_was_measured(tmp_path: Path) -> None:
    html = make_report(write(tmp_path / "run", "benchmark", RUNS["benchmark"]))
    assert data_of(html)["time"] == [
        ["encoder", "tokens", "seconds_a_sequence"],
        ["linformer k=8", "64", "0.5"],
        ["linformer k=8", "128", "1.25"],
    ]
    html = make_report(write(tmp_path / "other", "pretrain", RUNS["pretrain"]))
    assert data_of(html)["perplexity"][1:] == [
        ["perplexity", "10", "20.1"],
        ["perplexity", "15", "12.2"],
        ["perplexity", "20", "7.39"],
    ]


def replaced(value: Any) -> Any:
    """The same with hostile text in place of every text, and in every name."""
    if isinstance(value, dict):
        return {key: replaced(item) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item) for item in value]
    return EVIL if isinstance(value, str) and value else value


@pytest.mark.parametrize("kind", RUNS)
def test_hostile_text_stays_text(kind: str, tmp_path: Path) -> None:
    content = replaced(RUNS[kind])
    for key in ("kind", "reported_on"):
        if key in RUNS[kind]:
            content[key] = RUNS[kind][key]
    if "evaluations" in content:  # names of metrics become names of charts, and ids
        content["evaluations"] = [[step, {**values, EVIL: 1.0}] for step, values in content["evaluations"]]
    html = make_report(write(tmp_path / "<b>run", kind, content))
    check_whole(html)
    assert "<script" not in html and "<b>" not in html and "&lt;script&gt;" in html


def test_charts_take_dollars_for_dollars() -> None:
    chart = Chart(
        name="a b", picture=plot_lines({plain("$x$ $"): ([1, 2], [3, 4])}, "n", "y"), alt="A line.", caption=""
    )
    html = Report(title="T", lead="L", sections=[chart]).as_html()
    assert "$x$ $" in html and 'id="a-b-title"' in html


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (None, None, "is no folder"),
        ("notes.txt", "mine", "holds no results of ours"),
        ("run.json", "{}", "is not finished: run its command again"),
        ("results.json", "{", "is damaged, or of another version"),
        ("results.json", "[1]", "is damaged, or of another version"),
        ("results.json", '{"kind": "linformers pretrain"}', "is damaged, or of another version (KeyError"),
        (
            "results.json",
            '{"kind": "something"}',
            "of kind 'something', which has no report; those that do: linformers",
        ),
        ("results.json", '{"kind": "linformers reproduce", "target": "x"}', "is damaged"),
    ],
)
def test_what_has_no_report(
    name: str | None, content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    if name is not None:
        folder.mkdir()
        (folder / name).write_text(content)
    assert main.run(["report", str(folder)]) == 1
    error = capsys.readouterr().err
    assert said in error and str(folder) in error and "should not happen" not in error
    assert not (folder / "report.html").exists()


def test_a_report_is_replaced(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", "distil", RUNS["distil"])
    write_report(folder)
    changed = deepcopy(RUNS["distil"])
    changed["evaluations"][-1][1]["cosine"] = 0.9999
    write(folder, "distil", changed)
    assert "0.9999" in write_report(folder).read_text()


def test_a_legend_of_many_lines_stands_below_them_and_each_line_looks_different() -> None:
    lines = {f"line {number}": ([1, 2], [number, number]) for number in range(12)}
    few, many = (plot_lines(dict(list(lines.items())[:count]), "n", "y") for count in (6, 12))
    assert few.axes[0].get_legend() is not None and not few.legends
    assert many.axes[0].get_legend() is None and len(many.legends[0].get_texts()) == 12
    assert many.get_figheight() > few.get_figheight()
    drawn = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in many.axes[0].lines}
    assert len(drawn) == 12


def test_names_of_bars_keep_apart() -> None:
    rows = [("linformer", f"linear, layerwise, k = {k}, distilled", 0.5) for k in range(11)]
    figure = plot_passages(rows)
    figure.draw_without_rendering()
    boxes = sorted((label.get_window_extent() for label in figure.axes[0].get_yticklabels()), key=lambda box: box.y0)
    assert len(boxes) == 11 and all(low.y1 <= high.y0 for low, high in zip(boxes, boxes[1:], strict=False))


def test_files_of_charts(tmp_path: Path) -> None:
    figure = plot_lines({"a": ([1, 2], [3, 4])}, "n", "y")
    chart = Chart(
        name="growth", picture=figure, alt="A line.", caption="It grows.", head=("n", "y"), rows=[(1, 3), (2, 4)]
    )
    table = Table(caption="Numbers", head=("n", "y"), rows=[("1", 3)])
    document = Report(title="T", lead="L", sections=[Section(title="S", blocks=[chart, table, "Words."])])
    document.write_charts(tmp_path)
    assert (tmp_path / "growth.csv").read_text() == "n,y\n1,3\n2,4\n"
    with Image.open(tmp_path / "growth.png") as image:
        assert image.width > 500
    check_whole(document.as_html())


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


def render(page: Path, output: Path, width: int, *options: str) -> Image.Image:
    """A picture of the upper part of a page."""
    assert CHROMIUM is not None
    base = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={output}-user",
    ]
    size = [f"--window-size={width},1600", f"--screenshot={output}", *options]
    subprocess.run([*base, *size, page.as_uri()], check=True, capture_output=True, timeout=120)
    return Image.open(output).convert("L")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
def test_in_a_browser(tmp_path: Path) -> None:
    page = write_report(write(tmp_path / "run", "benchmark", RUNS["benchmark"]))
    light = render(page, tmp_path / "light.png", 1000)
    dark = render(page, tmp_path / "dark.png", 1000, "--blink-settings=preferredColorScheme=0")
    assert light.getpixel((2, 2)) > 240 and dark.getpixel((2, 2)) < 40
    assert light.getextrema()[0] < 80 and dark.getextrema()[1] > 200  # there is something to read
    phone = render(page, tmp_path / "phone.png", 400)
    right = phone.crop((396, 0, 400, 1600)).getextrema()
    assert right == (255, 255)  # nothing is cut off at the edge: wide tables scroll by themselves
