"""Which columns a model reads: those asked for, else those that it was trained on, else those of a usual name."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from linformers.convert.surroundings import encoder_folder
from linformers.data.annotations import CONTEXT, QUESTION
from linformers.data.examples import PAIR_COLUMNS
from linformers.files.inputs import Input
from linformers.files.reading import find_columns, peek
from linformers.files.rows import Wanted, choose_column


@dataclass(frozen=True)
class TrainedInputs:
    """What ``finetune`` wrote into a configuration of the inputs of a classifier.

    Args:
        texts: How many texts it was trained on at once; None = not known.
        columns: Names of their columns, the pair last.
        max_length: Tokens where they were cut; None = not known.
        tags: What has a tag of a tagger: ``words``, for which their first token speaks, or ``tokens``.
        answer_tokens: Tokens of an answer at most; None = not known.
        unanswerable: Whether it was trained on questions that have no answer.
    """

    texts: int | None = None
    columns: tuple[str, ...] = ()
    max_length: int | None = None
    tags: str = "tokens"
    answer_tokens: int | None = None
    unanswerable: bool = False

    @classmethod
    def of(cls, config: dict[str, Any]) -> "TrainedInputs":
        """The inputs that a configuration names."""
        found = config.get("trained_inputs") or {}
        if not found and (config.get("architectures") or [""])[0].endswith("ForQuestionAnswering"):
            found = {"texts": 2, "columns": (QUESTION, CONTEXT)}
        return cls(
            found.get("texts"),
            tuple(found.get("columns", ())),
            found.get("max_length"),
            found.get("tags", "tokens"),
            found.get("answer_tokens"),
            found.get("unanswerable", False),
        )

    @classmethod
    def of_folder(cls, model: str | Path) -> "TrainedInputs":
        """The inputs that the configuration in a model folder names."""
        path = Path(encoder_folder(model)) / "config.json"
        return cls.of(json.loads(path.read_text(encoding="utf-8")))


def columns_to_score(
    trained: TrainedInputs,
    files: Sequence[Input],
    text: str | tuple[str, ...] | None,
    pair: str | None,
    ids: Sequence[str],
) -> Wanted:
    """The columns to read of files; see ``find_columns``.

    Raises:
        ValueError: A column is not there or cannot be told, or the model reads another number of texts.
    """
    there = next(filter(None, map(peek, files)), {})
    if pair is not None and trained.texts == 1:
        raise ValueError(f"pair={pair!r}: the model was trained on one text, not on pairs; leave it out")
    both: tuple[str, str] | None = None
    if trained.texts == 2 and pair is None:
        known = [found for found in (trained.columns[-2:], *PAIR_COLUMNS) if len(found) == 2]
        both = next((found for found in known if set(found) <= set(there)), None)  # type: ignore[assignment]
        if both is None or text is not None:
            columns = f" (columns: {', '.join(there)})" if there else ""
            raise ValueError(f"the model was trained on pairs: give --text and --pair, the columns of both{columns}")
    if both is not None:
        return replace(find_columns(files, both[0], ids), pair=both[1])
    if text is None and trained.texts == 1 and trained.columns and set(trained.columns) <= set(there):
        text = trained.columns
    wanted = find_columns(files, text, ids)
    if pair is not None and there:
        choose_column("--pair", pair, (), list(there), files[0].name, "pair")
    return wanted if pair is None else replace(wanted, pair=pair)
