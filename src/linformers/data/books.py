"""The public-domain books that ship with the package (see ``books/README.md`` for where each comes from)."""

import gzip
import json
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, kw_only=True)
class Book:
    """One book: a Project Gutenberg number, a short title, the author, and text with one paragraph a line."""

    gutenberg_id: int
    title: str
    author: str
    text: str


def load_books(limit: int | None = None) -> list[Book]:
    """Read the shipped books, in the order of their titles.

    Args:
        limit: how many to read; all when None.

    Raises:
        ValueError: ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} must be at least 1; leave it out to read every book")
    folder = resources.files("linformers.data") / "books"
    entries = json.loads((folder / "index.json").read_text(encoding="utf-8"))[:limit]
    return [
        Book(
            gutenberg_id=entry["gutenberg_id"],
            title=entry["title"],
            author=entry["author"],
            text=gzip.decompress((folder / entry["file"]).read_bytes()).decode("utf-8"),
        )
        for entry in entries
    ]
