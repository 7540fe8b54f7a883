"""Entities: as transformers' pipeline finds them, over texts of any length, and what a command makes of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from finetune_helpers import write_jsonl
from scoring_helpers import make_classifier, make_tagger, texts

from linformers.cli import main
from linformers.scoring.networks import load_network
from linformers.scoring.settings import Reading
from linformers.scoring.tags import Tagger, _Best, join


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("taggers")
    return {kind: make_tagger(folder / kind, kind) for kind in ("linformer", "bert")}


@pytest.mark.parametrize("kind", ["linformer", "bert"])
def test_entities_are_those_of_the_pipeline(models: dict[str, Path], kind: str) -> None:
    from transformers import pipeline

    theirs: Any = pipeline("token-classification", model=str(models[kind]), aggregation_strategy="simple")
    tagger = Tagger(load_network(Reading(model=str(models[kind]))), pieces=1)
    asked = [text for text in texts(40) if len(text.split()) < 14]
    found = tagger.tag(tagger.encode(asked))
    assert len(asked) > 10 and sum(map(len, found)) > 20
    for text, entities in zip(asked, found, strict=True):
        answer = [one for one in theirs(text) if text[one["start"] : one["end"]].strip()]  # blanks name nothing
        assert [one.label for one in entities] == [one["entity_group"] for one in answer]
        assert [one.text for one in entities] == [text[one["start"] : one["end"]].strip() for one in answer]
        assert [one.score for one in entities] == pytest.approx([float(one["score"]) for one in answer], abs=1e-5)
        assert all(text[one.start : one.end] == one.text for one in entities)


def test_pieces_are_joined_where_they_meet(models: dict[str, Path]) -> None:
    """An entity over the border of two pieces is one; a model that reads the text at once has no border."""
    (text,) = [" ".join(texts(12))]
    whole = Tagger(load_network(Reading(model=str(models["bert"]))), pieces=None)
    tagged = whole.encode([text, "", text[:40]])
    assert len(tagged.tokens.windows) > 4 and tagged.tokens.empty == [1]
    long, short = whole.tag(tagged)
    ends = {one.end for one in long}
    assert long[-1].end <= len(text) and len(long) > len(short) > 0 and len(ends) == len(long)
    borders = [tagged.located[0].spans[start, 0] for start in tagged.tokens.starts[1:] if start]
    assert any(one.start < border < one.end for one in long for border in borders)
    first = Tagger(whole.network, pieces=1)
    cut = first.tag(first.encode([text]))[0]
    assert cut[:-1] == long[: len(cut) - 1]


def test_of_two_windows_the_one_speaks_in_which_a_token_is_farther_from_the_border(models: dict[str, Path]) -> None:
    network = load_network(Reading(model=str(models["bert"])))
    whole, tagger = Tagger(network, None), Tagger(network, None, overlap=24)
    (text,) = [" ".join(texts(12))]
    tagged = tagger.encode([text])
    starts, ends = tagged.tokens.starts, tagged.tokens.ends
    assert [start for start in starts[1:]] == [end - 24 for end in ends[:-1]] and ends[-1] == len(tagged.located[0].ids)
    best = _Best(tagged, False)
    labels = [np.full(end - start, piece) for piece, (start, end) in enumerate(zip(starts, ends, strict=True))]
    for piece in range(len(starts) - 1, -1, -1):  # in any order
        best.put(piece, labels[piece], np.zeros(len(labels[piece]), np.float32))
    for piece, (start, end) in enumerate(zip(starts[1:], ends, strict=False)):
        assert best.labels[0][start:end].tolist() == [piece] * 12 + [piece + 1] * 12
    (found,) = tagger.tag(tagged)
    spans = sorted((one.start, one.end) for one in found)
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False)) and len(spans) > 10
    assert {one.start for one in found} != {one.start for one in whole.tag(whole.encode([text]))[0]}
    with pytest.raises(ValueError, match="overlap=62 leaves no new tokens in windows of 62"):
        Tagger(network, None, overlap=62).encode([text])


def test_joining_follows_the_labels() -> None:
    labels = ["B-X", "I-X", "B-X", "I-Y", "O", "Y", "Y", "I-Y"]
    spans = np.array([[2 * n, 2 * n + 2] for n in range(8)])
    text = "a b c d e f g h "
    found = join(labels, np.linspace(0.1, 0.8, 8, dtype=np.float32), spans, text)
    assert [(one.label, one.text) for one in found] == [("X", "a b"), ("X", "c"), ("Y", "d"), ("Y", "f g h")]
    assert found[0].score == pytest.approx(0.15) and join([], np.zeros(0, np.float32), spans[:0], "") == []


def run(model: Path, tmp_path: Path, *more: str) -> int:
    given = ["--model", str(model), "--input", str(tmp_path / "docs.jsonl"), "--output", str(tmp_path / "out"), *more]
    return main.run(["score", *given])


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_the_command_writes_entities(
    models: dict[str, Path], tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*texts(9), "", " ".join(texts(20))]
    write_jsonl(tmp_path / "docs.jsonl", [{"text": text} for text in given])
    assert run(models["linformer"], tmp_path, "--long", "windows", "--format", form) == 0
    said = capsys.readouterr().out
    path = tmp_path / "out" / "runs" / "0001" / f"scores.{form}"
    rows = (
        pq.read_table(path).to_pylist()
        if form == "parquet"
        else [json.loads(line) for line in path.read_text().splitlines()]
    )
    assert [row["row"] for row in rows] == [*range(1, 10), 11]
    for row in rows:
        for one in row["entities"]:
            assert given[row["row"] - 1][one["start"] : one["end"]] == one["text"] and one["label"] in ("PER", "LOC")
    count = sum(len(row["entities"]) for row in rows)
    assert f"{count:,} entities" in said and count > 10
    assert main.run(["report", str(tmp_path / "out")]) == 0
    assert "PER" in (tmp_path / "out" / "report.html").read_text()


def test_what_taggers_do_not_do(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "docs.jsonl", [{"text": "a film", "label": "PER", "text_pair": "b"}])
    for more, said in (
        (["--queue", "B-PER=0.5"], "--queue"),
        (["--embeddings"], "--embeddings True is not for taggers"),
    ):
        assert run(models["bert"], tmp_path, *more) == 1
        assert said in (found := capsys.readouterr().err) and "leave it out" in found
    given = ["--labelled", str(tmp_path / "docs.jsonl"), "--target", "B-PER", "--precision", "0.5"]
    assert main.run(["calibrate", "--model", str(models["bert"]), *given, "--output", str(tmp_path / "cal")]) == 1
    assert "is a tagger of tokens; calibrate takes classifiers" in capsys.readouterr().err
    classifier = make_classifier(tmp_path / "classifier")
    assert run(classifier, tmp_path) == 0
    assert "entities" not in capsys.readouterr().out
