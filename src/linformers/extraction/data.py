"""Tags and answers as a model reads them: token ids of whole texts, and what each token is to say."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from torch.utils.data import Dataset

from linformers.classification.data import TOKENISED_AT_ONCE
from linformers.data.annotations import Answers, Tagged
from linformers.data.entities import BEGINS, OUTSIDE, label_of, without_blanks, word_starts
from linformers.data.examples import Example
from linformers.data.tasks_annotated import AnnotatedTask
from linformers.data.tokenise import Located, Pair, TextEncoder

IGNORED = -100  # of transformers' losses


@dataclass(frozen=True)
class Units:
    """What is measured of a text: its words, or of spans its tokens.

    Args:
        spans: First character of each and the one behind its last, (units, 2).
        tokens: Number of the text's token that speaks for each.
        tags: Right tag of each.
    """

    spans: Int[np.ndarray, "units 2"]
    tokens: Int[np.ndarray, " units"]
    tags: list[str]


class Annotated(Dataset):
    """Token ids of the rows of a task; see its subclasses.

    Attributes:
        inputs: What the model reads of each row, with what it is to say.
        lengths: Tokens of each.
        cut: Rows that were too long.
    """

    unit = "tokens"

    def __init__(self) -> None:
        self.inputs: list[dict[str, Any]] = []
        self.cut = 0

    @property
    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Tokens of each row."""
        return np.array([len(row["input_ids"]) for row in self.inputs])

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in self.inputs[row].items()
        }

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return int(self.lengths.sum())

    def fingerprint(self) -> bytes:
        """Changes with the texts, their tokens and what they are to say."""
        digest = hashlib.sha256()
        for row in self.inputs:
            for name in sorted(row):
                digest.update(np.asarray(row[name], np.int64).tobytes() + b"|")
        return digest.digest()


class EncodedTags(Annotated):
    """Texts with the class of each token.

    Of words the first token carries the tag, all others -100. A word that the tokenizer takes for several ("U.S.") has
    its tag on the first part, and the tag that goes on from it on the others, so that a text without marked words is
    read alike. Of spans every token is part of an entity or of none.

    Args:
        task: Task.
        examples: The rows.
        encoder: Tokenizer of the model.
        max_length: Longer texts are cut: entities behind the cut are not learned, and count as not found.
        seen: Hears how many rows more are done.

    Attributes:
        units: What is measured of each row.
        where: Of each row, the first of its text's tokens that is read, the one behind the last, and how many special
            tokens stand before.
    """

    def __init__(
        self,
        task: AnnotatedTask,
        examples: Sequence[Example],
        encoder: TextEncoder,
        max_length: int,
        seen: Callable[[int], None] = lambda rows: None,
    ) -> None:
        super().__init__()
        self.units: list[Units] = []
        self.where: list[tuple[int, int, int]] = []
        index = {name: place for place, name in enumerate(task.classes)}
        for start in range(0, len(examples), TOKENISED_AT_ONCE):
            part = examples[start : start + TOKENISED_AT_ONCE]
            located = encoder.located([one.text for one in part])
            nothing = np.empty(0, np.int32)
            pieces = encoder.windows_of([one.ids for one in located], max_length, 1, nothing)
            self.cut += pieces.long
            for row, (example, found) in enumerate(zip(part, located, strict=True)):
                units, targets = units_of(example, found, task.layout == "words", index)
                first, end, before = pieces.starts[row], pieces.ends[row], pieces.heads[row]
                ids = pieces.windows[row]
                labels = np.full(len(ids), IGNORED)
                labels[before : before + end - first] = targets[first:end]
                inputs = {"input_ids": ids, "labels": labels}
                if "token_type_ids" in encoder.tokenizer.model_input_names:
                    inputs["token_type_ids"] = np.zeros(len(ids), np.int32)
                self.inputs.append(inputs)
                self.units.append(units)
                self.where.append((first, end, before))
            seen(len(part))


def units_of(
    example: Example, located: Located, words: bool, index: dict[str, int]
) -> tuple[Units, Int[np.ndarray, " tokens"]]:
    """What is measured of a text, and the class that each of its tokens is to have (-100 = none)."""
    label = example.label
    assert isinstance(label, Tagged)
    spans = without_blanks(example.text, located.spans)
    if not words:
        tags = [OUTSIDE] * len(spans)
        for (start, end), name in zip(label.spans, label.tags, strict=True):
            # A token of nothing but blanks is no end of an entity, but may stand in it.
            inside = np.flatnonzero((spans[:, 0] >= start) & (spans[:, 1] <= end) & (spans[:, 0] < spans[:, 1]))
            for place in range(inside[0], inside[-1] + 1) if inside.size else ():
                tags[place] = f"{'B' if place == inside[0] else 'I'}-{name}"
        return Units(spans, np.arange(len(spans)), tags), np.array([index.get(tag, IGNORED) for tag in tags], np.int64)
    targets = np.full(len(spans), IGNORED)
    given = np.array(label.spans)
    of_word = np.searchsorted(given[:, 0], spans[:, 0], "right") - 1  # word in which each token begins
    begins = word_starts(example.text, spans) & (spans[:, 1] > spans[:, 0])
    tokens, kept, before = [], [], -1
    for place in np.flatnonzero(begins & (of_word >= 0)).tolist():
        word = int(of_word[place])
        tag = label.tags[word]
        if word != before:
            tokens.append(place)
            kept.append(word)
            targets[place] = index.get(tag, IGNORED)
        else:
            targets[place] = index.get(going_on(tag), IGNORED)
        before = word
    return Units(given[kept].reshape(-1, 2), np.array(tokens, np.int64), [label.tags[word] for word in kept]), targets


