"""Rows whose label stands in their text: tags of words, entities by their characters, and answers to questions.

Three layouts, told by the columns of the file:

- *words*: ``tokens`` (a list of words) and ``tags`` (one for each; also ``ner_tags``, as the hub's data sets have it),
  names or numbers. Numbers are named by the file (Parquet that ``datasets`` wrote) or by ``--labels``. Also CoNLL:
  a word and its tag a line, the first and the last field, blank lines between rows.
- *spans*: ``text`` and ``entities``, a list of ``{"start", "end", "label"}``: the first character and the one behind
  the last.
- *answers*: ``question``, ``context`` and ``answers`` (``{"text": [...], "answer_start": [...]}``; empty lists = the
  context does not answer), or SQuAD's own JSON (``data``, ``paragraphs``, ``qas``).

In the words of an `Example`: its text is the words joined by blanks, or the text; of a question it is the question, and
the pair the context. Its label is `Tagged` or `Answers`.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow.parquet as pq

from linformers.data.examples import Columns, Example
from linformers.files.inputs import Input
from linformers.files.progress import ReadProgress
from linformers.files.reading import peek, read_sound_rows
from linformers.files.rejects import Rejects
from linformers.files.rows import TEXT_COLUMNS, Structured, Wanted, choose_column

Layout = Literal["words", "spans", "answers"]
WORD_COLUMNS, TAG_COLUMNS = ("tokens", "words"), ("tags", "ner_tags", "pos_tags", "labels")
ENTITY_COLUMNS, ANSWER_COLUMNS = ("entities", "spans"), ("answers",)
QUESTION, CONTEXT, SQUAD = "question", "context", "data"


@dataclass(frozen=True, slots=True)
class Tagged:
    """What is tagged in a text.

    Args:
        spans: First character of each word or entity and the one behind its last.
        tags: Tag of each word, or label of each entity.
    """

    spans: tuple[tuple[int, int], ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """Where a context answers a question; nowhere, if there are none.

    Args:
        texts: Answers that count as right.
        starts: First character of each in the context.
    """

    texts: tuple[str, ...]
    starts: tuple[int, ...]


class _Wrong(ValueError):
    """A row that is no example."""


def find_layout(there: Mapping[str, str], asked: Columns, kind: str | None) -> Layout | None:
    """The layout of a file, by its columns; None = labels of whole texts.

    Args:
        there: Columns with their kinds; see ``peek``.
        asked: What was asked for.
        kind: Kind of task that was asked for; None = told by the columns.

    Raises:
        ValueError: The file may be meant in two ways, or has not what the kind needs.
    """
    if kind not in (None, "tags", "answers"):
        return None
    lists = [name for name, what in there.items() if kind is not None or what == "other"]  # CSV has no lists
    by_name = lambda usual, given: [name for name in lists if (name == given if given else name in usual)]  # noqa: E731
    label, first = asked.label, asked.texts[0] if asked.text else None
    found: list[Layout] = []
    if by_name(WORD_COLUMNS, first) and by_name(TAG_COLUMNS, label):
        found.append("words")
    elif by_name(ENTITY_COLUMNS, label) and (kind == "tags" or label is None or label in ENTITY_COLUMNS):
        found.append("spans")
    squad = SQUAD in lists and QUESTION not in there and label is None
    if squad or (by_name(ANSWER_COLUMNS, label) and {first or QUESTION, asked.pair or CONTEXT} <= set(there)):
        found.append("answers")
    if kind is not None:
        fits: list[Layout] = [layout for layout in found if (layout == "answers") == (kind == "answers")]
        if not fits:
            needs = "tokens and tags, or text and entities" if kind == "tags" else "question, context and answers"
            raise ValueError(
                f"kind={kind!r} needs the columns {needs} (by other names with --text, --pair and --label), and the "
                f"file has {', '.join(there) or 'none'}"
            )
        return fits[0]
    plain = [name for name in ("label", "labels", "class") if name in there and there[name] != "other"]
    if found and plain and label is None:
        annotated = {"words": "tags", "spans": "entities", "answers": "answers"}[found[0]]
        raise ValueError(
            f"both {annotated!r} and {plain[0]!r} may be the label; give --label {annotated} or --label {plain[0]}"
        )
    return found[0] if found else None


def choose_annotated(there: Sequence[str], asked: Columns, layout: Layout, where: object) -> Columns:
    """The columns of a layout: those asked for, else by their usual names.

    Raises:
        ValueError: A column is not there, or cannot be told.
    """
    if layout == "answers" and SQUAD in there and QUESTION not in there:
        return replace(asked, text=QUESTION, pair=CONTEXT, label="answers")
    for name in asked.id:
        choose_column("--id", name, (), there, where, "id")
    text = asked.texts[0] if asked.text is not None else None
    if isinstance(asked.text, tuple):
        raise ValueError(f"text={', '.join(asked.text)}: tags and answers are of one text; give one column")
    first = {"words": WORD_COLUMNS, "spans": TEXT_COLUMNS, "answers": (QUESTION,)}[layout]
    label = {"words": TAG_COLUMNS, "spans": ENTITY_COLUMNS, "answers": ANSWER_COLUMNS}[layout]
    found = choose_column("--text", text, first, there, where, "words" if layout == "words" else "text")
    pair = choose_column("--pair", asked.pair, (CONTEXT,), there, where, "context") if layout == "answers" else None
    return replace(
        asked, text=found, pair=pair, label=choose_column("--label", asked.label, label, there, where, "label")
    )


def read_annotated(
    file: Input,
    layout: Layout,
    asked: Columns,
    names: Sequence[str],
    rejects: Rejects,
    progress: ReadProgress | None = None,
) -> list[Example]:
    """The usable examples of a file; the others are rejected with the reason.

    Args:
        file: File to read.
        layout: Its layout.
        asked: Names of its columns.
        names: Names of tags that are numbers; none = those of the file.
        rejects: Account of the rows.
        progress: Is told of rows.

    Raises:
        ValueError: No such column, an unreadable file, or too many bad rows.
    """
    rejects.inputs[file] = None
    there = list(peek(file))
    columns = choose_annotated(there, asked, layout, file.name) if there else asked
    nested = layout == "answers" and SQUAD in there and QUESTION not in there
    wanted = _wanted(columns, layout, nested)
    names, ids = names or _names_of_file(file, columns.label), len(columns.id)
    found: list[Example] = []
    for row in read_sound_rows(file, wanted):
        if progress is not None:
            progress.reached(row.position)
        carried = row.carried if not nested else ()
        given = dict(zip(columns.id, carried[len(carried) - ids :], strict=False)) if ids else {}
        if row.text is None:
            rejects.reject(file.name, row.line, row.reason, row.value, given)
            continue
        rows: Iterable[tuple[Any, ...]] = (
            _squad(file.name, row.text, columns.id) if nested else [(row.text, *carried, given)]
        )
        for cells in rows:
            try:
                example = _example(layout, cells, names)
            except _Wrong as error:
                rejects.reject(file.name, row.line, str(error), str(cells[0]), cells[-1])
                continue
            found.append(replace(example, file=file.name, line=row.line, ids=cells[-1]))
            rejects.accept()
            if progress is not None:
                progress.add(1)
    return found


def _wanted(columns: Columns, layout: Layout, nested: bool) -> Wanted:
    if nested:
        return Structured(SQUAD)
    label, text = columns.label or "label", columns.texts[0]
    if layout == "words":
        return Structured(text, {label: "any", **dict.fromkeys(columns.id, "string")})
    pair: dict[str, Any] = {columns.pair: "text"} if layout == "answers" and columns.pair else {}
    return Wanted(text, {**pair, label: "any", **dict.fromkeys(columns.id, "string")})


def _names_of_file(file: Input, column: str | None) -> list[str]:
    """Names of numbered tags that ``datasets`` has written into Parquet."""
    if file.kind != "parquet" or column is None:
        return []
    try:
        with file.open() as stream:
            facts = (pq.read_schema(stream).metadata or {}).get(b"huggingface")
        feature = json.loads(facts or b"{}")["info"]["features"][column]
        return list((feature.get("feature") or feature)["names"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _example(layout: Layout, cells: tuple[Any, ...], names: Sequence[str]) -> Example:
    if layout == "words":
        return _of_words(_listed("tokens", cells[0]), _listed("tags", cells[1]), names)
    if layout == "spans":
        return _of_spans(cells[0], _listed("entities", cells[1]))
    return _of_answers(*cells[:3])


def _listed(what: str, value: Any) -> list[Any]:
    """A list; of CSV, which has none, as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, list):
        raise _Wrong(f"wrong type: {what!r} holds {type(value).__name__} where a list is expected")
    return value


