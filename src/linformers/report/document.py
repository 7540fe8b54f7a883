"""A report as data: sections of text, tables and charts; one HTML page, CSV and PNG files, or tables in a terminal."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.table
from matplotlib.figure import Figure

from linformers.report import markup, plots


def slug(text: str) -> str:
    """Letters, digits and hyphens for what may be anything."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") or "x"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a head; the first cell of a row names it, those of ``highlight`` are bold; ``words`` = few numbers."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    highlight: Sequence[int] = ()
    words: bool = False

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
        name: of its files; other characters than letters and digits become hyphens.
        picture: the plot, or a PNG file's content.
        alt: what it shows, for those who cannot see it.
        caption: below it.
        head: names of the columns of its data.
        rows: its data; none for a PNG whose data are in a table beside it.
        light: its colours need a light ground, in dark mode too.
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

    def as_html(self) -> str:
        """The plot with its caption and its data."""
        if isinstance(self.picture, bytes):
            plot = markup.image(self.picture, self.alt)
        else:
            plot = plots.to_svg(self.picture, markup.escape(self.name), markup.escape(self.alt), self.name)
        link = markup.csv_link(self.name, self.as_csv()) if self.head else ""
        return markup.figure(plot, self.caption, link, light=self.light)


Block = str | Table | Chart


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, and paragraphs, tables and charts below it."""

    title: str
    blocks: Sequence[Block]

    def as_html(self) -> str:
        """Charts that follow each other stand side by side."""
        parts, charts = [], []
        for block in [*self.blocks, ""]:
            if isinstance(block, Chart):
                charts.append(block.as_html())
                continue
            if charts:
                parts.append('<div class="plots">\n' + "\n".join(charts) + "\n</div>")
                charts = []
            if isinstance(block, Table):
                marks = {"highlight": block.highlight, "words": block.words}
                parts.append(markup.table(block.caption, block.head, block.rows, **marks))
            elif block:
                parts.append(f"<p>{markup.escape(block)}</p>")
        return f"<section>\n<h2>{markup.escape(self.title)}</h2>\n" + "\n".join(parts) + "\n</section>"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A page.

    Args:
        title: of the page.
        lead: what it is about, in a sentence or two.
        facts: headline numbers: name, number, detail.
        sections: in their order.
        made: how it was made: name and value.
        links: other pages beside this one: text and address.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str, str]] = ()
    made: Sequence[tuple[str, object]] = ()
    links: Sequence[tuple[str, str]] = ()

    def charts(self) -> Iterator[Chart]:
        """All charts of the page."""
        yield from (block for section in self.sections for block in section.blocks if isinstance(block, Chart))

    def as_html(self) -> str:
        """The whole page: nothing is fetched, no script, all text escaped."""
        facts = "\n".join(markup.fact(*fact) for fact in self.facts)
        links = "".join(f'<li><a href="{markup.escape(to)}">{markup.escape(text)}</a></li>' for text, to in self.links)
        made = f'<section>\n<h2>How this was made</h2>\n<dl class="made">\n{markup.definitions(self.made)}\n</dl>'
        parts = [
            f'<header>\n<h1>{markup.escape(self.title)}</h1>\n<p class="lead">{markup.escape(self.lead)}</p>',
            f'<dl class="facts">\n{facts}\n</dl>' if facts else "",
            "</header>",
            f'<nav aria-label="Reports"><ul>{links}</ul></nav>' if links else "",
            *(section.as_html() for section in self.sections),
            f"{made}\n</section>" if self.made else "",
        ]
        return markup.frame(self.title, "\n".join(part for part in parts if part))

    def write_charts(self, folder: Path) -> None:
        """Each chart as PNG, and its data as CSV."""
        for chart in self.charts():
            if isinstance(chart.picture, bytes):
                (folder / f"{chart.name}.png").write_bytes(chart.picture)
            else:
                plots.save_png(chart.picture, folder / f"{chart.name}.png")
            if chart.head:
                (folder / f"{chart.name}.csv").write_text(chart.as_csv(), encoding="utf-8")


def machine(environment: dict[str, Any]) -> list[tuple[str, object]]:
    """What ``describe_environment`` found, for ``made``."""
    facts = [f"{environment[key]} {unit}" for key, unit in (("cores", "cores"), ("memory_gb", "GB"))]
    found: list[tuple[str, object]] = [
        ("Machine", ", ".join([str(environment["processor"]), *facts, str(environment["system"])])),
        ("Ran on", f"{environment['device']}, {environment['threads']} threads"),
    ]
    versions = {"Python": environment["python"], **environment.get("versions", {})}
    return [*found, ("Versions", ", ".join(f"{name} {number}" for name, number in versions.items()))]
