"""Answers out of the scores of start and end, and how right they are by SQuAD's rules."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

ANSWER_TOKENS = 30  # of an answer at most, where the model does not say what it was trained on
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Answer(NamedTuple):
    """An answer.

    Args:
        text: Its text; "" = the context does not answer the question.
        start: Its first character in the context; None = there is no answer.
        end: The character behind its last.
        score: Probability of its start times that of its end.
        null_score: The same of the token that stands for no answer.
    """

    text: str
    start: int | None
    end: int | None
    score: float
    null_score: float


def find_answer(
    logits: Float[np.ndarray, "tokens 2"],
    null: Float[np.ndarray, " 2"],
    spans: Int[np.ndarray, "tokens 2"],
    context: str,
    longest: int,
    may_be_none: bool,
) -> Answer:
    """The likeliest stretch of a context, as transformers' pipeline for answers finds it (without aligning to words).

    Probabilities of starts are a softmax over the context's tokens and the null token, and so are those of ends.

    Args:
        logits: Scores of each token of the context as start and as end.
        null: Those of the token that stands for no answer.
        spans: Characters of the tokens, without blanks.
        context: Context.
        longest: Tokens of an answer at most.
        may_be_none: Whether there is no answer where the null token is likelier.
    """
    whole = np.concatenate([null[None], logits]).astype(np.float64)
    whole -= whole.max(0)
    shares = whole - np.log(np.exp(whole).sum(0))
    first, last, best = 0, 0, -np.inf
    for more in range(min(longest, len(logits))):
        sums = shares[1 : len(shares) - more, 0] + shares[1 + more :, 1]
        place = int(sums.argmax())
        if sums[place] > best:
            first, last, best = place, place + more, float(sums[place])
    score, null_score = float(np.exp(best)), float(np.exp(shares[0].sum()))
    if may_be_none and null_score > score:
        return Answer("", None, None, score, null_score)
    start, end = int(spans[first, 0]), int(spans[last, 1])
    return Answer(context[start:end], start, end, score, null_score)


def normalised(text: str) -> str:
    """A text as SQuAD's script compares it: small letters, without punctuation, articles and more than one blank.

    >>> normalised("The  Eiffel-Tower.")
    'eiffeltower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(found: str, right: Sequence[str]) -> float:
    """1 where an answer is one of the right ones, else 0; without any, the right one is "".

    >>> exact_match("the Seine", ["Seine", "river Seine"])
    1.0
    """
    return max(float(normalised(found) == normalised(one)) for one in right or [""])


def overlap_f1(found: str, right: Sequence[str]) -> float:
    """F1 of the words of an answer against the right one that is most like it.

    >>> round(overlap_f1("river Seine", ["the Seine"]), 2)
    0.67
    """
    return max(_f1(normalised(found).split(), normalised(one).split()) for one in right or [""])


def _f1(found: list[str], right: list[str]) -> float:
    if not found or not right:  # no answer is right or wrong as a whole
        return float(found == right)
    same = sum((Counter(found) & Counter(right)).values())
    return 2 * same / (len(found) + len(right))
