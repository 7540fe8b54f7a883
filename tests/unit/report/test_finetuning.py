"""The page of a fine-tuned classifier: its figures are those of the files, and texts of documents stay texts."""

import base64
import csv
import io
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from html_helpers import check_whole

from linformers.classification.data import length_counts
from linformers.classification.metrics import estimate, per_class
from linformers.commands.report import make_report
from linformers.report.plots import plot_confusion, plot_lines, to_svg

EVIL = "<script>alert('x')</script> & \"so\" on $x$"
MACHINE = {
    "processor": "A processor",
    "cores": 2,
    "threads": 2,
    "memory_gb": 8.0,
    "device": "cpu",
    "system": "Linux",
    "python": "3.12",
    "versions": {"torch": "2.13"},
}


class Tables(HTMLParser):
    """The cells of each table of a page, by its caption."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self.rows: list[list[str]] = []
        self.caption, self.text = "", ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th", "caption"):
            self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption":
            self.caption = self.text
        elif tag in ("td", "th"):
            self.rows[-1].append(self.text)
        elif tag == "table":
            self.found[self.caption] = self.rows


def tables(html: str) -> dict[str, list[list[str]]]:
    parser = Tables()
    parser.feed(html)
    return parser.found


def one(found: dict[str, list[list[str]]], begin: str) -> list[list[str]]:
    return next(rows for caption, rows in found.items() if caption.startswith(begin))


def chart(html: str, name: str) -> list[list[str]]:
    data = re.search(rf'download="{name}\.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', html)
    assert data is not None, name
    return list(csv.reader(io.StringIO(base64.b64decode(data.group(1)).decode())))


def write(folder: Path, kind: str, classes: list[str], labels: np.ndarray, scores: np.ndarray, **more: Any) -> Path:
    """A run's folder with what ``finetune`` writes."""
    folder.mkdir()
    rows = len(labels)
    metrics = estimate(labels, scores, kind)  # type: ignore[arg-type]

    def named(values: Any) -> list[Any]:
        if kind == "regression":
            return [float(value) for value in values]
        if kind == "single_label":
            return [classes[value] for value in values]
        return [[name for name, x in zip(classes, row, strict=True) if x] for row in values]

    taken = scores[:, 0] if kind == "regression" else scores.argmax(1) if kind == "single_label" else scores >= 0.5
    columns: dict[str, Any] = {
        "ticket": [f"T{row}" for row in range(rows)],
        "file": ["rows.csv"] * rows,
        "row": list(range(2, rows + 2)),
        "text": [EVIL if row == 0 else f"text {row} " + "word " * 200 for row in range(rows)],
        "label": named(labels),
        "predicted": named(taken),
    }
    if kind != "regression":
        columns["probabilities"] = scores.tolist()
    pq.write_table(pa.table(columns), folder / "predictions.parquet")
    part = {"source": "rows.csv", "rows": 40, "cut": 10, "tokens": 900, "labels": {name: 20 for name in classes}}
    lengths = length_counts(np.array([5, 9, 9, 30, 80, 400]), 64)
    results = {
        "kind": "linformers finetune",
        "parameters": 1234,
        "steps": 40,
        "seconds": 4.0,
        "environment": MACHINE,
        "task": {"name": "rows.csv", "kind": kind, "classes": classes},
        "reported_on": "test",
        "metrics": {name: vars(found) for name, found in metrics.items()},
        "per_class": per_class(labels, scores, kind, classes),  # type: ignore[arg-type]
        "parts": {"train": part, "test": {**part, "rows": rows}},
        "baseline": {next(iter(metrics)): 0.4321},
        "evaluations": [[10, {"loss": 0.7}], [20, {"loss": 0.5}], [30, {"loss": 0.6}]],
        "losses": [[5, 0.71], [15, 0.52]],
        "max_length": 64,
        "lengths": lengths,
        **more,
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def drawn() -> tuple[list[str], np.ndarray, np.ndarray]:
    """Labels and probabilities of three classes; the first row is most confidently wrong."""
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 3, 30), rng.dirichlet(np.ones(3), 30)
    labels[0], scores[0] = 0, (0.0005, 0.9990, 0.0005)
    return ["ham", "spam", "<b>other</b>"], labels, scores


