"""The page is well formed, whole in itself, safe, and says what the numbers say."""

import io
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from html_helpers import check
from rich.console import Console

from linformers.report import words
from linformers.report.conversion import cost, finding
from linformers.report.quickstart import document
from linformers.report.summary import conclude, next_commands


def results() -> dict[str, Any]:
    cell = {"repeats": 3, "peak_bytes": 2**20}
    run = {"parameters": 1000, "losses": [(10, 3.5), (20, 3.0)], "seconds": 40.0, "tokens_per_second": 1e4}
    return {
        "kind": "linformers quickstart",
        "command": "linformers quickstart",
        "created": "2026-01-01T00:00:00+00:00",
        "fast": False,
        "seed": 0,
        "seconds": 200.0,
        "stages": {"pretraining": 120.0},
        "environment": {
            "processor": "A processor",
            "cores": 2,
            "threads": 2,
            "memory_gb": 8.0,
            "device": "cpu",
            "load_average": 0.1,
            "system": "Linux",
            "python": "3.12",
            "versions": {"torch": "2.13"},
        },
        "settings": {
            "projected_dim": 32,
            "local_window": 8,
            "projection_kind": "linear",
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "pretrain_steps": 20,
            "tokens_per_step": 4096,
            "stages": [[32, 0.5], [1024, 0.5]],
        },
        "data": {
            "books": [{"title": "One", "author": "A"}, {"title": "Two", "author": "B"}],
            "vocabulary": 300,
            "train_tokens": 1000,
            "held_out_tokens": 100,
        },
        "conversion": {"skipped": "the package is not installed (pip install it)"},
        "pretraining": [
            {**run, "name": "linformer", "label": "Linformer", "perplexity": [(128, 25.0), (1024, 20.0)]},
            {**run, "name": "transformer", "label": "Transformer", "perplexity": [(128, 28.0), (1024, 30.0)]},
            {**run, "name": "control", "label": "no attention", "perplexity": [(128, 41.0), (1024, 40.0)]},
        ],
        "passages": {
            "tokens": 1024,
            "train": 100,
            "held_out": 40,
            "accuracy": {"linformer": 0.8, "majority": 0.5, "tfidf": 0.95},
            "interval": [0.65, 0.9],
            "by_book": [(16, 20), (16, 20)],
            "examples": [{"text": "Once", "book": "One", "guesses": [("One", 0.9), ("Two", 0.1)]}],
        },
        "cost": {
            "device": "the CPU",
            "cells": [
                {**cell, "name": name, "length": length, "seconds": seconds}
                for name, length, seconds in [
                    ("linformer", 512, 0.02),
                    ("transformer", 512, 0.01),
                    ("linformer", 1024, 0.04),
                    ("transformer", 1024, 0.4),
                ]
            ],
        },
        "next": [("Look.", "echo 'a' < b")],
    }


def converted() -> dict[str, Any]:
    """The same with a converted model."""
    content = results()
    reader = {"interval": (0.6, 0.9), "seconds": 0.5, "vectors": 16.0}
    content["conversion"] = {
        "teacher": "all-MiniLM-L6-v2",
        "options": {"segment_length": 128, "projection_kind": "attention_pool", "projected_dim": 32},
        "window": 512,
        "tokens": 2048,
        "books": 2,
        "passages": 32,
        "sentences": 128,
        "readers": [
            {**reader, "name": "truncated", "label": "teacher, the first 512 tokens", "found": 0.5, "seconds": 0.1},
            {**reader, "name": "chunks", "label": "teacher, chunks of 512", "found": 0.65},
            {**reader, "name": "short", "label": "teacher, chunks of 128", "found": 0.8},
            {**reader, "name": "linearised", "label": "linearised, the whole passage", "found": 0.75, "seconds": 0.6},
        ],
        "gain": {"chunks": (0.02, 0.2), "short": (-0.1, 0.05)},
        "words": 0.97,
        "cost": deepcopy(content["cost"]),
    }
    return content


def render(content: dict[str, Any]) -> str:
    return document(content).as_html()


@pytest.mark.parametrize(("content", "plots"), [(results(), 4), (converted(), 6)], ids=["plain", "converted"])
def test_page_is_well_formed_and_fetches_nothing(content: dict[str, Any], plots: int) -> None:
    html = render(content)
    checker = check(html)
    assert all(address.startswith("#") and address[1:] in checker.ids for address in checker.addresses)
    assert not checker.tags & {"script", "link", "iframe", "object", "img"}
    assert not re.search(r"\{[{%#]", html)  # no field of the template is left
    assert html.count('role="img"') == plots and html.count("<desc") == plots
    assert 'name="viewport"' in html and "prefers-color-scheme: dark" in html and "@media print" in html


def test_plots_follow_the_colours_of_the_page() -> None:
    html = render(results())
    svg = html[html.index("<svg") : html.rindex("</svg>")]
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert "var(--linformer)" in svg and "var(--text)" in svg


