"""What the quickstart trains: a Linformer beside a Transformer and a control, on the same batches of books.

Each part is a function of ``linformers.data``, ``training`` or ``measure`` that other commands use as well.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerFast, set_seed

from linformers.classification.baselines import majority_accuracy, tfidf_accuracy
from linformers.classification.model import start_head
from linformers.data.books import Book, load_books
from linformers.data.masking import Masking
from linformers.data.packing import pack
from linformers.data.passages import cut_passages
from linformers.data.regions import split_regions
from linformers.data.streams import LabelledPassages, MaskedBlocks, collate
from linformers.data.tokenise import TextEncoder
from linformers.data.tokenizer import SPECIAL_TOKENS, train_tokenizer
from linformers.files.folders import write_folder
from linformers.measure.sweep import measure
from linformers.models import LinformerConfig, LinformerForMaskedLM, LinformerForSequenceClassification
from linformers.report import words
from linformers.training.corpus import curriculum
from linformers.training.engine import Batches, Engine, Objective
from linformers.training.evaluate import predict, wilson_interval
from linformers.training.masked_lm import MaskedLM
from linformers.training.processes import Layout, step_batches
from linformers.training.recipe import Stage, TrainingRecipe
from linformers.training.watchers import TrainProgress

if TYPE_CHECKING:
    from linformers.commands.quickstart import QuickstartScale

ENDS = {"bos_token_id": SPECIAL_TOKENS.index("<s>"), "eos_token_id": SPECIAL_TOKENS.index("</s>")}
# How the models are trained, beside what a scale decides.
COMMON: dict[str, Any] = {"schedule": "cosine", "warmup_share": 0.1, "epsilon": 1e-8, "log_every": 10}
# Name, label and attention of the three models; nothing else differs between them.
MODELS = (
    ("linformer", "Linformer", "linformer"),
    ("transformer", "Transformer", "softmax"),
    ("control", "no attention", "none"),
)


@dataclass(frozen=True, kw_only=True)
class BookCorpus:
    """The books as token ids: for each book its training regions and its held-out regions."""

    books: list[Book]
    tokenizer: PreTrainedTokenizerFast
    train: list[list[np.ndarray]]
    held_out: list[list[np.ndarray]]


def read_corpus(scale: "QuickstartScale") -> BookCorpus:
    """Cut the books into regions and train a tokenizer on the training ones."""
    books = load_books(scale.books)
    regions = [split_regions(book.text) for book in books]
    tokenizer = train_tokenizer(
        (text for train, _ in regions for text in train),
        vocab_size=scale.vocab_size,
        model_max_length=scale.max_length,
    )
    encoder = TextEncoder(tokenizer)
    return BookCorpus(
        books=books,
        tokenizer=tokenizer,
        train=[encoder.ids(train) for train, _ in regions],
        held_out=[encoder.ids(held_out) for _, held_out in regions],
    )


def model_config(scale: "QuickstartScale", attention: str, vocab_size: int, max_length: int) -> LinformerConfig:
    """The common shape with one kind of attention."""
    return LinformerConfig(
        vocab_size=vocab_size,
        hidden_size=scale.hidden_size,
        num_hidden_layers=scale.num_hidden_layers,
        num_attention_heads=scale.num_attention_heads,
        intermediate_size=scale.intermediate_size,
        # A run this short never sees a text twice, so there is nothing for dropout to prevent.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=max_length,
        initializer_range=scale.initializer_range,
        norm_position="pre",
        classifier_pooling="mean",
        attention_type=attention,
        projected_dim=scale.projected_dim,
        projection_kind=scale.projection_kind,
        local_window=scale.local_window if attention == "linformer" else 0,
    )


def pretrain_models(
    scale: "QuickstartScale", corpus: BookCorpus, seed: int, work: Path, device: torch.device, console: Console
) -> list[dict[str, Any]]:
    """Pretrain the three models on the same batches; the Linformer is saved as ``pretrained``."""
    layout, tokenizer, longest = Layout(device=device), corpus.tokenizer, max(length for length, _ in scale.stages)
    training = TrainingRecipe(
        steps=scale.pretrain_steps,
        batch_size=scale.tokens_per_step // longest,
        learning_rate=scale.learning_rate,
        seed=seed,
        **COMMON,
    )
    masking = Masking.for_tokenizer(tokenizer)
    regions = [region for regions in corpus.train for region in regions]
    train = curriculum(
        [Stage(length=length, share=share) for length, share in scale.stages],
        training,
        longest,
        lambda length, total, seed: MaskedBlocks(pack(regions, length=length, **ENDS), masking, seed=seed, total=total),
    )
    held_out = [region for regions in corpus.held_out for region in regions]
    tests = {}
    for length in scale.eval_lengths:
        blocks = pack(held_out, length=length, **ENDS)
        chosen = np.random.default_rng(seed).permutation(len(blocks))[: scale.eval_tokens // length]
        tests[length] = MaskedLM(MaskedBlocks(blocks[chosen], masking, seed=seed), collate, 16384 // length, layout)

    runs = []
    for name, label, attention in MODELS:
        set_seed(seed)  # models of the same shape start alike
        model = LinformerForMaskedLM(model_config(scale, attention, len(tokenizer), scale.max_length))
        history = Engine(
            model,
            MaskedLM(None, collate, 1, layout),
            training,
            Batches(train, step_batches(training, layout), collate),
            layout=layout,
            watchers=[TrainProgress(console, f"  {label}", scale.tokens_per_step)],
        ).train()
        tokens = scale.pretrain_steps * scale.tokens_per_step
        run = {
            "name": name,
            "label": label,
            "attention_type": attention,
            "parameters": model.num_parameters(),
            "perplexity": [(length, test.measure(model)["perplexity"]) for length, test in tests.items()],
            "losses": history.losses,
            "seconds": history.seconds,
            "tokens": tokens,
            "tokens_per_second": tokens / history.seconds,
        }
        runs.append(run)
        console.print(
            f"  {label}: held-out perplexity {words.perplexity(run):.1f} after {words.seconds(run['seconds'])}"
        )
        if name == "linformer":
            save(model, tokenizer, work / "pretrained")
    return runs


def tell_books_apart(
    scale: "QuickstartScale", corpus: BookCorpus, seed: int, work: Path, device: torch.device, console: Console
) -> dict[str, Any]:
    """Fine-tune the pretrained Linformer on the passage task; it is saved as ``model``."""
    layout, tokenizer, length = Layout(device=device), corpus.tokenizer, scale.passage_length
    train, train_labels = cut_passages(corpus.train, length=length, **ENDS)
    test, test_labels = cut_passages(corpus.held_out, length=length, **ENDS)
    titles = [book.title for book in corpus.books]
    training = TrainingRecipe(
        steps=scale.finetune_steps,
        batch_size=scale.finetune_batch_size,
        learning_rate=scale.finetune_learning_rate,
        seed=seed,
        **COMMON,
    )
    set_seed(seed)
    model = LinformerForSequenceClassification.from_pretrained(
        work / "pretrained",
        id2label=dict(enumerate(titles)),
        label2id={title: book for book, title in enumerate(titles)},
    )
    start_head(model, train[np.random.default_rng(seed).permutation(len(train))[: scale.head_passages]])
    draws = scale.finetune_steps * scale.finetune_batch_size
    data = LabelledPassages(train, train_labels, seed=seed, total=draws)
    history = Engine(
        model,
        Objective(),
        training,
        Batches(data, step_batches(training, layout), collate),
        layout=layout,
        rates={"classifier.": scale.head_learning_rate},
        watchers=[TrainProgress(console, "  Linformer on passages", scale.finetune_batch_size * length)],
    ).train()
    save(model, tokenizer, work / "model")
    shares = predict(model, test)
    guesses = shares.argmax(axis=1)
    right = int((guesses == test_labels).sum())
    texts, test_texts = (tokenizer.batch_decode(ids, skip_special_tokens=True) for ids in (train, test))
    drawn = np.random.default_rng(seed).choice(len(test), size=3, replace=False)
    return {
        "tokens": length,
        "train": len(train),
        "held_out": len(test),
        "seconds": history.seconds,
        "losses": history.losses,
        "accuracy": {
            "linformer": right / len(test),
            "majority": majority_accuracy(train_labels, test_labels),
            "tfidf": tfidf_accuracy(texts, train_labels, test_texts, test_labels),
        },
        "interval": wilson_interval(right, len(test)),
        "by_book": [
            (int((guesses[test_labels == book] == book).sum()), int((test_labels == book).sum()))
            for book in range(len(titles))
        ],
        "examples": [
            {
                "text": shorten(test_texts[number]),
                "book": titles[test_labels[number]],
                "guesses": [(titles[book], float(shares[number, book])) for book in np.argsort(-shares[number])[:3]],
            }
            for number in drawn
        ],
    }


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a model with its tokenizer."""

    def write(target: Path) -> None:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    write_folder(folder, write)


def shorten(text: str, length: int = 280) -> str:
    """The beginning of a passage, from the first whole word to the last."""
    start = text.index(" ") + 1 if " " in text[:40] else 0
    return "… " + " ".join(text[start : start + length].split()[:-1]) + " …"


def measure_cost(
    scale: "QuickstartScale", vocab_size: int, seed: int, device: torch.device, console: Console
) -> dict[str, Any]:
    """Time and peak memory of a forward pass of the Linformer and the Transformer, at each length."""
    longest = max(scale.lengths)
    configs = {
        name: model_config(scale, attention, vocab_size, longest).to_diff_dict()
        for name, _, attention in MODELS
        if name != "control"
    }
    for config in configs.values():
        config.pop("transformers_version", None)
    cells = measure(
        configs,
        scale.lengths,
        device=device.type,
        repeats=scale.repeats,
        total_seconds=scale.cost_seconds,
        seed=seed,
        on_cell=lambda cell: console.print(f"  {cell.name}, {cell.length:,} tokens: {words.seconds(cell.seconds)}"),
    )
    return {"device": "the GPU" if device.type == "cuda" else "the CPU", "cells": [asdict(cell) for cell in cells]}
