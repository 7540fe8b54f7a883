"""What hubs read in a model card, and that a card takes over what holds for a model made from another."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from linformers.classification.settings import FinetuneSettings
from linformers.report.cards import continued_card, converted_card, finetuned_card

ENVIRONMENT = {
    "processor": "A processor",
    "device": "cpu",
    "versions": {"torch": "2.13", "transformers": "5.0", "linformers": "0.1"},
}
METRIC = {"value": 0.81, "low": 0.7, "high": 0.9}
FINETUNED: dict[str, Any] = {
    "architecture": "BertForSequenceClassification",
    "linear": True,
    "grey": False,
    "task": {"name": "films", "kind": "single_label", "classes": ["bad", "good"]},
    "reported_on": "test",
    "parts": {"test": {"source": "films.csv", "rows": 40, "cut": 1, "labels": {"bad": 15, "good": 25}}},
    "metrics": {"accuracy": METRIC, "f1_macro": METRIC, "matthews": METRIC | {"value": float("nan")}},
    "names": {"accuracy": "accuracy", "f1_macro": "F1 (macro)", "matthews": "Matthews correlation"},
    "baseline": {"accuracy": 0.9, "f1_macro": 0.5},
    "per_class": [
        {"class": "bad", "rows": 15, "predicted": 20, "precision": METRIC, "recall": METRIC, "f1": 0.7},
        {"class": "good", "rows": 0, "predicted": 0, "precision": None, "recall": None, "f1": None},
    ],
    "warnings": ["no row of 'good' among the 40 test rows"],
    "texts": 1,
    "left_out": {"empty": 2, "too long": 1000},
    "parameters": 1234,
    "max_length": 512,
    "steps": 20,
    "best": {"step": 10},
    "seconds": 4.0,
    "environment": ENVIRONMENT,
}
CONVERTED: dict[str, Any] = {
    "converted_from": "minilm",
    "architecture": "BertModel",
    "own_class": True,
    "sentence_transformers": True,
    "command": "linformers convert --model minilm",
    "settings": {"projected_dim": 128},
    "inputs": "texts",
    "has_teacher": True,
    "was_linear": False,
    "teacher_length": 512,
    "max_length": 4096,
    "exact_length": 1024,
    "exact_up_to": 512,
    "texts": [],
    "fit_texts": [],
    "notes": [],
    "seconds": 1.0,
    "environment": ENVIRONMENT,
}


def saved(card: ModelCard, folder: Path) -> ModelCard:
    """The card as a hub reads it."""
    card.save(folder / "saved.md")
    return ModelCard.load(folder / "saved.md")


def with_card(folder: Path, text: str) -> Path:
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder


def test_metrics_are_in_the_metadata(tmp_path: Path) -> None:
    settings = FinetuneSettings(model="someone/encoder", output="runs/films", task="films.csv")
    card = saved(finetuned_card(settings, FINETUNED), tmp_path)
    found = {result.metric_type: result for result in card.data.eval_results or []}
    assert set(found) == {"accuracy", "f1"} == set(card.data.metrics or [])  # what is not a number has no place there
    assert found["accuracy"].metric_value == 0.81 and found["f1"].metric_name == "F1 (macro)"
    assert (found["f1"].dataset_name, found["f1"].dataset_split) == ("films", "test")
    assert card.data.base_model == "someone/encoder" and card.data.pipeline_tag == "text-classification"
    assert "| test | films.csv | 40 | 1 | bad 15, good 25 |" in card.text
    assert "Left out: 2 empty, 1,000 too long (`rejects.jsonl`" in card.text
    assert "| Matthews correlation | nan |" in card.text


@pytest.mark.parametrize("make", ["converted", "finetuned"])
def test_a_model_made_from_another_takes_over_its_licence(make: str, tmp_path: Path) -> None:
    header = "license: mit\nlanguage: en\nbase_model: someone/before\npipeline_tag: feature-extraction\ntags: mine\n"
    folder = with_card(tmp_path, f"---\n{header}---\n# Mine\n")
    if make == "converted":
        card = saved(converted_card(CONVERTED, None, str(folder), folder), tmp_path)
        assert card.data.pipeline_tag == "feature-extraction" and "mine" in (card.data.tags or [])
        assert card.data.library_name == "sentence-transformers"
    else:
        settings = FinetuneSettings(model=str(folder), output="runs/films", task="films.csv")
        card = saved(finetuned_card(settings, FINETUNED), tmp_path)
        assert card.data.pipeline_tag == "text-classification" and "mine" not in (card.data.tags or [])
    assert (card.data.license, card.data.language, card.data.base_model) == ("mit", "en", "someone/before")
    assert str(tmp_path) not in str(card)


@pytest.mark.parametrize("text", ["# No metadata\n", "---\nlicense: [mit\n---\n", "---\n- mit\n---\n", "---\nlicense"])
def test_a_card_that_cannot_be_read_is_passed_over(text: str, tmp_path: Path) -> None:
    card = converted_card(CONVERTED, None, str(tmp_path), with_card(tmp_path, text))
    assert card.data.license is None and card.data.tags == ["linformers", "long-documents"]


def test_distillation_adds_a_section(tmp_path: Path) -> None:
    base = "---\nlicense: mit\n---\n# Mine\n\nAll of it.\n"
    results = {"tokens": 5000, "before": {"cosine": 0.9, "loss": 0.2}, "best": {"cosine": 0.95, "loss": 0.1}}
    settings: Any = SimpleNamespace(length=512, dtype="float32")
    card = continued_card("distilled.md", with_card(tmp_path, base), "run", results, settings, "float32")
    assert card.startswith(f"{base}\n## Distillation\n\n") and card.endswith("Weights trained in float32.\n")
    assert "0.9000 to 0.9500" in " ".join(card.split())
    again = continued_card("distilled.md", with_card(tmp_path, card), "run", results, settings, "float16")
    assert again.startswith(card) and again.endswith("they were stored in float16.\n")
    bare = tmp_path / "bare"
    bare.mkdir()
    assert continued_card("distilled.md", bare, "run", results, settings, "float32").startswith(
        "# run\n\n## Distillation\n"
    )