def test_text_is_escaped() -> None:
    content = converted()
    evil = "<script>alert('x')</script>&\""
    content["passages"]["examples"] = [{"text": evil, "book": evil, "guesses": [(evil, 1.0)]}]
    content["data"]["books"][0]["title"] = content["command"] = content["environment"]["processor"] = evil
    content["next"] = [(evil, evil)]
    content["conversion"]["teacher"] = content["conversion"]["readers"][0]["label"] = evil
    html = render(content)
    assert "<script" not in html and "&lt;script&gt;" in html
    check(html)


def test_words_follow_the_numbers() -> None:
    content = results()
    assert "33% below the Transformer" in words.learning(content)
    assert "Both are below the control" in words.learning(content)
    assert "does better, with 95.0%" in words.passages(content)
    assert "80.0% of 40 passages (95% interval: 65% to 90%)" in words.passages(content)
    assert "up to 512 tokens) the Transformer is the faster one" in words.cost(content)
    worse = deepcopy(content)
    worse["pretraining"][0]["perplexity"][-1] = (1024, 41.0)
    worse["passages"]["accuracy"]["tfidf"] = 0.5
    assert "37% above the Transformer" in words.learning(worse)
    assert "Only the Transformer is clearly below the control" in words.learning(worse)
    assert "does better" not in words.passages(worse)
    alike = deepcopy(content)
    alike["pretraining"][1]["perplexity"][-1] = (1024, 20.1)
    alike["pretraining"][2]["perplexity"][-1] = (1024, 20.0)
    alike["passages"]["accuracy"]["tfidf"] = 0.85
    assert "within 1% of the Transformer" in words.learning(alike)
    assert "Neither is clearly below the control" in words.learning(alike)
    assert "about as good" in words.passages(alike)


def test_headline_numbers_are_on_the_page() -> None:
    html = render(results())
    for text in ("20.0", "Transformer 30.0, without attention 40.0", "10 times less", "80%", "TF-IDF 95%", "the same"):
        assert text in html, text


def test_the_converted_model_comes_first() -> None:
    html = render(converted())
    assert (
        html.index("all-MiniLM-L6-v2 became linear")
        < html.index("<h2>A trained model made linear")
        < html.index("scratch")
    )
    for text in (
        "2,048 tokens",
        "segments of 128 tokens",
        "32 summaries",
        "600 ms",
        "60% to 90%",
        "10 times less",
        "TF-IDF",
    ):
        assert text in html, text
    plain = render(results())
    assert "pip install it" in plain and "A trained model made linear" not in plain


def test_words_about_the_converted_model_follow_the_numbers() -> None:
    content = converted()
    said = finding(content)
    assert "finds 75% of 128 sentences; teacher, chunks of 512 finds 65%, teacher, chunks of 128 80%." in said
    assert "That is more than in chunks of 512 (difference +2% to +20%, 95% interval)." in said
    assert "That is not clearly different from chunks of 128 (difference -10% to +5%" in said
    assert "600 ms, and chunks of 512 500 ms (1.2 times more)" in said and "(TF-IDF) finds 97%" in said
    content["conversion"]["gain"]["short"] = (-0.1, -0.02)
    assert "less than in chunks of 128" in finding(content)
    assert "difference" not in finding({**content, "fast": True})
    assert "takes the linear model 40 ms, and softmax attention 400 ms" in cost(content["conversion"])
    assert "Up to 512 tokens softmax is the faster one" in cost(content["conversion"])


def test_the_terminal_shows_the_converted_model(tmp_path: Path) -> None:
    for content, shown in ((converted(), True), (results(), False)):
        console = Console(file=io.StringIO(), width=100)
        conclude(content, tmp_path, console)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert ("linearised, the whole passage" in text) is shown and "no attention" in text


def test_next_commands_offer_the_conversion_where_it_can_run(tmp_path: Path) -> None:
    assert not any("convert" in command for _, command in next_commands(tmp_path / "run", 0))
    (_, command), *others = [pair for pair in next_commands(tmp_path / "run", 0, tmp_path) if "convert" in pair[1]]
    assert not others and f"--model {tmp_path}" in command and f"--output {tmp_path / 'minilm-long'}" in command


def test_memory_unknown_and_cells_missing() -> None:
    content = results()
    for cell in content["cost"]["cells"]:
        cell["peak_bytes"] = None
    content["cost"]["cells"] = content["cost"]["cells"][:3]  # the time ran out before the last
    html = render(content)
    check(html)
    assert html.count("<svg") == 3 and "not measured" in html and "time for 512 tokens" in html


@pytest.mark.parametrize(
    ("value", "text"), [(0.00123, "1.23 ms"), (0.5, "500 ms"), (1.234, "1.23 s"), (99.0, "99 s"), (240.0, "4.0 min")]
)
def test_seconds(value: float, text: str) -> None:
    assert words.seconds(value) == text


@pytest.mark.parametrize(("ratio", "text"), [(0.1, "10 times less"), (1.0, "the same"), (2.0, "2 times more")])
def test_times(ratio: float, text: str) -> None:
    assert words.times(ratio, "less", "more") == text
