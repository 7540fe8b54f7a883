"""A thousand damaged files through what `finetune` and `pretrain` read: counts add up, and nothing else is trained on.

A file that cannot be read to its end stops a training run, which names it; so a person takes it away, and so does this
test. The rows of all others are those that `score` finds, each used or rejected with its reason.
"""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from finetune_helpers import make_model
from finetune_helpers import tiny as tiny_finetune
from pretrain_helpers import tiny as tiny_pretrain
from rich.console import Console
from scoring_helpers import damaged, make_classifier, read_scores, score
from transformers import AutoTokenizer

from linformers.classification.settings import FinetuneSettings
from linformers.commands.finetune import run_finetune
from linformers.commands.pretrain import run_recipe
from linformers.data.cache import TokenCache
from linformers.data.documents import read_documents
from linformers.data.examples import Columns, read_examples
from linformers.files.rejects import Rejects
from linformers.files.sources import Source
from linformers.training.recipe import Recipe

pytestmark = pytest.mark.slow

FILES = 1000
COLUMNS = Columns(text="text", label="label")  # of a damaged header another column might be taken


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    make_classifier(folder / "classifier")
    make_model(folder / "encoder", "bert")
    (folder / "docs").mkdir()
    rng = random.Random(0)
    for number in range(FILES):
        damaged(rng, folder / "docs", number, labelled=True)
    return folder


@pytest.fixture(scope="module")
def scored(work: Path) -> Counter[str]:
    """Rows of each file, as `score` finds them; of those that it cannot read to the end, none."""
    given = {"model": str(work / "classifier"), "input": (str(work / "docs"),), "output": str(work / "scores")}
    score({**given, "max_reject_share": 1.0})
    rows = Counter(Path(row["file"]).name for row in read_scores(work / "scores"))
    broken = set()
    for line in (work / "scores" / "rejects.jsonl").read_text().split("\n")[:-1]:
        entry = json.loads(line)
        name = Path(entry["file"]).name
        rows[name] += entry.get("rows", 1)
        if entry["reason"].startswith("unreadable"):
            broken.add(name)
    return Counter({name: count for name, count in rows.items() if name not in broken})


def rejects_of(path: Path) -> Counter[str]:
    entries = [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.is_file() else []
    assert all(entry["reason"] and entry["line"] >= 1 for entry in entries)
    return Counter(Path(entry["file"]).name for entry in entries)


def source(path: Path) -> Source:
    return Source(path=str(path), text_column="text")


def sound(work: Path, read: Any) -> tuple[list[Path], list[Path]]:
    """Files that a reader takes, and those that it refuses; the error names the file."""
    taken, refused = [], []
    for path in sorted((work / "docs").iterdir()):
        rejects = Rejects(max_share=1.0)
        try:
            documents = read(path, rejects)
        except (ValueError, OSError) as error:
            assert str(path) in str(error), error
            refused.append(path)
        else:
            assert documents == rejects.documents
            taken.append(path)
    return taken, refused


def test_pretraining(work: Path, scored: Counter[str]) -> None:
    def read(path: Path, rejects: Rejects) -> int:
        return sum(bool(document.text.strip()) for document in read_documents([source(path)], rejects))

    taken, refused = sound(work, read)
    folder = work / "pretraining"
    folder.mkdir()
    for path in taken:
        (folder / path.name).hardlink_to(path)
    recipe = tiny_pretrain(work, "pretrained", training={"steps": 2, "evaluate_every": 2, "save_every": 2})
    recipe["data"] |= {"train": [{"path": str(folder), "text_column": "text"}], "max_reject_share": 0.99}
    assert run_recipe(Recipe(**recipe)) == 0
    (cache,) = (TokenCache.open(path.parent) for path in (work / "cache").glob("*/cache.json"))
    rejected = rejects_of(cache.folder / "rejects.jsonl")
    facts = cache.facts
    assert facts["rejected"] == rejected.total()
    assert facts["documents"] + facts["rejected"] == sum(scored[path.name] for path in taken)

    # What is trained on is what was read, and that each document of it.
    rejects = Rejects(max_share=1.0)
    tokenizer: Any = AutoTokenizer.from_pretrained(work / "pretrained" / "tokenizer")
    texts = [document.text for document in read_documents([source(folder)], rejects)]
    trained = [
        tokenizer.decode(cache.tokens[begin : end - 1], clean_up_tokenization_spaces=False)
        for begin, end in zip(cache.offsets, cache.offsets[1:], strict=False)
    ]
    assert len(trained) == facts["documents"] and trained == texts
    assert all(text.strip() for text in texts)
    print(
        f"pretrain: {len(taken)} of {FILES} files read, {len(refused)} refused by name; "
        f"{facts['documents']:,} documents + {facts['rejected']:,} rejected = {rejects.records:,} rows: "
        f"{facts['reasons']}"
    )


def test_finetuning(work: Path, scored: Counter[str]) -> None:
    taken, refused = sound(work, lambda path, rejects: len(read_examples(path, COLUMNS, rejects)))
    first, *others = taken
    changes: dict[str, Any] = {"task": str(first), "extra_train": tuple(map(str, others)), "max_reject_share": 0.99}
    changes |= {"text": "text", "label": "label"}
    settings = FinetuneSettings(**tiny_finetune(work, "tuned", epochs=0.05, validation_size=0.2, **changes))
    assert run_finetune(settings, console=Console(quiet=True)) == 0
    run = work / "tuned"
    rejected, used = rejects_of(run / "rejects.jsonl"), Counter()
    for files in json.loads((run / "splits.json").read_text()).values():
        for file, lines in files.items():
            used[Path(file).name] += len(set(lines))
    for path in taken:
        assert used[path.name] + rejected[path.name] == scored[path.name], path.name
    results = json.loads((run / "results.json").read_text())
    assert sum(part["rows"] for part in results["parts"].values()) == used.total()
    assert sum(results["left_out"].values()) == rejected.total()
    print(
        f"finetune: {len(taken)} of {FILES} files read, {len(refused)} refused by name; "
        f"{used.total():,} rows used + {rejected.total():,} rejected or left out = {(used + rejected).total():,} rows: "
        f"{results['left_out']}"
    )
