"""The report of any run folder: which file of it holds the results, and the pages of training and measurements."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from linformers.files.folders import write_file
from linformers.report import finetuning, pages, plots, quickstart, words
from linformers.report.document import FEW_POINTS, Chart, Report, Section, Table, machine
from linformers.report.scores import scores

REPORT = "report.html"
# The files of results, and the kind of those that do not tell it.
FILES: dict[str, str | None] = {
    "results.json": None,
    "advice.json": "linformers advise",
    "calibration.json": None,
    "export.json": "linformers export",
    "conversion.json": "linformers convert",
}
Results = dict[str, Any]


def write_report(folder: Path, others: Mapping[str, "Reader"] | None = None) -> Path:
    """Write ``report.html`` into a run's folder.

    Args:
        folder: Folder of the run.
        others: readers of further kinds of results, by their kind.

    Raises:
        ValueError: it holds no results that we know, or damaged ones.
        OSError: no such folder, or it cannot be written to.
    """
    write_file(folder / REPORT, make_report(folder, others))
    return folder / REPORT


def make_report(folder: Path, others: Mapping[str, "Reader"] | None = None) -> str:
    """The page of a run's folder; see ``write_report``."""
    readers = READERS | dict(others or {})
    kind, path = _kind_of(folder)
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if kind is None:
            kind = "linformers spectrum" if "spectrum" in results else str(results["kind"])
        if kind not in readers:
            raise ValueError(f"{path} is of kind {kind!r}, which has no report; those that do: {', '.join(readers)}")
        return readers[kind](folder, results).as_html()
    except (KeyError, TypeError, AttributeError, IndexError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged, or of another version ({type(error).__name__}: {error}); run the command that made it "
            "again"
        ) from error


