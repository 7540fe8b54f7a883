"""ListOps (Nangia and Bowman 2018), as long as in Long Range Arena: nested lists of digits, to be evaluated.

``[MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]`` is 5. The rules and their numbers are those of Long Range Arena:
operators MIN, MAX, MED (the median, rounded down) and SM (sum modulo 10), 2 to 10 arguments, each a list with
probability 0.25, at most 10 levels, 500 to 2,000 tokens.
The parentheses of the original's binary trees say nothing, and are left out there too.
"""

import random
from statistics import median

OPERATORS = ("MIN", "MAX", "MED", "SM")
TOKENS = ("<pad>", *(f"[{name}" for name in OPERATORS), "]", *map(str, range(10)))
_END, _ZERO = TOKENS.index("]"), TOKENS.index("0")
_FUNCTIONS = (min, max, lambda values: int(median(values)), lambda values: sum(values) % 10)
LIST_SHARE, MAX_DEPTH, MAX_ARGUMENTS = 0.25, 10, 10
MIN_LENGTH, MAX_LENGTH = 500, 2000


def generate(rng: random.Random, min_length: int = MIN_LENGTH, max_length: int = MAX_LENGTH) -> tuple[list[int], int]:
    """One expression as ids of ``TOKENS``, and its value."""
    while True:
        ids: list[int] = []
        value = _grow(rng, ids, 1, max_length)
        if value is not None and len(ids) >= min_length:
            return ids, value


def _grow(rng: random.Random, ids: list[int], depth: int, max_length: int) -> int | None:
    """Append a list; None as soon as it is too long. Draws where the outermost is a digit are too short anyway."""
    operator = int(rng.random() * 4)
    ids.append(1 + operator)
    values = []
    for _ in range(int(rng.random() * (MAX_ARGUMENTS - 1)) + 2):
        if depth < MAX_DEPTH and rng.random() < LIST_SHARE:
            value = _grow(rng, ids, depth + 1, max_length)
            if value is None:
                return None
        else:
            value = int(rng.random() * 10)
            ids.append(_ZERO + value)
        values.append(value)
        if len(ids) >= max_length:
            return None
    ids.append(_END)
    return _FUNCTIONS[operator](values)