def _of_words(words: list[Any], tags: list[Any], names: Sequence[str]) -> Example:
    if len(words) != len(tags):
        raise _Wrong(f"unlike lengths: {len(words):,} tokens and {len(tags):,} tags")
    spans, tagged, end = [], [], -1
    for place, (word, tag) in enumerate(zip(words, tags, strict=True)):
        if not isinstance(word, str) or not word.strip():
            raise _Wrong(f"wrong token: number {place:,} is {word!r} and no word")
        if isinstance(tag, int) and not isinstance(tag, bool):
            if not names:
                raise _Wrong(f"no names: the tags are numbers, as {tag}; give --labels with their names, O,B-PER,...")
            if not 0 <= tag < len(names):
                raise _Wrong(f"unknown label: number {tag}, and there are names for 0 to {len(names) - 1}")
            tag = names[tag]
        if not isinstance(tag, str) or not tag.strip():
            raise _Wrong(f"no label: tag number {place:,} is {tag!r}")
        spans.append((end + 1, end + 1 + len(word)))
        tagged.append(tag.strip())
        end += 1 + len(word)
    if not words:
        raise _Wrong("empty: no tokens")
    return Example("", 0, " ".join(words), None, Tagged(tuple(spans), tuple(tagged)))


def _of_spans(text: str, entities: list[Any]) -> Example:
    found: list[tuple[int, int, str]] = []
    for entity in entities:
        if not isinstance(entity, Mapping) or not {"start", "end", "label"} <= set(entity):
            raise _Wrong(f"wrong type: an entity is {str(entity)[:80]!r} and no start, end and label")
        start, end, label = entity["start"], entity["end"], entity["label"]
        if not all(isinstance(one, int) and not isinstance(one, bool) for one in (start, end)):
            raise _Wrong(f"wrong span: from {start!r} to {end!r}, which are no numbers of characters")
        if not isinstance(label, str) or label.strip() in ("", "O"):
            raise _Wrong(f"no label: the entity from {start:,} to {end:,} has {label!r}")
        if not 0 <= start < end <= len(text):
            raise _Wrong(f"wrong span: from {start:,} to {end:,} of a text of {len(text):,} characters")
        inside = text[start:end]
        if not inside.strip():
            raise _Wrong(f"wrong span: from {start:,} to {end:,} there is nothing but blanks")
        start, end = start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
        found.append((start, end, label.strip()))
    found.sort()
    for (_, end, one), (start, _, other) in zip(found, found[1:], strict=False):
        if start < end:
            raise _Wrong(f"overlapping: {one} ends at {end:,}, behind the start of {other} at {start:,}")
    return Example(
        "", 0, text, None, Tagged(tuple((start, end) for start, end, _ in found), tuple(name for *_, name in found))
    )


