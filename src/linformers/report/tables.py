"""Tables that more than one section of the page has."""

from typing import Any

from linformers.report import markup, words
from linformers.report.words import MEBIBYTE


def cost_table(
    cells: list[dict[str, Any]], caption: str, *, ours: str = "Linformer", softmax: str = "Transformer"
) -> str:
    """Time and memory of two models by length, from measurements named ``linformer`` and ``transformer``."""
    found = {(cell["name"], cell["length"]): cell for cell in cells}
    rows = []
    for length in sorted({n for _, n in found}):
        a, b = found.get(("linformer", length)), found.get(("transformer", length))
        ratio = f"{b['seconds'] / a['seconds']:.2g}x" if a and b else "-"
        rows.append((f"{length:,}", _time(a), _time(b), ratio, _memory(a), _memory(b)))
    return markup.table(caption, ["tokens", ours, softmax, "faster by", f"{ours}, memory", f"{softmax}, memory"], rows)


def _time(cell: dict[str, Any] | None) -> str:
    return words.seconds(cell["seconds"]) if cell else "not measured"


def _memory(cell: dict[str, Any] | None) -> str:
    return f"{cell['peak_bytes'] / MEBIBYTE:,.0f} MiB" if cell and cell["peak_bytes"] is not None else "not measured"
