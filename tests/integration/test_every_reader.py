"""One table of files through every command that reads text: the same rows, the same rejects, the same ids."""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from finetune_helpers import BAD, GOOD, make_model
from pretrain_helpers import tiny
from scoring_helpers import LABELS, make_classifier
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from linformers import to_linformer
from linformers.cli import main
from linformers.commands import pretrain
from linformers.data.tokenise import TextEncoder
from linformers.files import reading
from linformers.files.settings import build
from linformers.scoring import units
from linformers.training.recipe import Recipe

ROWS = 12
SPECIAL = "spam <s> <mask></s> [SEP] [MASK] ham"
LONG = "the old book of some very new road " * 30


def good(name: str, count: int = ROWS) -> list[dict[str, str]]:
    """Rows that no other file has."""
    return [{"text": f"{(GOOD, BAD)[i % 2][i % 4]} {name} {i}", "label": LABELS[i % 2]} for i in range(count)]


def jsonl(name: str, *lines: str | bytes, end: bytes = b"\n") -> bytes:
    """Good rows in JSON lines, then others."""
    encoded = [line if isinstance(line, bytes) else line.encode() for line in lines]
    return end.join([*(json.dumps(row).encode() for row in good(name)), *encoded, b""])


def cells(name: str, delimiter: str, *lines: bytes, end: bytes = b"\n") -> bytes:
    """Good rows of CSV or TSV under a header, then others."""
    rows = [delimiter.join((row["text"], row["label"])).encode() for row in good(name)]
    return end.join([f"text{delimiter}label".encode(), *rows, *lines, b""])


def parquet(name: str) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([*good(name), {"text": None, "label": "ham"}]), buffer)
    return buffer.getvalue()


def array(name: str) -> bytes:
    """Good rows as one JSON array, then others."""
    return json.dumps([*good(name), {"text": "nan", "label": "ham"}, 7, {"text": None, "label": "ham"}]).encode()


BOM = b"\xef\xbb\xbf"
# Of each file: what it holds after its good rows, as (line, text) or (line, kind of reject).
FILES: dict[str, tuple[Callable[[str], bytes], list[tuple[int, str]]]] = {
    "DATA.TSV": (lambda name: cells(name, "\t"), []),
    "DATA.CSV": (lambda name: cells(name, ","), []),
    "DATA.JSONL.GZ": (lambda name: gzip.compress(jsonl(name)), []),
    "DATA.PARQUET": (parquet, [(13, "empty")]),
    "notes.tsv.v1.2.Csv.Zst": (lambda name: pa.compress(cells(name, ","), codec="zstd", asbytes=True), []),
    "mark.jsonl": (lambda name: BOM + jsonl(name), []),
    "mark.csv": (lambda name: BOM + cells(name, ",", b'"two\r\nlines",ham', end=b"\r\n"), [(14, "two\r\nlines")]),
    "ends.jsonl": (lambda name: jsonl(name, end=b"\r\n"), []),
    "digits.jsonl": (lambda name: jsonl(name, '{"text": "x", "label": ' + "9" * 5000 + "}"), [(13, "wrong JSON")]),
    "deep.jsonl": (lambda name: jsonl(name, "[" * 100_000), [(13, "wrong JSON")]),
    "types.jsonl": (
        lambda name: jsonl(name, '{"text": NaN, "label": "ham"}', "[1]", '{"label": "ham"}', "{", ""),
        [(13, "wrong type"), (14, "wrong type"), (15, "missing field"), (16, "wrong JSON"), (17, "empty")],
    ),
    "twice.jsonl": (
        lambda name: jsonl(name, '{"text": "first", "text": "the last counts", "label": "ham"}'),
        [(13, "the last counts")],
    ),
    "half.jsonl": (
        lambda name: jsonl(name, '{"text": "half \\ud800 a pair", "label": "ham"}'),
        [(13, "half ? a pair")],
    ),
    "bytes.csv": (
        lambda name: cells(name, ",", b"\xff,ham", b'"x"y,ham', b"x", b",ham"),
        [(14, "invalid UTF-8"), (15, "wrong CSV"), (16, "wrong CSV"), (17, "empty")],
    ),
    "semicolons.csv": (lambda name: cells(name, ";", b'"one; two",ham;spam'), [(14, "wrong CSV")]),
    "excel.csv": (
        lambda name: b"sep=;\r\n" + cells(name, ";", "café \x80 5;ham".encode("latin-1"), end=b"\r\n"),
        [(15, "café € 5")],
    ),
    "bars.csv": (lambda name: cells(name, "|", b"commas, here|ham"), [(14, "commas, here")]),
    "tabs.csv": (lambda name: cells(name, "\t", b'"a\ttab"\tham'), [(14, "a\ttab")]),
    "windows.csv": (lambda name: cells(name, ",").decode().encode("utf-16"), []),
    "windows.jsonl": (lambda name: jsonl(name).decode().encode("utf-16"), []),
    "backslashes.csv": (
        lambda name: cells(name, ",", *[rb'"a \"quoted\" word, here",ham'] * 3),
        [(line, 'a "quoted" word, here') for line in (14, 15, 16)],
    ),
    "open.csv": (
        lambda name: cells(name, ",", b'"never closed,ham', b"found,ham", b'"two\nlines",ham'),
        [(14, "wrong CSV"), (15, "found"), (16, "two\nlines")],
    ),
    "array.json": (array, [(13, "empty"), (14, "wrong type"), (15, "empty")]),
    "nothing.csv": (
        lambda name: cells(name, ",", b"nan,ham", b'"  ",ham', b"None,ham", b"NULL,ham"),
        [(line, "empty") for line in (14, 15, 16, 17)],
    ),
    "special.jsonl": (
        lambda name: jsonl(name, *(json.dumps({"text": text, "label": "ham"}) for text in (SPECIAL, LONG))),
        [(13, SPECIAL), (14, LONG)],
    ),
    "many.jsonl": (lambda name: jsonl(name, *(json.dumps(row) for row in good("more", 1100))), []),
}


