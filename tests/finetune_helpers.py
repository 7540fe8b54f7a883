"""Models of a few thousand weights and labelled texts that they can learn, for fine-tuning runs of a second."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GOOD, BAD = ("good", "fine", "lovely", "bright"), ("bad", "poor", "dull", "grim")
PLAIN = (
    "the",
    "a",
    "film",
    "book",
    "day",
    "road",
    "of",
    "and",
    "was",
    "in",
    "it",
    "with",
    "some",
    "very",
    "old",
    "new",
)


def make_model(folder: Path, kind: str = "linformer", **fields: Any) -> Path:
    """A tokenizer and an encoder with random weights, saved; ``kind`` is ``linformer`` or ``bert``."""
    import torch
    from transformers import BertConfig, BertModel

    from linformers import LinformerConfig, LinformerModel
    from linformers.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(
        (" ".join((*GOOD, *BAD, *PLAIN)) for _ in range(9)), vocab_size=320, model_max_length=64
    )
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    shape |= {"vocab_size": len(tokenizer), "pad_token_id": 1, "max_position_embeddings": 64, **fields}
    torch.manual_seed(0)
    if kind == "bert":
        model = BertModel(BertConfig(**shape))
    else:
        model = LinformerModel(
            LinformerConfig(**{"projected_dim": 8, "local_window": 2, "norm_position": "pre", **shape})
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sentence(rng: random.Random, words: Sequence[str]) -> str:
    """Plain words with one that tells."""
    chosen = [rng.choice(PLAIN) for _ in range(rng.randint(3, 12))]
    chosen[rng.randrange(len(chosen))] = rng.choice(words)
    return " ".join(chosen)


def rows(count: int, seed: int = 0, labels: Sequence[Any] = ("bad", "good")) -> list[dict[str, Any]]:
    """As many of each of the two labels."""
    rng = random.Random(seed)
    return [{"text": sentence(rng, (BAD, GOOD)[i % 2]), "label": labels[i % 2]} for i in range(count)]


def write_jsonl(path: Path, found: Sequence[Any]) -> Path:
    """Rows as JSON lines; text is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in found]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny(work: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Settings of a run on ``rows.jsonl`` in a folder, with some changed."""
    settings = {
        "model": str(work / "encoder"),
        "task": str(work / "rows.jsonl"),
        "output": str(work / name),
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "evaluate_every": 6,
        "save_every": 4,
        "device": "cpu",
    }
    return {**settings, **changes}


def train(settings: dict[str, Any], **end: Any) -> None:
    """What a process runs; ends with the exit code of the command."""
    import torch
    from pretrain_helpers import end_early

    torch.set_num_threads(1)
    from linformers.classification.settings import FinetuneSettings
    from linformers.commands.finetune import run_finetune

    end_early(**end)
    raise SystemExit(run_finetune(FinetuneSettings(**settings)))
