"""The plots of a quickstart, each drawn once and saved twice (PNG for elsewhere, SVG for the page), and of fine-tuning.

In the SVG every colour becomes a variable of the page's style sheet, so that plots follow dark mode and print.
"""

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

TEXT, FAINT, PAPER = "#1f2329", "#c9ced6", "#ffffff"
COLOURS = {"linformer": "#1d5fd1", "transformer": "#b4480f", "control": "#6b7280"}
# matplotlib's own ten, "C0" to "C9", of lines without a name.
_CYCLE = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
_VARIABLES = {
    TEXT: "--text",
    FAINT: "--line",
    PAPER: "--paper",
    **{colour: f"--{name}" for name, colour in COLOURS.items()},
    **{colour: f"--c{number}" for number, colour in enumerate(_CYCLE)},
}
# Shape and dash tell the lines apart where colour cannot.
_STYLES = {"linformer": ("o", "-"), "transformer": ("s", "--"), "control": ("^", ":")}
_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": TEXT,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": TEXT,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 2.0,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
}
LONGEST_NAME = 30  # characters of a class on an axis
FEW_TICKS = 8  # that each have a label
FEW_LINES = 6  # that leave room for a legend among them
_SIZE = (4.6, 3.2)  # inches; about the width of a phone, where the page shows it at full size


_styled = matplotlib.rc_context(_RC)  # as a decorator: drawn and saved under these settings


