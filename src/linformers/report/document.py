"""A report as data: text, tables, charts and commands in sections; one HTML page, CSV and PNG files, or a terminal."""

import csv
import io
import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.table
from markupsafe import Markup
from matplotlib.figure import Figure

from linformers.report import plots
from linformers.report.render import render

FEW_POINTS = 3  # of which a chart consists at least; fewer are a table's


def slug(text: str) -> str:
    """Letters, digits and hyphens for what may be anything."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") or "x"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a head; the first cell of a row names it.

    Args:
        caption: What it shows.
        head: Names of the columns.
        rows: Cells of each row.
        highlight: Numbers of the rows in bold.
        words: Whether cells hold words rather than numbers.
        folded: Line to click on, where the page shows the table only then.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    highlight: Sequence[int] = ()
    words: bool = False
    folded: str = ""

    def for_terminal(self) -> rich.table.Table:
        """The same for rich."""
        shown = rich.table.Table(title=self.caption, title_justify="left")
        for number, name in enumerate(self.head):
            shown.add_column(name, justify="right" if number and not self.words else "left")
        for row in self.rows:
            shown.add_row(*map(str, row))
        return shown


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A plot and the figures in it.

    Args:
        name: Name of its files; other characters than letters and digits become hyphens.
        picture: The plot, or a PNG file's content.
        alt: What it shows, for those who cannot see it.
        caption: Line below it.
        head: Names of the columns of its data.
        rows: Data; none where a table beside it has them.
        light: Whether its colours need a light ground, in dark mode too.
    """

    name: str
    picture: Figure | bytes
    alt: str
    caption: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    light: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", slug(self.name))  # it becomes part of ids and of file names

    def as_csv(self) -> str:
        """Its data."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.head, *self.rows])
        return text.getvalue()

    def data_address(self) -> str:
        """Address of its data inside the page."""
        return f"data:text/csv;charset=utf-8;base64,{_base64(self.as_csv().encode())}"

    def drawing(self) -> Markup:
        """The plot as an element of a page."""
        if isinstance(self.picture, Figure):
            return Markup(plots.to_svg(self.picture, self.name, self.alt, self.name))
        return Markup('<img src="data:image/png;base64,{}" alt="{}">').format(_base64(self.picture), self.alt)


@dataclass(frozen=True)
class Note:
    """A remark in fainter type."""

    text: str


@dataclass(frozen=True)
class Quote:
    """A text of someone else, and a line about it."""

    text: str
    about: str


@dataclass(frozen=True)
class Command:
    """A command to copy, under a line that says what it does."""

    what: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, and what stands below it."""

    title: str
    blocks: Sequence["Block"]


# A text is escaped, unless it is ``Markup``: ``Markup("<b>{}</b>").format(text)`` escapes what is put in.
Block = str | Table | Chart | Note | Quote | Command | Section


@dataclass(frozen=True, kw_only=True)
class Report:
    """A page.

    Args:
        title: Title of the page.
        lead: What it is about, in a sentence or two.
        sections: What it shows, in this order.
        facts: Headline numbers: name, number, detail.
        made: How it was made: name and value.
        links: Other pages beside this one: text and address.
    """

    title: str
    lead: str
    sections: Sequence[Block]
    facts: Sequence[tuple[str, str, str]] = ()
    made: Sequence[tuple[str, object]] = ()
    links: Sequence[tuple[str, str]] = ()

    def as_html(self) -> str:
        """The whole page: nothing is fetched, no script, all text escaped."""
        return render("page.html", page=self)

    def write_charts(self, folder: Path) -> None:
        """Each chart as PNG, and its data as CSV."""
        for chart in _charts(self.sections):
            if isinstance(chart.picture, bytes):
                (folder / f"{chart.name}.png").write_bytes(chart.picture)
            else:
                plots.save_png(chart.picture, folder / f"{chart.name}.png")
            if chart.head:
                (folder / f"{chart.name}.csv").write_text(chart.as_csv(), encoding="utf-8")


def _charts(blocks: Sequence[Block]) -> Iterator[Chart]:
    for block in blocks:
        if isinstance(block, Section):
            yield from _charts(block.blocks)
        elif isinstance(block, Chart):
            yield block


def _base64(content: bytes) -> str:
    return b64encode(content).decode()


def machine(environment: dict[str, Any]) -> list[tuple[str, object]]:
    """What ``describe_environment`` found, for ``made``."""
    facts = [f"{environment[key]} {unit}" for key, unit in (("cores", "cores"), ("memory_gb", "GB"))]
    load = environment.get("load_average")
    found: list[tuple[str, object]] = [
        ("Machine", ", ".join([str(environment["processor"]), *facts, str(environment["system"])])),
        (
            "Ran on",
            f"{environment['device']}, {environment['threads']} threads"
            + ("" if load is None else f"; load at the start {load}"),
        ),
    ]
    versions = {"Python": environment["python"], **environment.get("versions", {})}
    return [*found, ("Versions", ", ".join(f"{name} {number}" for name, number in versions.items()))]
