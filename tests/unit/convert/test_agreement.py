"""Folders that say one thing twice, in two ways: refused by every door, both sides named."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from linformers.cli.main import run

WORDS = ["[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]", "good", "bad", "film"]


def save(folder: Path, words: list[str] = WORDS, **changes: Any) -> Path:
    """A classifier of two classes and eight words, whose config.json is then changed."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **sizes, **labels)
    BertForSequenceClassification(config).save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ("pad_token", "unk_token", "mask_token", "cls_token", "sep_token")
    PreTrainedTokenizerFast(tokenizer_object=backend, **dict(zip(names, WORDS, strict=False))).save_pretrained(
        str(folder)
    )
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


FACTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "labels": (
        {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}},
        ("classifier.", "shape (2", "but (3", "the 3 labels of id2label"),
    ),
    "inverse": ({"label2id": {"no": 0, "yes": 2}}, ("id2label={0: 'no', 1: 'yes'}", "label2id={'no': 0, 'yes': 2}")),
    "shape": ({"intermediate_size": 16}, ("shape (8", "but (16", "config.json")),
    "vocabulary": ({}, ("ids up to 8 ('more')", "vocab_size=8 in config.json")),
}


COMMANDS = ["convert", "score", "teacher", "spectrum", "advise", "distil", "calibrate"]
WITHOUT_HEAD = ("spectrum", "advise")


@pytest.mark.parametrize(
    ("command", "fact"),
    [(c, f) for c in COMMANDS for f in FACTS if c not in WITHOUT_HEAD or f not in ("labels", "inverse")],
)
def test_each_command_names_both(command: str, fact: str, tmp_path, monkeypatch, capsys) -> None:
    changes, said = FACTS[fact]
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "whole")
    save(tmp_path / "model", WORDS + ["more"] if fact == "vocabulary" else WORDS, **changes)
    lines = [{"text": " ".join(["good", "film"] * n), "label": ["no", "yes"][n % 2]} for n in range(1, 41)]
    Path("rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = {
        "convert": ["--output", "out"],
        "score": ["--input", "rows.jsonl", "--output", "out"],
        "teacher": ["--task", "rows.jsonl", "--output", "out", "--device", "cpu"],
        "spectrum": ["--texts", "rows.jsonl", "--length", "8", "--output", "out"],
        "advise": ["--texts", "rows.jsonl", "--length", "8", "--mean-dim", "2", "--output", "out"],
        "distil": ["--teacher", "whole", "--texts", "rows.jsonl", "--length", "8", "--output", "out"],
        "calibrate": ["--labelled", "rows.jsonl", "--target", "yes", "--precision", "0.9", "--output", "out"],
    }[command]
    name, models = (command, ["--model", "model"])
    if command == "teacher":
        name, models = "finetune", ["--model", "whole", "--teacher", "model"]
    if command == "teacher" and fact in ("labels", "vocabulary"):
        said = ("model",)  # other classes or words than the student's, which is said in the same way as ever
    assert run([name, *models, *options]) == 1
    error = capsys.readouterr().err
    for part in said:
        assert part in error, error
    assert "Traceback" not in error and "should not happen" not in error


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("BertForSequenceClassification", {"label2id": {"no": "0", "yes": "1"}}),  # as some files have it
        ("BertModel", {"label2id": {"other": 0}}),  # which nobody reads
    ],
)
def test_labels_that_agree_or_that_nobody_reads(architecture: str, changes: dict[str, Any], tmp_path) -> None:
    folder = save(tmp_path / "model", architectures=[architecture], **changes)
    assert run(["convert", "--model", str(folder), "--output", str(tmp_path / "out")]) == 0


def test_a_body_without_its_pooler_is_whole(tmp_path) -> None:
    model = BertModel(BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    model.pooler = None
    save(tmp_path / "words")
    model.save_pretrained(tmp_path / "words")
    output = ["--input", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out")]
    (tmp_path / "rows.jsonl").write_text('{"text": "good film"}\n')
    assert run(["score", "--model", str(tmp_path / "words"), *output]) == 0
