"""What the smoke scale runs on: excerpts of the shipped books, a labelled file made of them, and a random encoder."""

import json
from pathlib import Path

from linformers.data.books import load_books
from linformers.files.folders import write_file, write_folder

WORDS, CHARACTERS = 40, 120_000
TRAIN, TEST = 96, 48  # rows of the task
NOTE = (
    "smoke: excerpts of the shipped books stand for the corpora, a task made of them (which of two books is a passage "
    "of 40 words from?) for the data sets, and an encoder with random weights for the pretrained one; every part runs, "
    "nothing is learned"
)


def write_excerpt(path: Path) -> Path:
    """Some pages of text, a document a line."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = load_books(1)[0].text[:CHARACTERS].splitlines()
        rows = [" ".join(lines[start : start + 12]) for start in range(0, len(lines), 12)]
        write_file(path, "".join(json.dumps({"text": row}) + "\n" for row in rows if row.strip()))
    return path


def write_task(folder: Path) -> tuple[Path, Path]:
    """Files with training and test rows: passages of two books, and which one they are from."""
    paths = folder / "books-train.jsonl", folder / "books-test.jsonl"
    if not all(path.is_file() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        books = [(book.title, book.text.split()) for book in load_books(2)]
        rows = [
            json.dumps({"text": " ".join(words[start : start + WORDS]), "label": title})
            for start in range(4000, 4000 + WORDS * (TRAIN + TEST) // 2, WORDS)
            for title, words in books
        ]
        for path, part in zip(paths, (rows[:TRAIN], rows[TRAIN:]), strict=True):
            write_file(path, "\n".join(part) + "\n")
    return paths


def make_encoder(folder: Path) -> Path:
    """A BERT of two layers with random weights, and a tokenizer of letters."""
    if not (folder / "model.safetensors").is_file():
        import torch
        from transformers import BertConfig, BertModel

        from linformers.data.tokenizer import train_tokenizer

        text = load_books(1)[0].text[:CHARACTERS]
        tokenizer = train_tokenizer([text], vocab_size=400, model_max_length=128)
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=128,
            pad_token_id=1,
            initializer_range=0.2,  # for attention that is not the same everywhere
        )

        def write(target: Path) -> None:
            tokenizer.save_pretrained(target)
            BertModel(config).save_pretrained(target)

        write_folder(folder, write)
    return folder
