"""Answers of whole contexts, held to a plain reference: transformers 5 has no pipeline for them any more."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from finetune_helpers import make_model, write_jsonl
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

from linformers.cli import main
from linformers.extraction.answers import find_answer
from linformers.scoring.answers import Answerer
from linformers.scoring.networks import load_network
from linformers.scoring.settings import Reading


def make_answerer(folder: Path, kind: str = "linformer") -> Path:
    """A model that answers with random weights, and its tokenizer."""
    make_model(folder, kind)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder, initializer_range=0.5)
    AutoModelForQuestionAnswering.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["linformer", "bert"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_answerer(tmp_path_factory.mktemp("answers") / request.param, request.param)


ROWS = [
    ("was it a good book", "the old book was very good and some film was bad"),
    ("the road", "a new road  of the day"),
    ("a", "it was in the very old film with some book"),
]


def reference(folder: Path, question: str, context: str, longest: int) -> tuple[str, float, float]:
    """As the pipeline of transformers 4 did it: all pairs of start and end, softmax over the context and the CLS."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    given = tokenizer(question, context, return_offsets_mapping=True, return_tensors="pt")
    offsets = given.pop("offset_mapping")[0].tolist()
    mask = [place == 0 or one == 1 for place, one in enumerate(given.sequence_ids(0))]
    with torch.no_grad():
        output = AutoModelForQuestionAnswering.from_pretrained(folder).eval()(**given)
    starts, ends = (
        torch.where(torch.tensor(mask), one[0], -10000.0).softmax(0).numpy()
        for one in (output.start_logits, output.end_logits)
    )
    null = float(starts[0] * ends[0])
    starts[0] = ends[0] = 0
    table = np.tril(np.triu(np.outer(starts, ends)), longest - 1)
    first, last = np.unravel_index(table.argmax(), table.shape)
    return context[offsets[first][0] : offsets[last][1]].strip(), float(table.max()), null


def test_answers_are_those_of_the_reference(model: Path) -> None:
    answerer = Answerer(load_network(Reading(model=str(model))))
    for longest in (30, 2):
        answerer.longest = longest
        found = answerer.answer(answerer.encode([q for q, _ in ROWS], [c for _, c in ROWS]))
        for (question, context), one in zip(ROWS, found, strict=True):
            text, score, null = reference(model, question, context, longest)
            assert one.text == text == context[one.start : one.end]
            assert (one.score, one.null_score) == pytest.approx((score, null), rel=1e-4)


def test_no_answer_where_it_is_likelier_and_was_trained() -> None:
    logits, null = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([9.0, 9.0])
    spans = np.array([[0, 1], [2, 3]])
    given = (logits, null, spans, "a b", 30)
    none, some = find_answer(*given, may_be_none=True), find_answer(*given, may_be_none=False)
    assert (none.text, none.start, none.end) == ("", None, None) and (some.text, some.start, some.end) == ("a b", 0, 3)
    assert none.null_score > none.score == some.score
    assert find_answer(*given[:4], 1, False).text == "b"  # 0 + 2, against 1 + 0


def run(model: Path, tmp_path: Path, *more: str) -> int:
    given = ["--model", str(model), "--input", str(tmp_path / "docs.jsonl"), "--output", str(tmp_path / "out"), *more]
    return main.run(["score", *given])


def test_the_command_writes_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_answerer(tmp_path / "model")
    rows = [{"question": question, "context": context, "id": 7} for question, context in ROWS]
    long = {"question": "the book", "context": "the old book was very good " * 30, "id": 8}
    write_jsonl(tmp_path / "docs.jsonl", [*rows, {**rows[0], "context": ""}, long])
    assert run(model, tmp_path, "--id", "id", "--max-reject-share", "0.5") == 0
    found = pq.read_table(tmp_path / "out" / "runs" / "0001" / "scores.parquet").to_pylist()
    assert [row["id"] for row in found] == [7, 7, 7, 8]
    for row, (_, context) in zip(found, ROWS, strict=False):
        assert context[row["start"] : row["end"]] == row["answer"] != "" and 0 < row["score"] < 1
    assert "1 documents were longer" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "results.json").read_text())["counts"]["rows"] == 5


def test_what_models_that_answer_do_not_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_answerer(tmp_path / "model")
    write_jsonl(tmp_path / "docs.jsonl", [{"question": "a", "context": "the book"}])
    for more, said in (
        (["--embeddings"], "--embeddings True is not for models that answer questions"),
        (["--long", "windows"], "a context is read at once"),
    ):
        assert run(model, tmp_path, *more) == 1
        assert said in " ".join(capsys.readouterr().err.split())