def _kind_of(folder: Path) -> tuple[str | None, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{str(folder)!r} is no folder; name that of a finished run")
    for name, kind in FILES.items():
        if (folder / name).is_file():
            return kind, folder / name
    if (folder / "config.json").is_file() and (folder.parent / "results.json").is_file():
        raise ValueError(f"{str(folder)!r} is the model of a run: name the run's folder, {str(folder.parent)!r}")
    if (folder / "run.json").is_file():
        raise ValueError(f"the run in {str(folder)!r} is not finished: run its command again, then this one")
    raise ValueError(f"{str(folder)!r} holds no results of ours ({', '.join(FILES)}); name a run's folder")


# --- training


def _training(
    results: Results, run: Results, title: str, lead: str, extra: list[Section], facts: list, more: str = ""
) -> Report:
    """What pretraining, fine-tuning and distillation have in common."""
    evaluations = [(step, values) for step, values in results["evaluations"]]
    blocks: list[Any] = []
    names = dict.fromkeys(name for _, values in evaluations for name in values)
    held_out = {name: [(step, values[name]) for step, values in evaluations if name in values] for name in names}
    losses = {"training loss": results.get("losses") or [], "held-out loss": held_out.pop("loss", [])}
    if max(map(len, losses.values())) >= FEW_POINTS:
        there = {name: line for name, line in losses.items() if line}
        caption = f"{' and '.join(there).capitalize()}, of batches and of held-out data.{more}"
        blocks.append(pages.line_chart("loss", there, "steps", "loss", caption))
    for name, points in held_out.items():
        if len(points) >= FEW_POINTS:
            label = results.get("names", {}).get(name, name)
            blocks.append(
                pages.line_chart(name.replace("_", "-"), {label: points}, "steps", label, f"Held-out {label}.")
            )
    if evaluations:
        head = ["step", *evaluations[0][1]]
        rows = [(f"{step:,}", *(pages.shown(values.get(name)) for name in head[1:])) for step, values in evaluations]
        blocks.append(Table(caption="Evaluations on held-out data", head=head, rows=rows))
    made = [("Command", run.get("command", "unknown")), ("Began", run.get("started", "unknown"))]
    made += [("Commit", run["git_commit"])] if run.get("git_commit") else []
    environment = results.get("environment") or run.get("environment")
    return Report(
        title=title,
        lead=lead,
        facts=[*facts, ("Steps", f"{results['steps']:,}", f"in {words.seconds(results['seconds'])}")],
        sections=[*extra, Section(title="How it learned", blocks=blocks)],
        made=[*made, *(machine(environment) if environment else [])],
    )


def _pretrain(folder: Path, results: Results) -> Report:
    best, data = results["best"], results["data"]
    told = {name: len(value) if isinstance(value, list) else value for name, value in data.items()}
    rows = [(name.replace("_", " "), pages.shown(value)) for name, value in told.items() if not isinstance(value, dict)]
    return _training(
        results,
        _run(folder),
        f"Pretraining: {folder.resolve().name}",
        f"A masked language model of {results['parameters']:,} parameters.",
        [
            Section(
                title="What it read", blocks=[Table(caption="The text", head=["what", "value"], rows=rows, words=True)]
            )
        ],
        [
            ("Held-out perplexity, at best", f"{best['perplexity']:.2f}", f"at step {best['step']:,}"),
            ("Tokens", f"{results['tokens']:,}", f"{results['tokens'] / max(results['seconds'], 1e-9):,.0f} a second"),
        ],
    )


def _finetune(folder: Path, results: Results) -> Report:
    task = results["task"]
    return _training(
        results,
        _run(folder),
        f"Fine-tuning: {task['name']}",
        f"{task['kind'].replace('_', ' ')}, {len(task['classes'])} classes; {results['parameters']:,} parameters.",
        finetuning.sections(folder, results),
        finetuning.headline(results),
        " Weights of classes and a teacher, where there are any, count in training only.",
    )


def _distil(folder: Path, results: Results) -> Report:
    evaluations = results["evaluations"]
    first, last = (evaluations[place][1]["cosine"] for place in (0, -1))
    lead = "A converted encoder, brought closer to its teacher on plain text without labels."
    facts = [("Cosine of the last hidden states to the teacher's", f"{last:.4f}", f"{first:.4f} at the start")]
    return _training(results, _run(folder), f"Distillation: {folder.resolve().name}", lead, [], facts)


def _adapt(folder: Path, results: Results) -> Report:
    best = results["best"]
    lead = "An encoder that was taught to read long texts, on plain text without labels."
    rows = [
        (name, pages.shown(values["segments"]), pages.shown(values["passages"]))
        for name, values in (
            ("each segment by itself, before", results["alone"]),
            ("the whole text, before", results["before"]),
            ("the whole text, after", best),
        )
    ]
    head = ["read", "segments", "passages in one vector"]
    found = Table(caption="Mean reciprocal rank of held-out text, found by words of it", head=head, rows=rows)
    facts = [("Passages found, one vector", f"{best['passages']:.3f}", f"{results['before']['passages']:.3f} before")]
    sections = [Section(title="How text is found", blocks=[found])]
    return _training(results, _run(folder), f"Adaptation: {folder.resolve().name}", lead, sections, facts)


# --- measurements


def _benchmark(folder: Path, results: Results) -> Report:
    cells, identity = results["cells"], results["identity"]
    shown = [
        (
            cell["name"],
            f"{cell['length']:,}",
            cell["problem"] or words.seconds(cell["seconds"] / cell["batch_size"]),
            words.memory(cell["peak_bytes"]),
            cell["batch_size"] or "",
        )
        for cell in cells
    ]
    head = ["encoder", "tokens", "time a sequence", "memory", "batch"]
    options = [(name, json.dumps(value)) for name, value in identity["options"].items()]
    machine_of = {**identity["machine"], "versions": identity["versions"]}
    return Report(
        title="Time and memory by length",
        lead=". ".join(results["notes"][:1]) or "Passes over random tokens.",
        sections=[
            Section(
                title="Measured",
                blocks=[
                    *scaling_charts(cells),
                    Table(caption="All cells", head=head, rows=shown),
                    *results["notes"][1:],
                ],
            )
        ],
        made=[("Command", results["command"]), ("Written", results["written"]), *machine(machine_of), *options],
    )


def scaling_charts(cells: list[Results]) -> list[Chart]:
    """Time and memory of benchmark cells against the length."""
    charts = []
    for name, field, unit, axis in (
        ("time", "seconds", 1.0, "seconds a sequence"),
        ("memory", "peak_bytes", 1e6, "MB a sequence"),
    ):
        rows = [
            (cell["name"], cell["length"], cell[field] / cell["batch_size"] / unit)
            for cell in cells
            if not cell["problem"] and cell[field]
        ]
        lines = {label: [row[1:] for row in rows if row[0] == label] for label in dict.fromkeys(row[0] for row in rows)}
        if len({length for _, length, _ in rows}) < 2:  # a table's
            continue
        ends = ", ".join(f"{label} {points[-1][1]:.3g} at {points[-1][0]:,} tokens" for label, points in lines.items())
        charts.append(
            Chart(
                name=name,
                picture=plots.plot_scaling([(axis, {plots.plain(label): line for label, line in lines.items()})]),
                alt=f"Lines of {axis} against tokens, on logarithmic axes: {ends}.",
                caption=f"{axis[0].upper()}{axis[1:]}. Both axes are logarithmic: a steeper line grows faster.",
                head=("encoder", "tokens", axis.replace(" ", "_")),
                rows=rows,
            )
        )
    return charts


def _spectrum(folder: Path, results: Results) -> Report:
    found, options = results["spectrum"], results["options"]
    with (folder / "curves.csv").open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    charts = spectrum_charts(header, lines, found)
    trend = found["higher_layers_have_lower_rank"]
    rows = [
        (layer, f"{np.mean(share):.3f}", f"{np.min(share):.3f}", f"{np.mean(rank):.1f}")
        for layer, share, rank in zip(found["layers"], found["share"], found["effective_rank"], strict=True)
    ]
    head = ["layer", f"share of the first {found['index']}", "lowest head", "effective rank"]
    return Report(
        title=f"Is attention low-rank? {options['model']}",
        lead=f"Singular values of attention on {found['texts']:,} texts of {found['length']:,} tokens.",
        facts=[
            (
                "Higher layers have lower rank: correlation",
                f"{trend['correlation']:.2f}",
                f"95% interval {trend['low']:.2f} to {trend['high']:.2f}, p = {trend['p_value']:.2g}; below 0 = yes",
            )
        ],
        sections=[
            Section(title="Spectrum", blocks=charts),
            Section(title="By layer", blocks=[Table(caption="Means over heads and texts", head=head, rows=rows)]),
        ],
        made=[*((name, json.dumps(value)) for name, value in options.items()), *machine(results["environment"])],
    )


def spectrum_charts(head: list[str], rows: list[Any], found: Results, prefix: str = "") -> list[Chart]:
    """Figure 1 from a table of curves, as ``curves.csv`` has it, and what was found."""
    curves = np.array([[float(value) for value in row[1:]] for row in rows]).T
    names, index = [name.replace("_", " ") for name in head[1:]], found["index"]
    shares = np.array(found["share"])
    heads = [
        (layer, number, x) for layer, row in zip(found["layers"], shares, strict=True) for number, x in enumerate(row)
    ]
    ends = ", ".join(f"{name} {curve[index - 1]:.2f}" for name, curve in zip(names, curves, strict=True))
    return [
        Chart(
            name=f"{prefix}curves",
            picture=plots.plot_spectrum(curves, [plots.plain(name) for name in names], index),
            alt=f"Lines of the share of the first singular values. Of the first {index}: {ends}.",
            caption=f"Cumulative singular values, means over heads and texts; the dotted line is at {index}.",
            head=head,
            rows=rows,
            light=True,
        ),
        Chart(
            name=f"{prefix}heads",
            picture=plots.plot_shares_by_head(shares, found["layers"], index),
            alt=f"Heat map of layers and heads: from {shares.min():.2f} to {shares.max():.2f}.",
            caption=f"Share of the first {index} singular values, by layer and head.",
            head=("layer", "head", f"share_of_first_{index}"),
            rows=heads,
            light=True,
        ),
    ]


def _advise(folder: Path, results: Results) -> Report:
    grid, errors, all_dims = results["grid"], results["errors"], results["projected_dim"]
    # Earlier versions measured all layers.
    dims = {layer: all_dims[layer] for layer in results.get("layers", range(len(all_dims)))}
    rows = [
        (layer, "softmax" if k is None else k, *(f"{error:.4f}" for error in row))
        for row, (layer, k) in zip(errors, dims.items(), strict=True)
    ]
    costs = [
        (
            f"{cost['attention']}, {cost['length']:,} tokens",
            words.seconds(cost["seconds"]),
            words.memory(cost["peak_bytes"]),
        )
        for cost in results["costs"]
    ]
    chart = Chart(
        name="errors",
        picture=plots.plot_layer_errors(grid, np.array(errors), dims, plots.plain(results["errors_are"])),
        alt=f"Lines of the {results['errors_are']} of each layer against k; the table below has the numbers.",
        caption="What compression costs each layer, with the advised number of slots marked.",
        head=("layer", *(f"k_{k}" for k in grid)),
        rows=[(layer, *row) for layer, row in zip(dims, errors, strict=True)],
        light=True,
    )
    head = ["layer", "advised k", *(f"k = {k}" for k in grid)]
    sections = [
        Section(
            title="Slots for each layer",
            blocks=[chart, Table(caption=results["errors_are"], head=head, rows=rows)],
        )
    ]
    if costs:
        blocks = [Table(caption="One text on this machine", head=["attention", "time", "peak memory"], rows=costs)]
        sections.append(Section(title="What it gains", blocks=blocks))
    facts = [("Error of the last hidden states", f"{results['hidden_error']:.3f}", "relative, as advised")]
    if results["uniform_error"] is not None:
        facts.append(("The same with the mean k in every layer", f"{results['uniform_error']:.3f}", ""))
    return Report(
        title=f"Which k does each layer need? {results['model']}",
        lead=f"Measured on texts of {results['length']:,} tokens, for the target {json.dumps(results['target'])}.",
        facts=facts,
        sections=sections,
        made=[("Texts", ", ".join(results["texts"])), *machine(results["environment"])],
    )


Reader = Callable[[Path, Results], Report]
READERS: dict[str, Reader] = {
    "linformers quickstart": lambda _, results: quickstart.document(results),
    "linformers pretrain": _pretrain,
    "linformers finetune": _finetune,
    "linformers distil": _distil,
    "linformers adapt": _adapt,
    "linformers score": scores,
    "linformers embed": scores,
    "linformers benchmark": _benchmark,
    "linformers spectrum": _spectrum,
    "linformers advise": _advise,
    "linformers convert": pages.converted,
    "linformers export": pages.exported,
    "linformers calibrate": pages.calibrated,
}


def _run(folder: Path) -> Results:
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