def test_figures_are_those_of_the_files(tmp_path: Path, drawn: tuple[list[str], np.ndarray, np.ndarray]) -> None:
    classes, labels, scores = drawn
    folder = write(tmp_path / "run", "single_label", classes, labels, scores)
    html = make_report(folder)
    check_whole(html)
    assert "<script" not in html and "<b>" not in html
    found, results = tables(html), json.loads((folder / "results.json").read_text())

    accuracy = results["metrics"]["accuracy"]
    interval = f"{accuracy['low']:.4f} to {accuracy['high']:.4f}"
    assert one(found, "On the 30 test rows")[1] == ["accuracy", f"{accuracy['value']:.4f}", interval, "0.4321"]
    for shown, expected in zip(one(found, "Each class")[1:], results["per_class"], strict=True):
        precision = expected["precision"]
        assert shown[:2] == [expected["class"], f"{precision['value']:.3f}"]
        assert shown[2] == f"{precision['low']:.3f} to {precision['high']:.3f}"
        assert shown[-2:] == [str(expected["rows"]), str(expected["predicted"])]
    assert one(found, "Labels of each part")[1:] == [[name, "20", "20"] for name in classes]

    wrong = np.flatnonzero(scores.argmax(1) != labels)
    errors = one(found, f"The 20 worst of {len(wrong)}" if len(wrong) > 20 else f"{len(wrong)} errors")
    order = wrong[np.argsort(-scores[wrong].max(1), kind="stable")]
    assert [row[0] for row in errors[1:]] == [f"T{row}" for row in order[:20]]
    assert errors[1] == ["T0", "rows.csv:2", "ham", "spam", "0.9990", EVIL]
    assert all(row[-1].endswith(" ...") and len(row[-1]) < 310 for row in errors[2:])

    assert chart(html, "loss")[1:] == [
        *(["training loss", *point] for point in (["5", "0.71"], ["15", "0.52"])),
        *(["held-out loss", *point] for point in (["10", "0.7"], ["20", "0.5"], ["30", "0.6"])),
    ]
    cells = {(true, taken): int(count) for true, taken, count in chart(html, "confusion")[1:]}
    for true in range(3):
        for taken in range(3):
            count = int(((labels == true) & (scores.argmax(1) == taken)).sum())
            assert cells.get((classes[true], classes[taken]), 0) == count
    bars = [[int(cell) for cell in row] for row in chart(html, "lengths")[1:]]
    assert sum(count for *_, count in bars) == 6 and bars[0][0] == 0
    assert all(low < 30 for low, _, _ in bars[:2]) and "10 of 40 training texts (25.0%) are cut at 64 tokens" in html


def test_texts_of_several_classes_and_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, (12, 2)).astype(np.float32), rng.random((12, 2))
    labels[5], scores[5] = (1, 0), (0.9, 0.97)
    html = make_report(write(tmp_path / "many", "multi_label", ["insult", "threat"], labels, scores))
    errors = one(tables(html), f"{int(((scores >= 0.5) != labels).any(1).sum())} errors")
    assert errors[1][0] == "T5" and errors[1][4] == "threat: 0.9700"

    values, predicted = np.arange(10.0), np.arange(10.0)[:, None].copy()
    predicted[3], predicted[7] = 13.5, 5.0
    folder = write(tmp_path / "numbers", "regression", ["value"], values, predicted)
    results = json.loads((folder / "results.json").read_text())
    results["parts"]["train"]["labels"] = {"lowest": 0.25, "mean": 4.5, "highest": 9.0}
    (folder / "results.json").write_text(json.dumps(results))
    html = make_report(folder)
    check_whole(html)
    found = tables(html)
    assert [row[4] for row in one(found, "2 errors")[1:]] == ["+10.5", "-2"]
    assert ["lowest", "0.25", "0"] in one(found, "Labels of each part")


def test_what_is_too_little_for_a_chart_is_a_number(
    tmp_path: Path, drawn: tuple[list[str], np.ndarray, np.ndarray]
) -> None:
    classes, labels, scores = drawn
    few = {"evaluations": [[10, {"loss": 0.7, "accuracy": 0.5}], [20, {"loss": 0.6, "accuracy": 0.5}]]}
    alike = length_counts(np.array([12, 12]), 64)
    html = make_report(write(tmp_path / "run", "single_label", classes, labels, scores, lengths=alike, **few))
    check_whole(html)
    assert 'download="loss.csv"' not in html and 'download="lengths.csv"' not in html
    assert "accuracy.csv" not in html and "The median is 12 tokens, the longest has 12" in html
    (tmp_path / "run" / "predictions.parquet").unlink()
    html = make_report(tmp_path / "run")
    assert "predictions.parquet is gone" in html and "confusion.csv" not in html


@pytest.mark.parametrize(("longest", "most"), [(1, 8), (23, 512), (24, 512), (400, 64), (10**6, 64)])
def test_every_length_is_in_one_bar(longest: int, most: int) -> None:
    rng = random.Random(longest)
    found = length_counts(np.array([rng.randint(1, longest) for _ in range(200)] + [longest]), most)
    assert sum(found["counts"]) == 201 and found["longest"] == longest
    assert len(found["counts"]) == len(found["edges"]) - 1 <= 25 and found["edges"][0] == 0


def test_pictures_follow_dark_mode() -> None:
    figure = plot_confusion(np.array([0, 1, 1]), np.array([0, 1, 0]), ["$a$", "差评 😀" + "x" * 20_000])
    svg = to_svg(figure, "confusion", "Two classes.", "confusion")
    assert "<image" not in svg and "$a$" in svg and "差评 😀" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000"}, "a colour that is no variable of the page"


@pytest.mark.parametrize("values", [(300.1, 301.2), (30.0, 70.0), (0.012, 0.4), (1.0, 5000.0)])
def test_every_axis_has_labels(values: tuple[float, float]) -> None:
    figure = plot_lines({"a": ([64, 128], values)}, "n", "y", log_x=True, log_y=True)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        shown = [place for place in axis.get_majorticklocs() if low <= place <= high]
        assert len(shown) >= 2, (values, axis)
