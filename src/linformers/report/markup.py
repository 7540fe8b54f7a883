"""Small pieces of HTML; every text that goes in is escaped here."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template


def frame(title: str, body: str) -> str:
    """A whole page around markup that is trusted; nothing in it is fetched."""
    folder = resources.files("linformers.report")
    return Template((folder / "frame.html").read_text(encoding="utf-8")).substitute(
        title=escape(title), css=(folder / "page.css").read_text(encoding="utf-8"), body=body
    )


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    highlight: Iterable[int] = (),
    words: bool = False,
) -> str:
    """A table with a header row, a header column, and a frame that scrolls sideways where the screen is narrow.

    Args:
        caption: what it shows.
        head: names of the columns.
        rows: cells; the first of each row names it.
        highlight: numbers of the rows in bold.
        words: cells hold words rather than numbers.
    """
    marked = set(highlight)
    lines = [f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">']
    lines.append('<table class="words">' if words else "<table>")
    lines.append(f"<caption>{escape(caption)}</caption>")
    lines.append("<thead><tr>" + "".join(f'<th scope="col">{escape(name)}</th>' for name in head) + "</tr></thead>")
    lines.append("<tbody>")
    for number, (name, *cells) in enumerate(rows):
        mark = ' class="ours"' if number in marked else ""
        values = "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
        lines.append(f'<tr{mark}><th scope="row">{escape(str(name))}</th>{values}</tr>')
    lines.append("</tbody></table></div>")
    return "\n".join(lines)


def figure(plot: str, caption: str, link: str = "", *, light: bool = False) -> str:
    """A plot (markup, trusted) with its caption and a link to its data; ``light`` ones do not follow dark mode."""
    kind = ' class="light"' if light else ""
    return f"<figure{kind}>\n{plot}\n<figcaption>{escape(caption)} {link}</figcaption>\n</figure>"


def image(png: bytes, alt: str) -> str:
    """A picture inside the page."""
    return f'<img src="data:image/png;base64,{b64encode(png).decode()}" alt="{escape(alt)}">'


def csv_link(name: str, content: str) -> str:
    """Data to save, inside the page."""
    data = b64encode(content.encode()).decode()
    name = escape(f"{name}.csv")
    return f'<a download="{name}" href="data:text/csv;charset=utf-8;base64,{data}">Data ({name})</a>'


def fact(name: str, number: str, detail: str) -> str:
    """One headline number."""
    return f'<div><dt>{escape(name)}</dt><dd class="number">{escape(number)}</dd><dd>{escape(detail)}</dd></div>'


def definitions(pairs: Iterable[tuple[str, object]]) -> str:
    """Name and value, for a ``<dl>``."""
    return "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in pairs)


def commands(pairs: Iterable[tuple[str, str]]) -> str:
    """Commands to copy, each under a line that says what it does."""
    return "\n".join(f"<p>{escape(what)}</p>\n<pre><code>{escape(command)}</code></pre>" for what, command in pairs)


def passage(text: str, truth: str, guesses: Sequence[tuple[str, float]]) -> str:
    """The beginning of a text, where it comes from, and what the model thinks."""
    right = bool(guesses) and guesses[0][0] == truth
    thoughts = ", ".join(f"{name} {share:.0%}" for name, share in guesses)
    return (
        f"<blockquote><p>{escape(text)}</p>"
        f'<p class="faint">From <cite>{escape(truth)}</cite>. The model says: {escape(thoughts)}. '
        f"{'Right.' if right else 'Wrong.'}</p></blockquote>"
    )