def _of_answers(question: str, context: Any, answers: Any) -> Example:
    if isinstance(answers, str):
        with contextlib.suppress(ValueError, RecursionError):
            answers = json.loads(answers)
    if isinstance(answers, list) and all(isinstance(one, Mapping) for one in answers):  # as SQuAD itself has it
        answers = {name: [one.get(name) for one in answers] for name in ("text", "answer_start")}
    if not isinstance(answers, Mapping) or not all(isinstance(answers.get(n), list) for n in ("text", "answer_start")):
        raise _Wrong(f"wrong type: the answers are {str(answers)[:80]!r} and not lists of text and answer_start")
    texts, starts = answers["text"], answers["answer_start"]
    if len(texts) != len(starts):
        raise _Wrong(f"unlike lengths: {len(texts):,} texts of answers and {len(starts):,} starts")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip() or not isinstance(start, int) or isinstance(start, bool):
            raise _Wrong(f"wrong answer: {str(text)[:80]!r} at {start!r}")
        there = context[start : start + len(text)] if start >= 0 else ""
        if there != text:
            raise _Wrong(
                f"wrong answer: {text[:80]!r} does not stand at character {start:,} of the context, but {there[:80]!r}"
            )
    return Example("", 0, question, context, Answers(tuple(texts), tuple(starts)))


def _squad(file: str, articles: Any, ids: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Question, context, answers and ids of each question of SQuAD's own JSON."""
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for one in paragraph["qas"]:
                    given = {name: one.get(name) for name in ids}
                    answers = [] if one.get("is_impossible") else one["answers"]
                    question, context = one["question"], paragraph["context"]
                    if not all(isinstance(text, str) and text.strip() for text in (question, context)):
                        answers = "a question or a context without text"
                    yield question, context, answers, given
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{file}: {SQUAD!r} is not as SQuAD has it: data, paragraphs, context, qas, question, answers "
            f"({type(error).__name__}: {error})"
        ) from error
