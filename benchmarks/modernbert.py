"""A natively long encoder with rotary positions, pretrained with softmax attention, then made linear by one line.

    python benchmarks/modernbert.py [--minutes 50] [--folder runs/modernbert] [--data DIR]

A small ModernBERT (4 layers of 256, every second one global, the others over 64 tokens each side) learns to predict
masked tokens of Project Gutenberg's books, first on 256 tokens, for the last third of the time on 2,048. Then it reads
2,048 and 8,192 tokens of books it has not seen, by its own softmax attention and by ``attn_implementation=
"linformers"`` without training: cosine of the last hidden states and of their means, perplexity of the masked tokens,
and time. Controls: global layers that see a window of 64 tokens each side alone (the same weights), and texts cut into
chunks of 512. A model that is in the folder is not trained again.

Its training ends by the clock, and its lengths change on the way. ``training/engine.py`` counts steps, so the loop of
20 lines here is shorter than a recipe, an objective and a count of steps from a trial would be.

Writes results/modernbert-small.csv. The shape of ModernBERT-base with random weights is timed by
``python benchmarks/modernbert.py --base``, into results/modernbert-base-speed.csv.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from result_files import write_csv
from rich.console import Console
from torch import Tensor
from transformers import AutoTokenizer, ModernBertConfig, ModernBertForMaskedLM

import linformers
from linformers.data.masking import IGNORED, Masking
from linformers.data.tokenizer import train_tokenizer

VOCABULARY, SHORT, LONG = 2048, 256, 2048
LENGTHS = (2048, 8192)
TOKENS = 4096  # of a training step
WAYS: dict[str, dict[str, Any]] = {
    "128 slots": {"exact_length": 0},
    "256 slots": {"exact_length": 0, "projected_dim": 256},
    "128 slots, window 16": {"exact_length": 0, "local_window": 16},
    "defaults": {},
}


def books(data: Path, part: str) -> list[str]:
    """Texts of a part of the books."""
    return pq.read_table(data / f"gutenberg_{part}.parquet").column("text").to_pylist()


def mask(masking: Masking, ids: Tensor, *key: int) -> tuple[Tensor, Tensor]:
    """Texts of one length, masked, and their labels."""
    rows = [masking(row.numpy(), (*key, number)) for number, row in enumerate(ids)]
    shown, labels = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
    return shown, labels


def pretrain(folder: Path, data: Path, minutes: float, console: Console) -> None:
    """Train the model for so many minutes, and save it."""
    texts = books(data, "train")
    tokenizer = train_tokenizer(texts, vocab_size=VOCABULARY, model_max_length=max(LENGTHS))
    masking = Masking.for_tokenizer(tokenizer)
    stream = torch.from_numpy(np.concatenate([np.array(tokenizer(t)["input_ids"], np.int64) for t in texts]))
    console.print(f"{len(stream):,} tokens of {len(texts)} books")
    torch.manual_seed(0)
    model = ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            global_attn_every_n_layers=2,
            local_attention=128,
            max_position_embeddings=max(LENGTHS),
            sparse_prediction=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            cls_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.eos_token_id,
            sep_token_id=tokenizer.sep_token_id,
        )
    ).train()
    console.print(f"{model.num_parameters():,} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.98))
    draws, started, step, losses = torch.Generator().manual_seed(1), time.perf_counter(), 0, list[float]()
    while (share := (time.perf_counter() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 200) * max(0.02, 1 - share)
        length = SHORT if share < 2 / 3 else LONG
        starts = torch.randint(len(stream) - length, (TOKENS // length,), generator=draws)
        ids, labels = mask(masking, torch.stack([stream[i : i + length] for i in starts.tolist()]), step)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        step += 1
        if step % 100 == 0:
            console.print(f"step {step}, {length} tokens, {share:.0%}: loss {statistics.fmean(losses[-50:]):.3f}")
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    facts = {"minutes": minutes, "steps": step, "tokens": step * TOKENS, "loss": statistics.fmean(losses[-50:])}
    (folder / "training.json").write_text(json.dumps(facts))


def windowed(model: Any) -> Any:
    """The control: global layers see no more than the others do, with their own weights and rotations."""

    def narrow(layer: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        at = torch.arange(inputs[0].shape[1])
        near = (at[:, None] - at).abs() <= model.config.sliding_window
        return inputs, {**options, "attention_mask": near[None, None]}

    for layer in model.model.layers:
        if layer.attention_type == "full_attention":
            layer.register_forward_pre_hook(narrow, with_kwargs=True)
    return model


@torch.inference_mode()
def read(model: Any, ids: Tensor, labels: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """Last hidden states and the losses of masked tokens of one text."""
    parts = [ids] if chunk is None else list(ids.split(chunk, dim=1))
    states = torch.cat([model.model(input_ids=part).last_hidden_state for part in parts], dim=1)
    at = labels != IGNORED
    logits = model.decoder(model.head(states[at]))
    return states[0], torch.nn.functional.cross_entropy(logits, labels[at], reduction="none")


def compare(folder: Path, data: Path, texts: int, console: Console) -> list[dict[str, Any]]:
    """Softmax attention against slots, without training."""

    def load(implementation: str, **settings: Any) -> Any:
        model = ModernBertForMaskedLM.from_pretrained(folder, attn_implementation=implementation).eval()
        return linformers.configure(model, **settings) if settings else model

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    masking = Masking.for_tokenizer(tokenizer)
    stream = [torch.tensor(tokenizer(text)["input_ids"]) for text in books(data, "test")]
    teacher = load("sdpa")
    readers: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
        "softmax": lambda ids, labels: read(teacher, ids, labels)
    }
    for name, settings in WAYS.items():
        student = load("linformers", **settings)
        readers[name] = lambda ids, labels, student=student: read(student, ids, labels)
    control = windowed(load("sdpa"))
    readers["window of 64 in all layers"] = lambda ids, labels: read(control, ids, labels)
    readers["chunks of 512"] = lambda ids, labels: read(teacher, ids, labels, 512)
    rows = []
    for length in LENGTHS:
        pieces = [part for ids in stream for part in ids.split(length) if len(part) == length]
        chosen = [pieces[i] for i in np.linspace(0, len(pieces) - 1, min(texts, len(pieces))).astype(int)]
        sums: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
        losses: dict[str, list[Tensor]] = {name: [] for name in readers}
        times: dict[str, list[float]] = {name: [] for name in readers}
        for number, ids in enumerate(chosen):
            shown, labels = mask(masking, ids[None], number)
            expected = None
            for name, reader in readers.items():
                start = time.perf_counter()
                states, loss = reader(shown, labels)
                times[name].append(time.perf_counter() - start)
                expected = states if expected is None else expected
                hidden = torch.cosine_similarity(states, expected, dim=-1).mean().item()
                mean = torch.cosine_similarity(states.mean(0), expected.mean(0), dim=0).item()
                sums[name].append((hidden, mean))
                losses[name].append(loss)
        softmax = times["softmax"]
        for name in readers:
            ratios = [a / b for a, b in zip(softmax, times[name], strict=True)]
            rows.append(
                {
                    "tokens": length,
                    "attention": name,
                    "texts": len(chosen),
                    "hidden cosine": round(statistics.fmean(one[0] for one in sums[name]), 4),
                    "mean cosine": round(statistics.fmean(one[1] for one in sums[name]), 4),
                    "perplexity": round(math.exp(torch.cat(losses[name]).mean().item()), 3),
                    "seconds": round(statistics.median(times[name]), 4),
                    "x softmax": round(statistics.median(ratios), 2),
                }
            )
            console.print(rows[-1])
    return rows


def time_base(lengths: list[int], rounds: int, console: Console) -> list[dict[str, Any]]:
    """ModernBERT-base's shape (22 layers of 768, every third one global), random weights, one text."""
    rows = []
    for length in lengths:
        models = {}
        for name in ("sdpa", "linformers"):
            torch.manual_seed(0)
            models[name] = ModernBertForMaskedLM._from_config(ModernBertConfig(), attn_implementation=name).model.eval()
        ids = torch.randint(10, 50000, (1, length), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            for model in models.values():
                model(input_ids=ids[:, :128])
            times: dict[str, list[float]] = {name: [] for name in models}
            for _ in range(rounds):
                for name, model in models.items():
                    start = time.perf_counter()
                    model(input_ids=ids)
                    times[name].append(time.perf_counter() - start)
        ratio = statistics.median(a / b for a, b in zip(times["sdpa"], times["linformers"], strict=True))
        for name in models:
            row = {"tokens": length, "attention": name, "seconds": round(statistics.median(times[name]), 3)}
            rows.append(row | {"x sdpa": round(ratio, 2) if name == "linformers" else 1.0})
        console.print(rows[-2:])
    return rows


def main() -> None:
    """Train, compare, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=50, help="of training")
    parser.add_argument("--folder", type=Path, default=Path("runs/modernbert"), help="of the model")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of gutenberg_*.parquet")
    parser.add_argument("--texts", type=int, default=32, help="texts of each length")
    parser.add_argument("--base", action="store_true", help="time the shape of ModernBERT-base")
    parser.add_argument("--rounds", type=int, default=3, help="of --base")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 8192], help="of --base")
    arguments = parser.parse_args()
    console, results = Console(), Path(__file__).parents[1] / "results"
    if arguments.base:
        rows = time_base(arguments.lengths, arguments.rounds, console)
        write_csv(results / "modernbert-base-speed.csv", rows, console, notes=["one text, medians of rounds"])
        return
    if not (arguments.folder / "config.json").is_file():
        pretrain(arguments.folder, arguments.data, arguments.minutes, console)
    rows = compare(arguments.folder, arguments.data, arguments.texts, console)
    training = json.loads((arguments.folder / "training.json").read_text())
    notes = [f"training: {training}", "cosines to softmax attention at full length; perplexity of masked tokens"]
    write_csv(results / "modernbert-small.csv", rows, console, notes=notes)


if __name__ == "__main__":
    main()
