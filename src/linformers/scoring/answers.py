"""Answers to questions out of whole contexts, with their characters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from linformers.data.entities import without_blanks
from linformers.data.tokenise import Located, Pair, TextEncoder, Tokens
from linformers.extraction.answers import ANSWER_TOKENS, Answer, find_answer
from linformers.extraction.data import null_token
from linformers.scoring.batches import run_batches
from linformers.scoring.networks import Network


@dataclass
class Asked:
    """Questions to be answered.

    Args:
        contexts: Contexts of those that have tokens.
        located: Tokens of each, and where they stand.
        pairs: Which of them are read, and where in the input.
        tokens: The inputs.
    """

    contexts: list[str]
    located: list[Located]
    pairs: list[Pair]
    tokens: Tokens

    @property
    def count(self) -> int:
        """Tokens of all inputs."""
        return self.tokens.count


class Answerer:
    """A model that answers questions, and how it reads; a context is read at once, and cut where it is too long.

    Args:
        network: The model.
    """

    def __init__(self, network: Network) -> None:
        self.network, self.encoder = network, TextEncoder(network.tokenizer)
        self.longest = network.trained.answer_tokens or ANSWER_TOKENS

    def encode(self, questions: Sequence[str], contexts: Sequence[str]) -> Asked:
        """Tokens of questions and contexts.

        Raises:
            ValueError: The tokenizer does not tell where its tokens stand.
        """
        ids, located = self.encoder.ids(questions), self.encoder.located(contexts)
        kept = [place for place, one in enumerate(located) if len(one.ids) and len(ids[place])]
        pairs = [self.encoder.pair_of(ids[place], located[place].ids, self.network.max_length) for place in kept]
        kinds = None
        if "token_type_ids" in self.network.tokenizer.model_input_names:
            kinds = [pair.row["token_type_ids"] for pair in pairs]
        whole = sum(pair.end - pair.begin == len(located[place].ids) for place, pair in zip(kept, pairs, strict=True))
        there = set(kept)
        tokens = Tokens(
            [pair.row["input_ids"] for pair in pairs],
            np.array(kept, np.int64),
            len(kept) - whole,
            [place for place in range(len(ids)) if place not in there],
            kinds,
        )
        return Asked([contexts[place] for place in kept], [located[place] for place in kept], pairs, tokens)

    def answer(self, asked: Asked, seen: Callable[[int], None] = lambda tokens: None) -> list[Answer]:
        """The answer to each question that has tokens, in their order.

        Args:
            asked: What `encode` gives.
            seen: Hears how many tokens more are done.
        """
        windows, may_be_none = asked.tokens.windows, self.network.trained.unanswerable

        def use(rows: list[int], logits: Tensor | None, states: Any, mask: Any) -> list[Answer]:
            assert logits is not None
            return [self._found(asked, row, logits[place].numpy(), may_be_none) for place, row in enumerate(rows)]

        found: dict[int, Answer] = {}
        for rows, answers in run_batches(self.network, windows, use, seen, asked.tokens.kinds):
            found.update(zip(rows, answers, strict=True))
        return [found[row] for row in range(len(windows))]

    def _found(self, asked: Asked, row: int, logits: np.ndarray, may_be_none: bool) -> Answer:
        pair, context = asked.pairs[row], asked.contexts[row]
        null = logits[null_token(asked.tokens.windows[row], self.network.tokenizer)]
        spans = without_blanks(context, asked.located[row].spans[pair.begin : pair.end])
        read = logits[pair.start : pair.start + pair.end - pair.begin]
        return find_answer(read, null, spans, context, self.longest, may_be_none)


def answer_columns(found: Sequence[Answer]) -> dict[str, pa.Array]:
    """Columns of scores: the answer, its characters (none where there is no answer), and both probabilities."""
    return {
        "answer": pa.array([one.text for one in found], pa.string()),
        "start": pa.array([one.start for one in found], pa.int64()),
        "end": pa.array([one.end for one in found], pa.int64()),
        "score": pa.array([one.score for one in found], pa.float32()),
        "null_score": pa.array([one.null_score for one in found], pa.float32()),
    }
