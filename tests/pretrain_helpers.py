"""Pretraining runs of a second, and processes that start and die fast enough to do it often."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

TINY = {
    "model": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "projected_dim": 4,
    },
    "data": {"length": 32, "evaluation_sequences": 8, "evaluation_share": 0.1},
    "tokenizer": {"vocab_size": 270},
    "training": {
        "steps": 12,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "evaluate_every": 6,
        "save_every": 3,
        "log_every": 2,
        "device": "cpu",
    },
    "output": {"report_to": "none"},
}


def write_text(folder: Path, characters: int = 60_000) -> Path:
    """Real text in a file, in documents of a few paragraphs."""
    from linformers.data.books import load_books

    path = folder / "text.txt"
    text = load_books(1)[0].text[:characters]
    path.write_text(text.replace("\n", "\n\n"), encoding="utf-8")
    return path


def tiny(work: Path, name: str = "run", **sections: dict[str, Any]) -> dict[str, Any]:
    """The tiny recipe on ``text.txt`` in a folder, with some keys changed."""
    merged = {section: {**keys, **sections.get(section, {})} for section, keys in TINY.items()}
    source = {"path": str(work / "text.txt"), "documents": "blank_line"}
    merged["data"] = {"train": [source], "cache": str(work / "cache"), **merged["data"]}
    merged["output"]["folder"] = str(work / name)
    return merged


def train(recipe: dict[str, Any], die_at_flush: int | None = None) -> None:
    """What a process runs; ends with the exit code of the command.

    Args:
        recipe: plain values.
        die_at_flush: SIGKILL itself when it writes the n-th file of its checkpoints to the disk.
    """
    import torch

    torch.set_num_threads(1)
    from linformers.commands.pretrain import run_recipe
    from linformers.training.recipe import Recipe

    if die_at_flush is not None:
        die_at(die_at_flush)
    raise SystemExit(run_recipe(Recipe(**recipe)))


def die_at(number: int) -> None:
    """SIGKILL this process when it writes the n-th file of its checkpoints to the disk."""
    from linformers.files import folders

    flush, left = folders.flush, [number]

    def dying(path: Path) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(path)

    folders.flush = dying


def processes() -> Any:
    """Makes processes that have the imports behind them: they are forked from one that did them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["linformers.commands.pretrain", "linformers.training.recipe"])
    return context


def exit_code(context: Any, recipe: dict[str, Any], target: Any = train, **options: Any) -> int:
    """Train in a process of its own."""
    process = context.Process(target=target, args=(recipe,), kwargs=options)
    process.start()
    process.join(300)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def fingerprint(folder: Path) -> dict[str, bytes]:
    """All that must not depend on kills: weights, optimiser, losses."""
    import json

    last = max(folder.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    results = json.loads((folder / "results.json").read_text())
    return {
        "weights": (last / "model.safetensors").read_bytes(),
        "optimiser": (last / "optimizer.safetensors").read_bytes(),
        "best": (folder / "model" / "model.safetensors").read_bytes(),
        "losses": json.dumps([results["losses"], results["evaluations"], results["best"]]).encode(),
    }
