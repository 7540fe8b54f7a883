"""Small pieces of HTML; every text that goes in is escaped here."""

from collections.abc import Iterable, Sequence
from html import escape


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]], *, highlight: Iterable[int] = ()) -> str:
    """A table with a header row, a header column, and a frame that scrolls sideways where the screen is narrow.

    Args:
        caption: what it shows.
        head: names of the columns.
        rows: cells; the first of each row names it.
        highlight: numbers of the rows in bold.
    """
    marked = set(highlight)
    lines = [f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0"><table>']
    lines.append(f"<caption>{escape(caption)}</caption>")
    lines.append("<thead><tr>" + "".join(f'<th scope="col">{escape(name)}</th>' for name in head) + "</tr></thead>")
    lines.append("<tbody>")
    for number, (name, *cells) in enumerate(rows):
        mark = ' class="ours"' if number in marked else ""
        values = "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
        lines.append(f'<tr{mark}><th scope="row">{escape(str(name))}</th>{values}</tr>')
    lines.append("</tbody></table></div>")
    return "\n".join(lines)


def figure(svg: str, caption: str) -> str:
    """A plot (SVG markup, trusted) with its caption."""
    return f"<figure>\n{svg}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


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