@_styled
def plot_learning(runs: Sequence[dict[str, Any]], stages: Sequence[Sequence[float]]) -> Figure:
    """Training perplexity of each pretraining run against its steps, and the stages of sequence length."""
    figure, axes = _axes("steps", "perplexity in training")
    for run in runs:
        # Averages over a fortieth of the run: single steps are noise.
        group = math.ceil(len(run["losses"]) / 40)
        parts = [run["losses"][start : start + group] for start in range(0, len(run["losses"]), group)]
        values = [math.exp(sum(loss for _, loss in part) / len(part)) for part in parts]
        _line(axes, run["name"], [part[-1][0] for part in parts], values, run["label"], every=len(parts) // 6 + 1)
    last, done = runs[0]["losses"][-1][0], 0.0
    for number, (length, share) in enumerate(stages):
        if number % 2:
            axes.axvspan(done * last, (done + share) * last, color=FAINT, alpha=0.3, linewidth=0)
        axes.text((done + share / 2) * last, 1.01, f"{length:,}", transform=axes.get_xaxis_transform(), ha="center")
        done += share
    axes.set_xlim(0, last)
    axes.legend()
    return figure


@_styled
def plot_passages(
    rows: Sequence[tuple[str, str, float]],
    intervals: Sequence[tuple[float, float]] | None = None,
    quantity: str = "accuracy on held-out passages",
) -> Figure:
    """Accuracy: bars of (colour name, label, share), with intervals where they are known."""
    figure, axes = _axes(quantity, "")
    names = [",\n".join(label.rsplit(", ", 1)) for _, label, _ in rows]
    figure.set_figheight(max(_SIZE[1], 0.18 * sum(name.count("\n") + 1.5 for name in names)))
    places = range(len(rows))
    axes.barh(places, [100 * share for *_, share in rows], color=[COLOURS[name] for name, *_ in rows], height=0.6)
    for place, (_, _, share) in zip(places, rows, strict=True):
        end = share
        if intervals is not None:
            low, end = intervals[place]
            axes.plot([100 * low, 100 * end], [place, place], color=TEXT, linewidth=1.2)
        axes.annotate(f"{share:.0%}", (100 * end, place), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}%"))
    axes.grid(axis="y", visible=False)
    return figure


@_styled
def plot_cost(cells: Sequence[dict[str, Any]], labels: dict[str, str], field: str, unit: float, axis: str) -> Figure:
    """One quantity of the measured forward passes against the length, both axes logarithmic."""
    figure, axes = _axes("length of the text in tokens", axis)
    for name, label in labels.items():
        points = [(cell["length"], cell[field] / unit) for cell in cells if cell["name"] == name and cell[field]]
        if points:
            lengths, values = zip(*points, strict=True)
            _line(axes, name, lengths, values, label)
    _scale_by_length(axes, {cell["length"] for cell in cells})
    axes.legend()
    return figure


@_styled
def plot_scaling(panels: Sequence[tuple[str, dict[str, list[tuple[int, float]]]]]) -> Figure:
    """Quantities against the length, side by side, all axes logarithmic.

    Args:
        panels: For each panel, the name of the quantity, and lines of (tokens, value) by their labels; a label has one
            colour and one marker in all panels.
    """
    figure = Figure(figsize=(_SIZE[0] * len(panels), _SIZE[1] * 1.2), layout="constrained")
    labels = list(dict.fromkeys(label for _, lines in panels for label in lines))
    for axes, (quantity, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for label, points in lines.items():
            number = labels.index(label)
            lengths, values = zip(*points, strict=True)
            axes.plot(lengths, values, color=f"C{number % 10}", marker="os^Dv<>pP*"[number % 10], label=label)
        axes.set_xlabel("length of the text in tokens")
        axes.set_ylabel(quantity)
        _scale_by_length(axes, {length for points in lines.values() for length, _ in points})
    if labels:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2 * len(panels))
    return figure


@_styled
def plot_confusion(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Figure:
    """How often each class was taken for each: counts, coloured by their share of the true class."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels, predicted, labels=range(len(classes)))
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    side = max(_SIZE[1], 0.45 * len(classes) + 1.5)
    figure = Figure(figsize=(side * 1.2, side), layout="constrained")
    axes = figure.add_subplot()
    # Squares of one colour and some opacity: an image could not follow dark mode.
    for row, column in zip(*np.nonzero(counts), strict=True):
        place = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(place, 1, 1, color=COLOURS["linformer"], alpha=shares[row, column], linewidth=0))
    axes.set_xlim(-0.5, len(classes) - 0.5)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_aspect("equal")
    if len(classes) <= 30:  # more do not fit
        for (row, column), count in np.ndenumerate(counts):
            colour = PAPER if shares[row, column] > 0.5 else TEXT
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour)
        names = [plain(_shortened(name)) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.grid(visible=False)
    return figure


@_styled
def plot_lengths(edges: Sequence[int], counts: Sequence[int], cut: int, rows: str) -> Figure:
    """How many texts are how long, with the length marked at which they are cut.

    Args:
        edges: Tokens where the bars begin, and where the last one ends.
        counts: Texts of each bar, one fewer than edges.
        cut: Tokens of the longest text that is read whole.
        rows: What is counted.
    """
    figure, axes = _axes("tokens of a text", rows)
    axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=COLOURS["linformer"], linewidth=0)
    axes.axvline(cut, color=COLOURS["transformer"], linestyle="--", label=f"cut at {cut:,}")
    axes.set_xlim(0, 1.02 * max(edges[-1], cut))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=7.5)
    return figure


@_styled
def plot_thresholds(points: Sequence[Sequence[float]], chosen: float, target: str) -> Figure:
    """Precision and recall of what is flagged against the threshold, with the chosen one marked.

    Args:
        points: Threshold, precision and recall.
        chosen: The chosen threshold.
        target: Name of what is flagged.
    """
    figure, axes = _axes(f"threshold for {plain(target)}", "share")
    places, precisions, recalls = zip(*points, strict=True)
    axes.plot(places, precisions, color=COLOURS["linformer"], label="precision")
    axes.plot(places, recalls, color=COLOURS["transformer"], linestyle="--", label="recall")
    axes.axvline(chosen, color=TEXT, linewidth=0.8, linestyle=":", label=f"chosen: {chosen:.4g}")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=7.5)
    return figure


@_styled
def plot_reliability(predicted: Sequence[float], found: Sequence[float], target: str) -> Figure:
    """The share of the target against its mean probability, in tenths of the documents."""
    lines = {"fit: perfectly calibrated": ([0, 1], [0, 1]), "documents, a tenth each": (predicted, found)}
    return plot_lines(lines, f"probability of {plain(target)}", f"share of {plain(target)}")


@_styled
def plot_spectrum(curves: np.ndarray, labels: Sequence[str], index: int) -> Figure:
    """Share of the mass of the first singular values, a line for each row of ``curves``; ``index`` is marked."""
    figure, axes = _axes("singular values, largest first", "share of their sum")
    places = np.arange(1, curves.shape[1] + 1)
    for number, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        axes.plot(places, curve, color=_shade(number, len(curves)), linewidth=1.4, label=label)
    axes.axvline(index, color=TEXT, linewidth=0.8, linestyle=":")
    axes.set_xlim(0, curves.shape[1])
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=7.5, ncols=1 + len(curves) // 9)
    return figure


@_styled
def plot_shares_by_head(shares: np.ndarray, layers: Sequence[int], index: int) -> Figure:
    """Heat map, layer x head, of the share that the first ``index`` singular values have."""
    figure, axes = _axes("head", "layer")
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=f"share of the first {index} singular values")
    return figure


@_styled
def plot_projections(matrices: dict[str, np.ndarray]) -> Figure:
    """Learned projections, a row for each slot and a column for each token; at most six of them."""
    chosen = list(matrices.items())[:6]
    figure = Figure(figsize=(_SIZE[0] * 1.6, 1.5 * len(chosen) + 0.5), layout="constrained")
    for axes, (name, matrix) in zip(figure.subplots(len(chosen), squeeze=False)[:, 0], chosen, strict=True):
        limit = float(np.quantile(np.abs(matrix), 0.999)) or 1.0
        image = axes.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        axes.set_title(name, fontsize=9.5)
        axes.set_ylabel("slot")
        axes.grid(visible=False)
        figure.colorbar(image, ax=axes)
    axes.set_xlabel("token")
    return figure


@_styled
def plot_layer_errors(grid: Sequence[int], errors: np.ndarray, dims: Mapping[int, int | None], quantity: str) -> Figure:
    """What each layer's compression costs against its slots, with the advised number marked; None = softmax.

    Args:
        grid: Slots at which errors were measured.
        errors: Errors, a row for each layer of ``dims``.
        dims: Number of a layer -> its advised slots.
        quantity: Name of the errors.
    """
    figure, axes = _axes("slots, k", quantity)
    for number, (row, (layer, k)) in enumerate(zip(errors, dims.items(), strict=True)):
        colour = _shade(number, len(errors))
        axes.plot(grid, row, color=colour, linewidth=1.4, label=f"layer {layer}" + ("" if k else ": softmax"))
        if k:
            axes.plot(k, np.interp(k, grid, row), "o", color=colour)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(grid)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7.5, ncols=1 + len(errors) // 9)
    return figure


@_styled
def plot_lines(
    lines: Mapping[str, Sequence[Any]], x: str, y: str, *, log_x: bool = False, log_y: bool = False
) -> Figure:
    """Some quantities against another; "fit", "bound" and "published" begin labels of thin lines without points."""
    figure, axes = _axes(x, y)
    for number, (label, (places, values)) in enumerate(lines.items()):
        thin = label.startswith(("fit", "bound", "published"))
        style: Any = {"linewidth": 1.0, "linestyle": "--"} if thin else {"marker": "os^Dv<>pP*"[number % 10]}
        if number >= 10 and not thin:  # colours and markers begin again
            style["linestyle"] = ":"
        axes.plot(places, values, color=f"C{number % 10}", label=label.removeprefix("fit: "), **style)
    there = sorted({place for places, _ in lines.values() for place in places})
    if log_x:
        axes.set_xscale("log", base=2 if there[0] >= 1 else 10)
        if len(there) <= FEW_TICKS:
            axes.xaxis.set_major_locator(FixedLocator(there))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    elif all(place == int(place) for place in there):  # layers, steps
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log_y:
        axes.set_yscale("log")
        _label_logarithms(axes)
    if len(lines) <= FEW_LINES:
        axes.legend(fontsize=7.5)
    else:  # no room between the lines
        figure.set_figheight(_SIZE[1] + 0.17 * math.ceil(len(lines) / 3))
        figure.legend(loc="outside lower center", ncols=3, fontsize=7.5)
    return figure


@contextmanager
def _without_glyphs() -> Iterator[None]:
    """Names of classes are in any script, and matplotlib warns of each sign that its font lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _shortened(name: str) -> str:
    """A name that leaves room for the plot beside it."""
    line = " ".join(name.split())
    return line if len(line) <= LONGEST_NAME else f"{line[: LONGEST_NAME - 3]}..."


def plain(text: str) -> str:
    """A label that is shown as it is: matplotlib would take what stands between dollars for mathematics."""
    return text.replace("$", r"\$")


@_styled
def save_png(figure: Figure, path: Path) -> None:
    """Save at twice the size of the screen; a sign that the font lacks becomes a box."""
    with _without_glyphs():
        figure.savefig(path, dpi=200)


@_styled
def to_svg(figure: Figure, title: str, description: str, key: str) -> str:
    """The figure as an ``<svg>`` element that says what it shows.

    Args:
        figure: What to draw.
        title: Name of it, for readers who cannot see it.
        description: What it shows, likewise.
        key: Word of its own for every figure of a page; ids start with it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": key}), _without_glyphs():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(id="|(?:xlink:)?href="#)([^"]+)"', rf' \1{key}-\2"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)  # the page's own font
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    view = re.search(r'viewBox="[^"]+"', svg)
    assert view is not None
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view.group()}'
    about = f'role="img" aria-labelledby="{key}-title {key}-description"'
    names = f'<title id="{key}-title">{escape(title)}</title>'
    names += f'<desc id="{key}-description">{escape(description)}</desc>'
    return f"{head} {about}>{names}{svg[svg.index('>') + 1 :].strip()}"


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _scale_by_length(axes: Axes, lengths: set[int]) -> None:
    """Logarithmic axes, with a tick for each length."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(lengths)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value < 1024 else f"{value / 1024:g}k")
    )
    _label_logarithms(axes)


def _label_logarithms(axes: Axes) -> None:
    """Labels of a logarithmic y axis: 0.01 instead of a power of ten, and some within one, where there are few."""
    low, high = axes.get_ylim()
    if high < 5 * low:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    elif high < 100 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _shade(number: int, count: int) -> Any:
    """A colour for the first, ..., the last of some lines in an order."""
    return matplotlib.colormaps["viridis"](0.92 * number / max(count - 1, 1))


def _line(axes: Axes, name: str, x: Sequence[float], y: Sequence[float], label: str, every: int = 1) -> None:
    marker, dash = _STYLES[name]
    axes.plot(x, y, color=COLOURS[name], marker=marker, markevery=every, linestyle=dash, label=label)
