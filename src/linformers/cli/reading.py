"""Options of all commands that read text."""

from typing import Annotated

import typer

Delimiter = Annotated[
    str | None,
    typer.Option(help="What stands between fields of CSV: a character, tab, semicolon, ....", show_default="found"),
]
Encoding = Annotated[
    str | None,
    typer.Option(help="Encoding of CSV, JSON and text, as utf-8, utf-16 or cp1252.", show_default="found"),
]


def columns(names: list[str] | None) -> str | tuple[str, ...] | None:
    """One column, several, or None."""
    return tuple(names) if names and len(names) > 1 else names[0] if names else None