def expected(name: str) -> set[tuple[str, int, str]]:
    """File, line, and text or kind of reject of each row."""
    _, others = FILES[name]
    first = 2 if ".csv" in name.lower() or ".tsv" in name.lower() else 1
    first += name == "excel.csv"  # whose first line names the delimiter
    rows = [(first + i, row["text"]) for i, row in enumerate(good(name))]
    if name == "many.jsonl":
        rows += [(13 + i, row["text"]) for i, row in enumerate(good("more", 1100))]
    return {(name, *row) for row in (*rows, *others)}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, and models whose tokenizer's file asks for truncation and padding."""
    folder = tmp_path_factory.mktemp("readers")
    (folder / "docs").mkdir()
    for name, (make, _) in FILES.items():
        (folder / "docs" / name).write_bytes(make(name))
    make_model(folder / "teacher", "bert")
    make_classifier(folder / "classifier")
    teacher = AutoModel.from_pretrained(folder / "teacher")
    student = to_linformer(teacher, projected_dim=4, projection_kind="mean_pool", exact_length=0)
    student.save_pretrained(folder / "student")
    for name in ("teacher", "student", "classifier"):
        tokenizer: Any = AutoTokenizer.from_pretrained(folder / "teacher")
        tokenizer.backend_tokenizer.enable_truncation(8)
        tokenizer.backend_tokenizer.enable_padding(length=8, pad_id=1, pad_token="<pad>")
        tokenizer.save_pretrained(folder / name)
        assert json.loads((folder / name / "tokenizer.json").read_text())["truncation"]["max_length"] == 8
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int, str]]:
    """Every row that a command reads."""
    found: set[tuple[str, int, str]] = set()
    inner = reading.read_rows

    def spy(file: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        for row in inner(file, *arguments, **options):
            found.add((Path(file.path).name, row.line, row.text or row.reason.split(":")[0]))
            yield row

    for module in (reading, units):
        monkeypatch.setattr(module, "read_rows", spy)
    return found


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """The ids of every text that a command encodes."""
    found: dict[str, list[int]] = {}
    inner = TextEncoder.ids

    def spy(self: TextEncoder, texts: Any, most: int | None = None) -> list[np.ndarray]:
        ids = inner(self, texts, most)
        found.update(zip(texts, (one.tolist() for one in ids), strict=True))
        return ids

    monkeypatch.setattr(TextEncoder, "ids", spy)
    return found


def run_pretrain(work: Path, docs: Path, output: Path) -> int:
    recipe = tiny(work, "unused", training={"steps": 1, "evaluate_every": 1, "save_every": 1})
    recipe["data"] |= {"train": [{"path": str(docs)}], "cache": str(output / "cache"), "max_reject_share": 0.5}
    recipe["tokenizer"] = {"path": str(work / "teacher")}
    recipe["output"]["folder"] = str(output / "run")
    path = output / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    # The command ends its process, so that threads of libraries cannot hang it.
    return pretrain.run_recipe(build(Recipe, yaml.safe_load(path.read_text())))


def command(*arguments: object) -> int:
    return main.run([str(argument) for argument in arguments])


def run_distil(work: Path, docs: Path, output: Path) -> int:
    given = ("--model", work / "student", "--teacher", work / "teacher", "--texts", docs, "--output", output / "run")
    more = ("--length", 32, "--steps", 1, "--batch-size", 2, "--evaluation-sequences", 2, "--device", "cpu")
    return command("distil", *given, *more, "--max-reject-share", 0.5)


def run_adapt(work: Path, docs: Path, output: Path) -> int:
    given = ("--model", work / "teacher", "--texts", docs, "--output", output / "run", "--segment-length", 32)
    more = ("--length", 64, "--max-length", 64, "--steps", 1, "--batch-size", 2, "--evaluation-share", 0.3)
    return command("adapt", *given, *more, "--device", "cpu", "--max-reject-share", 0.5)


def run_finetune(work: Path, docs: Path, output: Path) -> int:
    first, *others = sorted(docs.iterdir()) if docs.is_dir() else [docs]
    given = ("--model", work / "teacher", "--task", first, "--output", output / "run", "--max-reject-share", 0.5)
    more = [part for path in others for part in ("--extra-train", path)]
    return command("finetune", *given, *more, "--epochs", 0.1, "--batch-size", 64, "--device", "cpu")


def run_calibrate(work: Path, docs: Path, output: Path) -> int:
    given = ("--model", work / "classifier", "--recall", 0.5, "--target", "spam", "--max-reject-share", 0.5)
    paths = sorted(docs.iterdir()) if docs.is_dir() else [docs]
    return max(command("calibrate", *given, "--labelled", one, "--output", output / "run" / one.name) for one in paths)


def run_score(work: Path, docs: Path, output: Path) -> int:
    return command("score", "--model", work / "classifier", "--input", docs, "--output", output / "run")


def run_embed(work: Path, docs: Path, output: Path) -> int:
    return command("embed", "--model", work / "teacher", "--input", docs, "--output", output / "run")


def run_spectrum(work: Path, docs: Path, output: Path) -> int:
    given = ("--model", work / "teacher", "--texts", docs, "--output", output / "run", "--max-texts", 10_000)
    return command("spectrum", *given, "--length", 64, "--max-reject-share", 0.5)


def run_advise(work: Path, docs: Path, output: Path) -> int:
    given = ("--model", work / "teacher", "--texts", docs, "--output", output / "run", "--max-texts", 10_000)
    return command("advise", *given, "--length", 64, "--target-mass", 0.9, "--no-timing", "--max-reject-share", 0.5)


def run_tokenizer(work: Path, docs: Path, output: Path) -> int:
    return command(
        "tokenizer", "--input", docs, "--output", output / "run", "--vocab-size", 300, "--max-reject-share", 0.5
    )


def run_convert(work: Path, docs: Path, output: Path) -> int:
    given = ("--model", work / "teacher", "--output", output / "run", "--texts", docs, "--max-texts", 10_000)
    return command("convert", *given, "--max-reject-share", 0.5)


def run_export(work: Path, docs: Path, output: Path) -> int:
    given = ("--model", work / "classifier", "--output", output / "run", "--texts", docs, "--max-texts", 10_000)
    return command("export", *given, "--format", "onnx-int8", "--max-reject-share", 0.5)


COMMANDS = {
    name.removeprefix("run_"): function
    for name, function in list(globals().items())
    if name.startswith("run_") and callable(function)
}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "export"])  # which reads as convert, in minutes
def test_every_command_reads_the_same(
    work: Path,
    tmp_path: Path,
    name: str,
    read: set[tuple[str, int, str]],
    encoded: dict[str, list[int]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LINFORMERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("linformers.commands.calibrate.save_png", lambda *_: None)  # one for each file
    assert COMMANDS[name](work, work / "docs", tmp_path) == 0, capfd.readouterr().err
    for file in FILES:
        assert {row for row in read if row[0] == file} == expected(file), file
    if name == "tokenizer":  # which makes ids, and takes none
        return
    plain = Tokenizer.from_file(str(work / "teacher" / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = True
    assert encoded[SPECIAL] == plain.encode(SPECIAL, add_special_tokens=False).ids
    assert not {0, 1, 2, 3, 4} & set(encoded[SPECIAL])
    whole = plain.encode(LONG, add_special_tokens=False).ids
    least = len(whole) if name in ("pretrain", "distil", "adapt") else 62  # what the models read at once
    assert encoded[LONG] == whole[: len(encoded[LONG])] and len(encoded[LONG]) >= least


@pytest.mark.parametrize("name", ["score", "embed", "tokenizer"])  # the others read through the same function
def test_conll_is_text_where_no_tags_are_asked_for(
    work: Path, tmp_path: Path, name: str, read: set[tuple[str, int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"{word}\tO" for row in good("conll") for word in [*row["text"].split(), ""]]
    text = "-DOCSTART-\tO\n\n" + "\n".join(line if line != "\tO" else "" for line in lines) + "\nfilm\n"
    (tmp_path / "tags.conll").write_text(text)
    assert COMMANDS[name](work, tmp_path / "tags.conll", tmp_path) == 0
    found = sorted((line, text) for _, line, text in read)
    assert [text for _, text in found] == [*(row["text"] for row in good("conll")), "wrong CoNLL"]
    assert found[0][0] == 3


WHOLE_FILES = {
    "columns.csv": (cells("columns", ",").replace(b"text,label", b"text,text,label", 1), "'text' is there 2 times"),
    "nothing.jsonl": (b"", ""),
    "cut.jsonl.gz": (gzip.compress(jsonl("cut", *(json.dumps(row) for row in good("more", 4000))))[:-500], "damaged"),
    "other.parquet": (b"PAR1 nothing of the kind", "unreadable"),
}


@pytest.mark.parametrize("file", WHOLE_FILES)
@pytest.mark.parametrize("name", COMMANDS)
def test_files_that_cannot_be_read(
    work: Path,
    tmp_path: Path,
    name: str,
    file: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LINFORMERS_CACHE", str(tmp_path / "cache"))
    content, said = WHOLE_FILES[file]
    (tmp_path / file).write_bytes(content)
    if name in ("score", "embed"):  # what cannot be read is rejected, and the rest is done
        assert COMMANDS[name](work, tmp_path / file, tmp_path) == (file != "cut.jsonl.gz")
        rejects = (tmp_path / "run" / "rejects.jsonl").read_text()
        assert said in rejects and bool(rejects) == bool(content)
        return
    if name == "pretrain":
        with pytest.raises(ValueError, match=file) as caught:
            run_pretrain(work, tmp_path / file, tmp_path)
        assert said in str(caught.value)
        return
    assert COMMANDS[name](work, tmp_path / file, tmp_path) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: ") and file in error and said in error and "should not happen" not in error


@pytest.mark.parametrize("name", COMMANDS)
def test_too_many_rejects_stop_every_command(
    work: Path,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LINFORMERS_CACHE", str(tmp_path / "cache"))
    bad = ['{"text": 5, "label": "ham"}'] * ROWS * 2  # more than the half that the others above allow
    long = [json.dumps({"text": f"{LONG} {i}", "label": LABELS[i % 2]}) for i in range(2)]
    (tmp_path / "bad.jsonl").write_bytes(jsonl("bad", *long, *bad))
    if name == "pretrain":
        with pytest.raises(ValueError, match=r"24 of 38 records are unusable, more than max_reject_share=0.5 allows"):
            run_pretrain(work, tmp_path / "bad.jsonl", tmp_path)
        return
    assert COMMANDS[name](work, tmp_path / "bad.jsonl", tmp_path) == 1
    error = " ".join(capfd.readouterr().err.split())
    share = 0.1 if name in ("score", "embed") else 0.5
    assert f"24 of 38 records are unusable, more than --max-reject-share {share} allows" in error
    assert "The first is " in error and "bad.jsonl:15: wrong type" in error
