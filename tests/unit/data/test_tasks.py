"""Tasks: columns, kinds, bad rows, conflicts, leaks and splits, and the layouts of the named ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linformers.data.examples import Columns, choose_columns
from linformers.data.tasks import TASKS, Task, TaskSources, prepare_task, splits_json
from linformers.data.tasks_rules import draw
from linformers.files.rejects import Rejects


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def some(count: int = 40, label: Any = lambda i: "ab"[i % 2]) -> list[dict[str, Any]]:
    return [{"text": f"text number {i}", "label": label(i)} for i in range(count)]


def prepare(task: str, max_share: float = 0.5, **options: Any) -> tuple[Task, Rejects]:
    rejects = Rejects(max_share=max_share)
    return prepare_task(TaskSources(task=task, **options), rejects), rejects


@pytest.mark.parametrize(
    ("there", "asked", "expected"),
    [
        (["text", "label"], {}, ("text", None, "label")),
        (["idx", "sentence", "label"], {}, ("sentence", None, "label")),
        (["review", "stars"], {}, ("review", None, "stars")),
        (["question", "sentence", "label"], {}, ("question", "sentence", "label")),
        (["id", "question1", "question2", "is_duplicate"], {}, ("question1", "question2", "is_duplicate")),
        (["words", "label"], {}, ("words", None, "label")),
        (["question", "sentence", "label"], {"text": "sentence"}, ("sentence", None, "label")),
        (["text", "more", "genre"], {"pair": "more", "label": "genre"}, ("text", "more", "genre")),
    ],
)
def test_columns_are_found(there: list[str], asked: dict[str, str], expected: tuple[Any, ...]) -> None:
    assert choose_columns(there, Columns(**asked), "here").names == expected


@pytest.mark.parametrize(
    ("there", "asked", "message"),
    [
        (["text", "label"], {"label": "labl"}, "label='labl' is no column of it; columns: text, label. Did you mean"),
        (["text", "genre"], {}, "cannot tell which column holds the label; give --label"),
        (["one", "two", "label"], {}, "cannot tell which column holds the text; give --text"),
    ],
)
def test_columns_that_are_not_there(there: list[str], asked: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_columns(there, Columns(**asked), "here")


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        (["b", "a"], "single_label", ["a", "b"]),
        ([10, 9], "single_label", ["9", "10"]),
        ([1.0, 0.0], "single_label", ["0", "1"]),
        ([True, False], "single_label", ["false", "true"]),
        ([0.5, 1], "regression", ["value"]),
        (["0.5", "2"], "regression", ["value"]),
        ([["a"], ["b", "c"]], "multi_label", ["a", "b", "c"]),
        (['["a"]', '["b"]'], "multi_label", ["a", "b"]),
    ],
)
def test_kinds_are_told_by_the_labels(tmp_path: Path, labels: list[Any], kind: str, classes: list[str]) -> None:
    task, _ = prepare(write(tmp_path / "rows.jsonl", some(label=lambda i: labels[i % 2])))
    assert (task.kind, task.classes) == (kind, classes)
    assert task.train.labels.shape == ((36, len(classes)) if kind == "multi_label" else (36,))
    if kind == "single_label":
        found = {classes[index] for index in task.train.labels}
        assert found == set(classes)


def test_the_kind_can_be_said(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", some(label=lambda i: i % 5))
    assert prepare(path)[0].kind == "single_label"
    task, _ = prepare(path, kind="regression")
    assert task.train.labels.dtype == np.float32 and task.train.labels.max() == 4


def test_the_same_rows_in_all_formats(tmp_path: Path) -> None:
    rows = [{"text": f'he said "no", {i}', "label": "ab"[i % 2]} for i in range(40)]
    write(tmp_path / "rows.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    quoted = [row["text"].replace('"', '""') for row in rows]
    cells = [f'"{text}",{row["label"]}\n' for text, row in zip(quoted, rows, strict=True)]
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(cells))
    parts = []
    for kind in ("jsonl", "parquet", "csv"):
        task, rejects = prepare(str(tmp_path / f"rows.{kind}"))
        assert rejects.records == 40
        parts.append([(e.text, e.label, e.line - (kind == "csv")) for e in task.train.examples])
    assert parts[0] == parts[1] == parts[2]


def test_bad_rows_of_csv_and_parquet(tmp_path: Path) -> None:
    good = "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(30))
    (tmp_path / "rows.csv").write_bytes(b"text,label\n" + good.encode() + b"\xff,a\nx\n ,a\nx,\n")
    _, rejects = prepare(str(tmp_path / "rows.csv"))
    assert rejects.reasons == {"invalid UTF-8": 1, "wrong CSV": 1, "empty": 1, "no label": 1}
    rows = [*some(30), {"text": None, "label": "a"}, {"text": "x", "label": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert prepare(str(tmp_path / "rows.parquet"))[1].reasons == {"empty": 1, "no label": 1}


def test_conflicts_and_leaks_follow_the_rules(tmp_path: Path) -> None:
    rows = [*some(), {"text": "Text NUMBER  0", "label": "b"}, {"text": "text number 1", "label": "b"}]
    path = write(tmp_path / "rows.jsonl", rows)
    test = write(tmp_path / "test.jsonl", [{"text": "text number 5", "label": "b"}, {"text": "other", "label": "a"}])
    task, rejects = prepare(path, test=test)
    texts = [example.text for part in (task.train, task.validation) for example in part.examples]
    assert "text number 0" not in texts and "Text NUMBER  0" not in texts  # both: neither can be trusted
    assert "text number 5" not in texts and task.test is not None and len(task.test) == 2
    apart = {e.text for e in task.train.examples} & {e.text for e in task.validation.examples}
    assert not apart
    assert rejects.reasons["conflict"] == 2 and rejects.reasons["duplicate"] >= 1 and rejects.rejected == 0
    assert rejects.documents == sum(len(part) for part in task.parts.values())
    assert rejects.records == 44


def test_splits_keep_the_shares_and_repeat(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", some(200, lambda i: "rare" if i % 10 == 0 else "frequent"))
    one, _ = prepare(path, validation_size=30, train_size=50)
    assert np.bincount(one.validation.labels).tolist() == [27, 3]
    assert np.bincount(one.train.labels).tolist() == [45, 5]
    assert splits_json(one.parts) == splits_json(prepare(path, validation_size=30, train_size=50)[0].parts)
    assert splits_json(one.parts) != splits_json(
        prepare(path, validation_size=30, train_size=50, split_seed=1)[0].parts
    )
    assert len(prepare(path)[0].validation) == 20


def test_draw_takes_as_many_as_asked(tmp_path: Path) -> None:
    task, _ = prepare(write(tmp_path / "rows.jsonl", some(50, lambda i: str(i % 7))))
    for size in (1, 13, 44, 45):
        rows = draw(task.train.examples, "single_label", size, 0)
        assert len(rows) == len(set(rows.tolist())) == size


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        (lambda i: "a", {}, "all 40 usable training rows have the label 'a'"),
        (lambda i: "ab"[i % 2], {"train_size": 37}, "train_size=37 must be between 1 and 36"),
        (lambda i: "ab"[i % 2], {"validation_size": 40}, "validation_size=40 must be between 1 and 39"),
        (lambda i: "ab"[i % 2], {"label": "lbl"}, "is no column"),
    ],
)
def test_tasks_that_cannot_be(tmp_path: Path, label: Any, options: dict[str, Any], message: str) -> None:
    columns = Columns(label=options.pop("label", None))
    with pytest.raises(ValueError, match=message):
        prepare(write(tmp_path / "rows.jsonl", some(label=label)), columns=columns, **options)


def test_what_is_no_task(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="task='sst' is neither one of sst2, .* Did you mean 'sst2'"):
        prepare("sst")
    with pytest.raises(FileNotFoundError, match="no such file"):
        prepare(str(tmp_path / "rows.jsonl"))
    (tmp_path / "rows.txt").write_text("text")
    with pytest.raises(ValueError, match="examples with labels come as .jsonl"):
        prepare(str(tmp_path / "rows.txt"))
    with pytest.raises(FileNotFoundError, match="holds none of qqp_train.parquet, QQP/train.tsv"):
        prepare("qqp", data=str(tmp_path))
    with pytest.raises(ValueError, match="cannot be had from the Hugging Face hub .* give data=FOLDER"):
        prepare("sst2")


def test_the_layouts_of_glue(tmp_path: Path) -> None:
    for folder, header, row in (
        ("SST-2", "sentence\tlabel", 'a "quoted {i}\t{one}'),
        ("QNLI", "index\tquestion\tsentence\tlabel", "{i}\tWhy {i}?\tBecause.\t{name}"),
        ("QQP", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "{i}\t1\t2\tWhy {i}?\tWhat?\t{one}"),
    ):
        (tmp_path / folder).mkdir()
        for file, start in (("train.tsv", 0), ("dev.tsv", 100)):
            names = ("entailment", "not_entailment")
            lines = [row.format(i=start + i, one=i % 2, name=names[i % 2]) for i in range(20)]
            (tmp_path / folder / file).write_text("\n".join([header, *lines]) + "\n")
    for name in ("sst2", "qnli", "qqp"):
        task, rejects = prepare(name, data=str(tmp_path))
        assert rejects.records == 40 and not rejects.reasons
        assert task.classes == list(TASKS[name].classes) and task.reported == "test"
        assert task.test is not None and task.test.labels.tolist() == [0, 1] * 10
        assert (task.test.examples[0].pair is None) == (name == "sst2")
    assert prepare("sst2", data=str(tmp_path))[0].test.examples[0].text == 'a "quoted 100'  # type: ignore[union-attr]
    smaller, _ = prepare("sst2", data=str(tmp_path), test_size=4)  # the task's own test set, made smaller
    assert smaller.test is not None and sorted(smaller.test.labels.tolist()) == [0, 0, 1, 1]
    assert len(smaller.train) + len(smaller.validation) == 20


def test_every_way_to_hold_out_is_the_same_for_labels_and_for_tags(tmp_path: Path) -> None:
    few = write(tmp_path / "few.jsonl", some(6, lambda i: "odd" if i % 2 else "even"))
    assert len(prepare(few)[0].validation) == 1  # a tenth of six is one, not none
    rows, more = (write(tmp_path / name, some(60, lambda i: i % 2)) for name in ("rows.jsonl", "more.jsonl"))
    task, rejects = prepare(rows, test_size=0.5)
    assert task.test is not None and len(task.test) == 30 and len(task.train) + len(task.validation) == 30
    assert task.test.source == "30 rows set aside from rows.jsonl"
    with pytest.raises(ValueError, match="has no usable training row"):
        prepare(rows, test=str(more))  # the same texts


@pytest.mark.parametrize("most", [2000, pytest.param(None, marks=pytest.mark.slow)])
def test_the_real_files(data_folder: Path, tmp_path: Path, most: int | None) -> None:
    """All of their rows take most of a minute; some of each file, from both ends, show that it is read as it lies."""
    if most is not None:
        for path in data_folder.glob("*.parquet"):
            table = pq.read_table(path)
            ends = [table.slice(0, most // 2), table.slice(max(len(table) - most // 2, most // 2))]
            pq.write_table(pa.concat_tables(ends), tmp_path / path.name)
        data_folder = tmp_path
    for name in TASKS:
        task, _ = prepare(name, data=str(data_folder), max_share=0.0)
        assert task.test is not None and set(task.test.labels.tolist()) == {0, 1}
