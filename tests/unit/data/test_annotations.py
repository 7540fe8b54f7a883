"""Rows with tags, entities and answers: what is read, and what is rejected with its reason."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finetune_helpers import write_jsonl

from linformers.data.annotations import Answers, Tagged, find_layout, read_annotated
from linformers.data.examples import Columns, Example
from linformers.files.inputs import Input
from linformers.files.reading import peek
from linformers.files.rejects import Rejects

NONE = Columns()
TEXT = "Ada Byron met Charles."
PERSONS = [{"start": 0, "end": 9, "label": "PER"}, {"start": 14, "end": 21, "label": "PER"}]


def read(path: Path, names: tuple[str, ...] = (), **asked: Any) -> tuple[list[Example], list[str]]:
    """Examples of a file, and the reasons against its other rows."""
    columns = Columns(**asked)
    layout = find_layout(peek(Input.of(path)), columns, None)
    assert layout is not None
    rejects = Rejects(path=path.with_suffix(".rejects"), max_share=1)
    with rejects:
        found = read_annotated(Input.of(path), layout, columns, names, rejects)
    lines = rejects.path.read_text().splitlines() if rejects.path and rejects.path.is_file() else []
    assert rejects.documents == len(found) and rejects.rejected == len(lines)
    return found, [json.loads(line)["reason"] for line in lines]


def test_tokens_and_tags(tmp_path: Path) -> None:
    good = {"tokens": ["Ada", "Byron", "."], "tags": ["B-PER", "I-PER", "O"]}
    bad: list[Any] = [
        {"tokens": ["a"], "tags": ["O", "O"]},
        {"tokens": ["a", ""], "tags": ["O", "O"]},
        {"tokens": "a b", "tags": ["O", "O"]},
        {"tokens": [], "tags": []},
        {"tokens": ["a"], "tags": [2]},
        {"tokens": ["a"], "tags": [None]},
    ]
    (one,), reasons = read(write_jsonl(tmp_path / "rows.jsonl", [good, *bad]))
    assert one.text == "Ada Byron ." and one.line == 1
    assert one.label == Tagged(((0, 3), (4, 9), (10, 11)), ("B-PER", "I-PER", "O"))
    starts = ("unlike lengths", "wrong token", "wrong type", "empty", "no names", "no label")
    assert all(reason.startswith(start) for reason, start in zip(reasons, starts, strict=True)), reasons


def test_numbers_are_named_by_the_option_or_by_the_file(tmp_path: Path) -> None:
    table = pa.table({"tokens": [["Ada", "came"]], "ner_tags": [[1, 0]], "id": ["x"]})
    pq.write_table(table, tmp_path / "plain.parquet")
    (one,), _ = read(tmp_path / "plain.parquet", ("O", "B-PER"), id=("id",))
    assert one.label.tags == ("B-PER", "O") and one.ids == {"id": "x"}
    names = {"feature": {"names": ["B-LOC", "O"], "_type": "ClassLabel"}, "_type": "Sequence"}
    facts = json.dumps({"info": {"features": {"ner_tags": names}}})
    pq.write_table(table.replace_schema_metadata({"huggingface": facts}), tmp_path / "named.parquet")
    (one,), _ = read(tmp_path / "named.parquet")
    assert one.label.tags == ("O", "B-LOC")
    assert read(tmp_path / "plain.parquet", ("O",))[1] == ["unknown label: number 1, and there are names for 0 to 0"]


def test_conll(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O O\n\nAda NNP B-PER\nByron NNP I-PER\n\nbad\n\nÉmile\tB-PER\n"
    (tmp_path / "a.conll").write_text(text, encoding="utf-8")
    found, reasons = read(tmp_path / "a.conll")
    assert [(one.line, one.text, one.label.tags) for one in found] == [
        (3, "Ada Byron", ("B-PER", "I-PER")),
        (8, "Émile", ("B-PER",)),
    ]
    assert reasons == ["wrong CoNLL: a word without a tag"]


def test_conll_comments_and_blanks_in_words(tmp_path: Path) -> None:
    text = "# newdoc\n# sent_id = w-1\n# text = vitamin B-12\nAda B-PER\n10\u00a0000 O\n\n# id 52-f3\tdomain=en\n\n"
    text += "# O\nAda\tB-PER\n# B-X\n\n# # O O\n"  # here the sign is a word
    (tmp_path / "a.conll").write_text(text, encoding="utf-8")
    found, reasons = read(tmp_path / "a.conll")
    assert [(one.line, one.text, one.label.tags) for one in found] == [
        (4, "Ada 10\u00a0000", ("B-PER", "O")),
        (9, "# Ada #", ("O", "B-PER", "B-X")),
        (13, "#", ("O",)),
    ]
    assert reasons == []


def test_entities(tmp_path: Path) -> None:
    def row(*entities: Any) -> dict[str, Any]:
        return {"text": TEXT, "entities": list(entities)}

    blanks = {"start": 13, "end": 21, "label": "PER"}
    bad = [
        row({"start": 0, "end": 99, "label": "PER"}),
        row({"start": 3, "end": 3, "label": "PER"}),
        row({"start": 3, "end": 4, "label": "PER"}),
        row({"start": 0, "end": 9, "label": "PER"}, {"start": 4, "end": 13, "label": "X"}),
        row({"start": 0, "end": 9, "label": ""}),
        row({"start": "0", "end": 9, "label": "PER"}),
        row([0, 9, "PER"]),
    ]
    found, reasons = read(write_jsonl(tmp_path / "rows.jsonl", [row(*PERSONS[::-1]), row(), row(blanks), *bad]))
    assert [one.label.spans for one in found] == [((0, 9), (14, 21)), (), ((14, 21),)]
    starts = ("wrong span", "wrong span", "wrong span", "overlapping", "no label", "wrong span", "wrong type")
    assert all(reason.startswith(start) for reason, start in zip(reasons, starts, strict=True)), reasons
    assert "from 0 to 99 of a text of 22 characters" in reasons[0]


QUESTION = {"question": "Who came?", "context": TEXT}


def test_answers_flat_and_as_squad_has_them(tmp_path: Path) -> None:
    rows = [
        {"id": "1", **QUESTION, "answers": {"text": ["Ada Byron", "Ada"], "answer_start": [0, 0]}},
        {"id": "2", **QUESTION, "answers": {"text": [], "answer_start": []}},
        {"id": "3", **QUESTION, "answers": {"text": ["Ada"], "answer_start": [1]}},
        {"id": "4", **QUESTION, "answers": {"text": ["Ada"], "answer_start": []}},
        {"id": "5", **QUESTION, "answers": None},
        {"id": "6", **QUESTION, "answers": {"text": ["Ada"], "answer_start": [-22]}},
    ]
    found, reasons = read(write_jsonl(tmp_path / "rows.jsonl", rows), id=("id",))
    assert [one.label for one in found] == [Answers(("Ada Byron", "Ada"), (0, 0)), Answers((), ())]
    assert (found[0].text, found[0].pair, found[0].ids) == ("Who came?", TEXT, {"id": "1"})
    starts = ("wrong answer", "unlike lengths", "wrong type", "wrong answer")
    assert all(reason.startswith(start) for reason, start in zip(reasons, starts, strict=True)), reasons
    assert "'Ada' does not stand at character 1 of the context, but 'da '" in reasons[0]
    questions = [
        {"id": "1", "question": "Who came?", "answers": [{"text": "Ada", "answer_start": 0}], "is_impossible": False},
        {"id": "2", "question": "Who left?", "answers": [], "is_impossible": True},
        {"id": "3", "question": "Who left?", "answers": [{"text": "Bo", "answer_start": 0}]},
    ]
    squad = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": TEXT, "qas": questions}]}]}
    for indent in (None, 1):
        path = tmp_path / f"squad-{indent}.json"
        path.write_text(json.dumps(squad, indent=indent))
        found, reasons = read(path, id=("id",))
        assert [one.label for one in found] == [Answers(("Ada",), (0,)), Answers((), ())]
        assert found[1].ids == {"id": "2"} and len(reasons) == 1
    (tmp_path / "other.json").write_text(json.dumps({"data": [{"text": "no paragraphs"}]}))
    with pytest.raises(ValueError, match="is not as SQuAD has it"):
        read(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("there", "asked", "kind", "layout"),
    [
        ({"text": "text", "label": "text"}, NONE, None, None),
        ({"text": "text", "labels": "other"}, NONE, None, None),
        ({"tokens": "other", "ner_tags": "other", "id": "text"}, NONE, None, "words"),
        ({"text": "text", "entities": "other"}, NONE, None, "spans"),
        ({"text": "text", "names": "other"}, Columns(label="names"), "tags", None),
        ({"text": "text", "entities": "other", "label": "text"}, Columns(label="entities"), None, "spans"),
        ({"text": "text", "entities": "other", "label": "text"}, Columns(label="label"), None, None),
        ({"text": "text", "entities": "other"}, NONE, "single_label", None),
        ({"question": "text", "context": "text", "answers": "other"}, NONE, None, "answers"),
        ({"q": "text", "c": "text", "a": "other"}, Columns(text="q", pair="c", label="a"), "answers", "answers"),
        ({"data": "other", "version": "text"}, NONE, None, "answers"),
    ],
)
def test_the_columns_tell_the_layout(there: dict[str, str], asked: Columns, kind: str | None, layout: str) -> None:
    if layout is None and kind == "tags":
        layout = "spans"  # by another name, where the kind is given
    assert find_layout(there, asked, kind) == layout


def test_what_cannot_be_told_is_asked_for() -> None:
    there = {"text": "text", "entities": "other", "label": "text"}
    with pytest.raises(ValueError, match="give --label entities or --label label"):
        find_layout(there, NONE, None)
    with pytest.raises(ValueError, match="kind='answers' needs the columns question, context and answers"):
        find_layout(there, NONE, "answers")
