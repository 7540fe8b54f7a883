"""Scores in batches against the model on each text alone, for every kind of model; pooling against sums by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_helpers import make_model
from scoring_helpers import make_classifier, texts
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from linformers.scoring.batches import batches
from linformers.scoring.networks import hash_model, load_network
from linformers.scoring.scorer import Scorer, _pool
from linformers.scoring.settings import Reading

TEXTS = texts(40)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "linformer": make_classifier(folder / "linformer"),
        "bert": make_classifier(folder / "bert", "bert"),
        "values": make_classifier(folder / "values", labels=1),
        "many": make_classifier(folder / "many", labels=3, problem_type="multi_label_classification"),
        "encoder": make_model(folder / "encoder"),
    }


def alone(path: Path, text: str, auto: Any = AutoModelForSequenceClassification) -> tuple[Any, np.ndarray]:
    """Logits and mean hidden states of one text."""
    model, tokenizer = auto.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.inference_mode():
        states = model.base_model(**inputs)[0].mean(1)[0].numpy()
        return (model(**inputs).logits[0] if auto is AutoModelForSequenceClassification else None), states


# float32, summed in another order in a batch
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 2e-5}


@pytest.mark.parametrize("name", ["linformer", "bert", "values", "many"])
def test_classifiers(models: dict[str, Path], name: str) -> None:
    scorer = Scorer(Reading(model=str(models[name]), embeddings=True, memory=10**6))
    counted: list[int] = []
    tokens = scorer.encode(TEXTS)
    scores = scorer.score(tokens, counted.append)
    assert scores.values is not None and scores.embeddings is not None
    assert len(counted) >= 3 and sum(counted) == sum(map(len, tokens.windows))
    as_probabilities = {"values": lambda x: x, "many": torch.sigmoid}.get(name, lambda x: x.softmax(-1))
    for place in (0, 7, 39):
        logits, states = alone(models[name], TEXTS[place])
        np.testing.assert_allclose(scores.values[place], as_probabilities(logits).numpy(), **CLOSE)
        np.testing.assert_allclose(scores.embeddings[place], states, **CLOSE)
    labels = {"values": [], "many": ["LABEL_0", "LABEL_1", "LABEL_2"]}.get(name, ["ham", "spam"])
    assert scorer.network.labels == labels
    empty = scorer.score(scorer.encode([]))
    assert empty.values is not None and empty.values.shape == (0, scores.values.shape[1])


def test_encoders(models: dict[str, Path]) -> None:
    scores = Scorer(Reading(model=str(models["encoder"]))).score
    scorer = Scorer(Reading(model=str(models["encoder"])))
    found = scores(scorer.encode(TEXTS[:5]))
    assert found.values is None and found.embeddings is not None
    np.testing.assert_allclose(found.embeddings[3], alone(models["encoder"], TEXTS[3], AutoModel)[1], **CLOSE)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_windows(models: dict[str, Path], pool: Any) -> None:
    reading = Reading(model=str(models["linformer"]), long="windows", pool=pool, max_length=16, embeddings=True)
    scorer = Scorer(reading)
    single = Scorer(Reading(model=str(models["linformer"]), max_length=16, embeddings=True))
    text = " ".join(TEXTS[:6])
    tokens = scorer.encode([TEXTS[0], text, TEXTS[1]])
    pieces = [ids for ids, owner in zip(tokens.windows, tokens.owner, strict=True) if owner == 1]
    assert len(pieces) > 4 and tokens.long >= 1
    parts = [
        single.score(type(tokens)([ids], np.zeros(1, np.int64), 0, []))  # each piece for itself
        for ids in pieces
    ]
    values, states = (np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "embeddings"))
    sizes = np.array([len(ids) for ids in pieces])
    found = scorer.score(tokens)
    assert found.values is not None and found.embeddings is not None
    expected = values.max(0) if pool == "max" else (values * sizes[:, None]).sum(0) / sizes.sum()
    np.testing.assert_allclose(found.values[1], expected, **CLOSE)
    np.testing.assert_allclose(found.embeddings[1], (states * sizes[:, None]).sum(0) / sizes.sum(), **CLOSE)


def test_windows_that_overlap(models: dict[str, Path]) -> None:
    """Tokens in two windows count in both."""
    reading = Reading(model=str(models["bert"]), long="windows", overlap=20)
    text = " ".join(texts(9))
    scorer = Scorer(reading)
    tokens = scorer.encode([text, "a film"])
    ids = scorer.encoder.ids([text])[0]
    assert tokens.starts[:3] == [0, 42, 84] and tokens.ends[-2] == len(ids) and tokens.long == 1
    assert len(tokens.windows) == 2 + -(-(len(ids) - 62) // 42)
    values = scorer.score(tokens).values
    assert values is not None
    model = AutoModelForSequenceClassification.from_pretrained(models["bert"]).eval()
    with torch.inference_mode():
        each = [model(torch.tensor(window[None])).logits.softmax(-1)[0].numpy() for window in tokens.windows[:-1]]
    sizes = np.array([len(window) for window in tokens.windows[:-1]], float)
    np.testing.assert_allclose(values[0], sizes @ np.array(each) / sizes.sum(), **CLOSE)
    with pytest.raises(ValueError, match="overlap=20 is of windows: add --long windows"):
        Reading(model=str(models["bert"]), overlap=20)


def test_pool_by_hand() -> None:
    values, owner, sizes = np.array([[1.0], [4.0], [2.0], [0.0]]), np.array([0, 1, 1, 2]), np.array([5, 1, 3, 9])
    assert _pool(values, owner, sizes, "mean").tolist() == [[1.0], [2.5], [0.0]]
    assert _pool(values, owner, sizes, "max").tolist() == [[1.0], [4.0], [0.0]]


def test_batches_hold_every_row_once_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 300)
    found = batches(lengths, 2000)
    assert sorted(row for rows in found for row in rows) == list(range(300))
    assert all(len(rows) * lengths[rows].max() <= 2000 for rows in found)
    order = [lengths[row] for rows in found for row in rows]
    assert order == sorted(order, reverse=True)
    assert [len(rows) for rows in batches(np.array([9000, 10]), 2000)] == [1, 1]  # one that is too long is alone
    assert batches(np.array([], dtype=np.int64), 2000) == []


def test_models_that_cannot_be_used(models: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def changed(name: str, **fields: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for path in models["linformer"].iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))
        return folder

    folder = changed("headless")
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "out_proj" not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights.*classifier.out_proj"):
        load_network(Reading(model=str(folder)))
    with pytest.raises(ValueError, match="score takes classifiers, taggers, encoders"):
        load_network(Reading(model=str(changed("tokens", architectures=["LinformerForMultipleChoice"]))))
    with pytest.raises(ValueError, match="not each other's inverse"):
        load_network(Reading(model=str(changed("twins", id2label={"0": "a", "1": "a"}))))
    with pytest.raises(ValueError, match="max_length=65 is more than the 64 tokens"):
        load_network(Reading(model=str(models["bert"]), max_length=65))
    with pytest.raises(ValueError, match="no folder with a config.json"):
        Reading(model=str(tmp_path / "nothing"))
    folder = changed("pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_network(Reading(model=str(folder)))


def test_hash_follows_what_decides(models: dict[str, Path], tmp_path: Path) -> None:
    for path in models["encoder"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = hash_model(tmp_path)
    assert before == hash_model(models["encoder"])
    (tmp_path / "README.md").write_text("about it")
    assert hash_model(tmp_path) == before
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"pad_token_id": 1', '"pad_token_id": 2'))
    assert hash_model(tmp_path) != before
