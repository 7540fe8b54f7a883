"""Where the chunks of a text begin and end: sentences and paragraphs by plain rules, and stretches of tokens."""

import re

import numpy as np

Span = tuple[int, int]  # the first character, and the one behind the last

_BLANK_LINE = re.compile(r"\n[^\S\n]*(?:\r?\n[^\S\n]*)+")
# A mark with what closes around it, before white space; marks of Chinese and Japanese need none behind them.
_END = re.compile(r"[.!?\u2026][\"'\u2019\u201d)\]]*(?=\s)|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d\u2019]*")
_LAST_WORD = re.compile(r"[\w.]*\Z")
# After these a full stop ends no sentence; neither does it after a single letter ("J. S. Bach").
_SHORT = re.compile(
    r"mr|mrs|ms|dr|prof|st|jr|sr|vs|e\.g|i\.e|cf|al|figs?|nos?|vol|pp?|eds?|approx|inc|ltd|co|gen|col|lt|sgt|rev|hon|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|[^\W\d_]",
    re.IGNORECASE,
)


def sentences(text: str) -> list[Span]:
    """Sentences: they end with ``.``, ``!`` or ``?`` before white space, or with a blank line.

    A full stop does not end one after a usual abbreviation or a single letter, nor before a small letter.

    >>> text = "Dr. Who came. He left!"
    >>> [text[start:end] for start, end in sentences(text)]
    ['Dr. Who came.', 'He left!']
    """
    found = []
    for first, last in paragraphs(text):
        begin = first
        for end in _END.finditer(text, first, last):
            if _ends(text, begin, end, last):
                found.append((begin, end.end()))
                begin = end.end()
        found.append((begin, last))
    return [span for span in (_trimmed(text, *span) for span in found) if span[0] < span[1]]


def paragraphs(text: str) -> list[Span]:
    """Paragraphs: what stands between blank lines."""
    cuts = [(0, 0), *(found.span() for found in _BLANK_LINE.finditer(text)), (len(text), len(text))]
    found = (_trimmed(text, before[1], after[0]) for before, after in zip(cuts, cuts[1:], strict=False))
    return [span for span in found if span[0] < span[1]]


def stretches(tokens: int, size: int, overlap: int) -> list[Span]:
    """Numbers of the tokens of each chunk of so many, the last one perhaps shorter: first, and behind the last.

    >>> stretches(10, 4, 1)
    [(0, 4), (3, 7), (6, 10)]
    """
    starts = range(0, max(tokens - overlap, 1), size - overlap) if tokens else ()
    return [(start, min(start + size, tokens)) for start in starts]


def tokens_within(spans: np.ndarray, chunks: list[Span]) -> list[Span]:
    """Numbers of the tokens that share a character with each chunk: first, and behind the last.

    Args:
        spans: Characters of the tokens, in their order, (tokens, 2).
        chunks: Characters of the chunks.
    """
    starts, ends = (np.maximum.accumulate(spans[:, side]) for side in (0, 1))
    first = np.searchsorted(ends, [start for start, _ in chunks], side="right")
    last = np.searchsorted(starts, [end for _, end in chunks], side="left")
    return list(zip(first.tolist(), last.tolist(), strict=True))


def _ends(text: str, begin: int, end: re.Match[str], last: int) -> bool:
    if not end.group().startswith("."):
        return True
    after = re.compile(r"\s*(\S)").match(text, end.end(), last)
    if after is not None and after[1].islower():
        return False
    word = _LAST_WORD.search(text, max(begin, end.start() - 20), end.start())
    return end.group() != "." or word is None or not _SHORT.fullmatch(word.group())


def _trimmed(text: str, start: int, end: int) -> Span:
    inner = text[start:end]
    return start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip())
