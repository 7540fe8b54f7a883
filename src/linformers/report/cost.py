"""What length costs a linear model and the same one with softmax attention: charts and a table."""

from typing import Any

from linformers.report import plots, words
from linformers.report.document import Chart, Table

Cells = list[dict[str, Any]]  # measurements, named ``linformer`` and ``transformer``
Labels = dict[str, str]  # what a reader calls the two


def time_chart(name: str, cells: Cells, labels: Labels) -> Chart:
    """Time by length."""
    ours, softmax = words.longest_common(cells)
    shortest = min(cell["length"] for cell in cells)
    return Chart(
        name=name,
        picture=plots.plot_cost(cells, labels, "seconds", 1, "seconds for one pass"),
        alt=f"Two lines of time from {shortest:,} to {ours['length']:,} tokens. At the end: {labels['linformer']} "
        f"{words.seconds(ours['seconds'])}, {labels['transformer']} {words.seconds(softmax['seconds'])}.",
        caption="Time of one forward pass. Both axes are logarithmic: a steeper line grows faster.",
    )


def memory_chart(name: str, cells: Cells, labels: Labels) -> Chart:
    """Memory by length."""
    return Chart(
        name=name,
        picture=plots.plot_cost(cells, labels, "peak_bytes", words.MEBIBYTE, "MiB beyond the model"),
        alt="Two lines of peak memory by length; the numbers are in the table below.",
        caption="Most memory held during one forward pass, beyond what the model itself takes.",
    )


def headlines(model: str, cells: Cells, labels: Labels) -> list[tuple[str, str, str]]:
    """Facts of a page: time, and memory where it was measured, at the longest length that both have."""
    ours, softmax = words.longest_common(cells)
    facts = []
    for what, field, shown in (("time", "seconds", words.seconds), ("memory", "peak_bytes", words.memory)):
        if ours[field] and softmax[field]:
            ratio = words.times(ours[field] / softmax[field], "less", "more")
            detail = f"{shown(ours[field])}, {labels['transformer']} {shown(softmax[field])}"
            facts.append((f"{model}: {what} for {ours['length']:,} tokens", ratio, detail))
    return facts


def cost_table(caption: str, cells: Cells, labels: Labels) -> Table:
    """Time, and memory where it was measured, by length."""
    found = {(cell["name"], cell["length"]): cell for cell in cells}
    measured = any(cell["peak_bytes"] for cell in cells)
    rows = []
    for length in sorted({n for _, n in found}):
        both = [found.get((name, length)) for name in ("linformer", "transformer")]
        times = [cell["seconds"] for cell in both if cell]
        rows.append(
            (
                f"{length:,}",
                *(words.seconds(cell["seconds"]) if cell else "not measured" for cell in both),
                f"{times[1] / times[0]:.2g}x" if len(times) == 2 else "-",
                *(words.memory(cell["peak_bytes"] if cell else None) for cell in both if measured),
            )
        )
    ours, softmax = labels["linformer"], labels["transformer"]
    head = ["tokens", ours, softmax, "faster by", *([f"{ours}, memory", f"{softmax}, memory"] if measured else [])]
    return Table(caption=caption, head=head, rows=rows)
