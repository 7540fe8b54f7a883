"""Argument checks whose messages name the field, the value and the remedy."""

import difflib
from collections.abc import Iterable
from typing import Any


def closest(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the choice nearest to ``name``, or an empty string."""
    matches = difflib.get_close_matches(str(name), list(choices), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def check_choice(field: str, value: Any, choices: Iterable[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{field}={value!r} is unknown: choose one of {', '.join(choices)}.{closest(value, choices)}")


def check_int(field: str, value: Any, minimum: int = 1) -> None:
    """Raise ``TypeError`` unless ``value`` is an int (no bool), ``ValueError`` if it is below ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{field} must be an int, got {value!r} ({type(value).__name__}).")
    if value < minimum:
        raise ValueError(f"{field} must be at least {minimum}, got {value}: give a larger one.")


def check_heads(hidden_size: int, num_attention_heads: int) -> None:
    """Raise ``ValueError`` unless the heads divide the hidden size."""
    check_int("hidden_size", hidden_size)
    check_int("num_attention_heads", num_attention_heads)
    if hidden_size % num_attention_heads:
        divisors = [h for h in range(1, hidden_size + 1) if hidden_size % h == 0]
        nearest = min(divisors, key=lambda h: abs(h - num_attention_heads))
        raise ValueError(
            f"num_attention_heads={num_attention_heads} does not divide hidden_size={hidden_size}: "
            f"use {nearest} heads, or another hidden size."
        )


def check_number(field: str, value: Any, minimum: float = 0) -> None:
    """Raise ``TypeError`` unless ``value`` is a number, ``ValueError`` if it is below ``minimum`` or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{field} must be a number, got {value!r} ({type(value).__name__}).")
    if not minimum <= value < float("inf"):
        raise ValueError(f"{field} must be a number from {minimum} on, got {value}: give another one.")


def check_probability(field: str, value: Any) -> None:
    """Raise ``TypeError`` unless ``value`` is a number, ``ValueError`` unless it lies in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{field} must be a number, got {value!r} ({type(value).__name__}).")
    if not 0 <= value < 1:
        raise ValueError(f"{field} must be in [0, 1), got {value}: 0 switches it off.")