def going_on(tag: str) -> str:
    """The tag of the second part of a word; "" where its scheme has none."""
    if tag.startswith(("S-", "U-", "E-", "L-")):
        return ""
    return f"I-{label_of(tag)}" if tag.startswith(BEGINS) else tag


class EncodedAnswers(Annotated):
    """Questions with their contexts, and the tokens in which the first right answer begins and ends.

    A question that the context does not answer has the first special token for both, as in SQuAD 2.

    Args:
        examples: The rows.
        encoder: Tokenizer of the model.
        max_length: Longer inputs are cut, the longer text of the two first.
        train: Whether rows whose answer is behind the cut are left out.
        seen: Hears how many rows more are done.

    Attributes:
        pairs: Which tokens of each context are read.
        nulls: The token of each input that stands for no answer.
        located: Tokens of each context.
        unreached: Rows whose answer is behind the cut.
        longest: Tokens of the longest answer.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        encoder: TextEncoder,
        max_length: int,
        train: bool,
        seen: Callable[[int], None] = lambda rows: None,
    ) -> None:
        super().__init__()
        self.pairs: list[Pair] = []
        self.nulls: list[int] = []
        self.located: list[Located] = []
        self.unreached = self.longest = 0
        for start in range(0, len(examples), TOKENISED_AT_ONCE):
            part = examples[start : start + TOKENISED_AT_ONCE]
            questions = encoder.ids([one.text for one in part])
            contexts = encoder.located([one.pair or "" for one in part])
            for example, ids, found in zip(part, questions, contexts, strict=True):
                pair = encoder.pair_of(ids, found.ids, max_length)
                self.cut += pair.end - pair.begin < len(found.ids)
                null = null_token(pair.row["input_ids"], encoder.tokenizer)
                target = _target(example, found, pair, null)
                self.unreached += target is None
                if target is None and train:
                    continue
                first, last = target or (null, null)
                self.longest = max(self.longest, last - first + 1)
                self.inputs.append({**pair.row, "start_positions": first, "end_positions": last})
                self.pairs.append(pair)
                self.nulls.append(null)
                self.located.append(found)
            seen(len(part))


def null_token(ids: Int[np.ndarray, " seq"], tokenizer: Any) -> int:
    """The token that stands for no answer: the first of the kind that opens inputs, else the first of all."""
    if tokenizer.cls_token_id is None or not (found := np.flatnonzero(ids == tokenizer.cls_token_id)).size:
        return 0
    return int(found[0])


def answer_tokens(context: str, located: Located, start: int, end: int) -> Int[np.ndarray, " tokens"]:
    """Tokens of a context that hold a character of an answer."""
    spans = without_blanks(context, located.spans)
    return np.flatnonzero((spans[:, 0] < end) & (spans[:, 1] > start))


def _target(example: Example, located: Located, pair: Pair, null: int) -> tuple[int, int] | None:
    """First and last token of the first answer, as numbers of the input's tokens; None = behind the cut."""
    answers = example.label
    assert isinstance(answers, Answers) and example.pair is not None
    if not answers.texts:
        return null, null
    tokens = answer_tokens(example.pair, located, answers.starts[0], answers.starts[0] + len(answers.texts[0]))
    if tokens[0] < pair.begin or tokens[-1] >= pair.end:
        return None
    shift = pair.start - pair.begin
    return int(tokens[0]) + shift, int(tokens[-1]) + shift


def reasons_against(examples: Sequence[Example], layout: str, encoder: TextEncoder) -> list[str]:
    """Of each example why its tokens do not do; "" = they do."""
    texts = [one.text if layout != "answers" else one.pair or "" for one in examples]
    found: list[str] = []
    for start in range(0, len(texts), TOKENISED_AT_ONCE):
        part = slice(start, start + TOKENISED_AT_ONCE)
        for example, text, located in zip(examples[part], texts[part], encoder.located(texts[part]), strict=True):
            found.append(_reason(example, text, located, layout))
    return found


def _reason(example: Example, text: str, located: Located, layout: str) -> str:
    if not len(located.ids):
        return "empty: the tokenizer finds no token"
    spans = without_blanks(text, located.spans)
    if isinstance(example.label, Answers):
        for start, answer in zip(example.label.starts, example.label.texts, strict=True):
            if not len(answer_tokens(text, located, start, start + len(answer))):
                return f"no token: the tokenizer finds none in the answer {answer[:80]!r}"
        return ""
    if layout == "spans" and isinstance(example.label, Tagged):
        for start, end in example.label.spans:
            touched = (spans[:, 0] < end) & (spans[:, 1] > start)
            inside = (spans[:, 0] >= start) & (spans[:, 1] <= end)
            if not touched.any():
                return f"no token: the tokenizer finds none in the entity {text[start:end][:80]!r}"
            if (torn := np.flatnonzero(touched & ~inside)).size:
                token = text[slice(*spans[torn[0]].tolist())]
                return f"cut token: the entity {text[start:end][:80]!r} ends or begins within the token {token!r}"
    return ""
