"""Pretraining runs of a second, and processes that start and die fast enough to do it often."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
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


def train(recipe: dict[str, Any], **end: Any) -> None:
    """What a process runs; ends with the exit code of the command.

    Args:
        recipe: plain values.
        end: how the process ends before it is done; see ``end_early``.
    """
    import torch

    torch.set_num_threads(1)
    from linformers.commands.pretrain import run_recipe
    from linformers.training.recipe import Recipe

    end_early(**end)
    raise SystemExit(run_recipe(Recipe(**recipe)))


def end_early(
    *, die_at_flush: int | None = None, die_in_step: tuple[int, float] | None = None, stop_in_step: int | None = None
) -> None:
    """End this process by what it has done, not by the clock.

    Args:
        die_at_flush: SIGKILL itself when it writes the n-th file of its checkpoints to the disk.
        die_in_step: n and a share: SIGKILL itself within or soon after its n-th step, whatever it does then, when that
            share of the time that the step before took, with all that was written, has passed.
        stop_in_step: SIGTERM itself in its n-th step.
    """
    from linformers.files import folders
    from linformers.training.engine import Engine

    if die_at_flush is not None:
        count_calls(folders, "flush", die_at_flush, lambda last: kill(signal.SIGKILL))
    if die_in_step is not None:
        number, share = die_in_step
        count_calls(Engine, "_step", number, lambda last: threading.Timer(share * last, kill, [signal.SIGKILL]).start())
    if stop_in_step is not None:
        count_calls(Engine, "_step", stop_in_step, lambda last: kill(signal.SIGTERM))


def kill(number: int) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)


def count_calls(owner: Any, name: str, number: int, act: Callable[[float], object]) -> None:
    """Act before the n-th call of a function, which hears how many seconds ago the call before began."""
    function, calls = getattr(owner, name), [time.perf_counter()]

    def counting(*arguments: Any) -> Any:
        calls.append(time.perf_counter())
        if len(calls) == number + 1:
            act(calls[-1] - calls[-2])
        return function(*arguments)

    setattr(owner, name, counting)


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
