"""Words, spans and answers as the tokens of a model: what each token is to say, and what no token can."""

from typing import Any

import numpy as np
import pytest
from finetune_helpers import make_model
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from linformers.data.annotations import Answers, Tagged
from linformers.data.entities import join
from linformers.data.examples import Example
from linformers.data.tasks import Part
from linformers.data.tasks_annotated import AnnotatedTask
from linformers.data.tokenise import TextEncoder
from linformers.extraction.data import EncodedAnswers, EncodedTags, going_on, reasons_against

CLASSES = ["O", "B-X", "I-X"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return TextEncoder(AutoTokenizer.from_pretrained(make_model(tmp_path_factory.mktemp("model"), "bert")))


def task(layout: Any) -> AnnotatedTask:
    part = Part(source="", examples=[], labels=np.zeros(0))
    parts: dict[str, Any] = {"train": part, "validation": part, "test": None}
    return AnnotatedTask(name="t", layout=layout, classes=CLASSES, reasons={}, columns=(), **parts)


def words(*tagged: str) -> Example:
    """Of "word/tag"."""
    found = [one.rsplit("/", 1) for one in tagged]
    ends = np.cumsum([len(word) + 1 for word, _ in found]) - 1
    spans = tuple((int(end) - len(word), int(end)) for (word, _), end in zip(found, ends, strict=True))
    return Example("f", 1, " ".join(word for word, _ in found), None, Tagged(spans, tuple(tag for _, tag in found)))


def shown(data: EncodedTags, encoder: TextEncoder, row: int) -> list[tuple[str, int]]:
    inputs = data.inputs[row]
    texts = [encoder.tokenizer.decode([one]).strip() for one in inputs["input_ids"]]
    return list(zip(texts, inputs["labels"].tolist(), strict=True))


def test_the_first_token_of_a_word_has_its_tag(encoder: TextEncoder) -> None:
    """The tokenizer takes zq for two tokens, and a hyphen makes three words of one."""
    data = EncodedTags(task("words"), [words("the/O", "zq/B-X", "a-b/B-X", "book/I-X")], encoder, 64)
    labels = [label for _, label in shown(data, encoder, 0)]
    assert labels[0] == labels[-1] == -100
    assert [label for label in labels if label >= 0] == [0, 1, 1, 2, 2, 2]
    (units,) = data.units
    assert units.tags == ["O", "B-X", "B-X", "I-X"] and len(units.tokens) == 4
    assert going_on("S-X") == going_on("E-X") == "" and going_on("B-X") == "I-X" and going_on("NOUN") == "NOUN"


def test_every_token_of_a_span_is_part_of_it(encoder: TextEncoder) -> None:
    example = Example("f", 1, "the zq book was old", None, Tagged(((4, 11),), ("X",)))
    data = EncodedTags(task("spans"), [example], encoder, 64)
    found = shown(data, encoder, 0)[1:-1]
    inside = [(text, label) for text, label in found if label > 0]
    assert "".join(text for text, _ in inside) == "zqbook"
    assert [label for _, label in inside] == [1, *[2] * (len(inside) - 1)] and len(inside) > 2
    assert data.cut == 0 and data.tokens == len(found) + 2


def test_a_token_of_white_space_is_no_end_of_an_entity() -> None:
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(ByteLevel.alphabet())}, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    bytes_of = TextEncoder(PreTrainedTokenizerFast(tokenizer_object=backend))
    example = Example("f", 1, "a\nAB\nC ", None, Tagged(((2, 6),), ("X",)))
    data = EncodedTags(task("spans"), [example], bytes_of, 64)
    assert data.inputs[0]["labels"].tolist() == [0, 0, 1, 2, 2, 2, 0]
    shares, spans = np.ones(3), np.array([[1, 2], [2, 3], [4, 5]])
    assert join(["B-X", "O", "I-X"], shares, spans, example.text) == [], "nothing is named by white space"


def test_longer_texts_are_cut_and_counted(encoder: TextEncoder) -> None:
    long = words(*["the/O"] * 20, "book/B-X")
    data = EncodedTags(task("words"), [long], encoder, 12)
    assert data.cut == 1 and data.lengths.tolist() == [12] and len(data.units[0].tags) == 21
    question = Example("f", 1, "the book", "the " * 20 + "book", Answers(("book",), (80,)))
    near = Example("f", 2, "the book", "a book " + "the " * 20, Answers(("book",), (2,)))
    none = Example("f", 3, "the book", "the road", Answers((), ()))
    found = EncodedAnswers([question, near, none], encoder, 16, True)
    assert found.cut == 2 and found.unreached == 1 and len(found) == 2
    (first, last), empty = [(row["start_positions"], row["end_positions"]) for row in found.inputs]
    assert encoder.tokenizer.decode(found.inputs[0]["input_ids"][first : last + 1]).strip() == "book"
    assert empty == (0, 0) and found.inputs[1]["input_ids"][0] == encoder.tokenizer.cls_token_id
    assert len(EncodedAnswers([question], encoder, 16, False)) == 1


def test_what_no_token_can_say_is_told(encoder: TextEncoder) -> None:
    cut = Example("f", 1, "the book", None, Tagged(((4, 6),), ("X",)))
    good = Example("f", 2, "the book", None, Tagged(((4, 8),), ("X",)))
    reasons = reasons_against([cut, good], "spans", encoder)
    assert reasons[0] == "cut token: the entity 'bo' ends or begins within the token 'book'" and reasons[1] == ""
    answer = Example("f", 1, "the book", "a book", Answers(("book",), (2,)))
    assert reasons_against([answer], "answers", encoder) == [""]
