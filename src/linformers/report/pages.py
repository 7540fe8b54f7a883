"""Pages of what makes models and judges them: conversions, exports, calibrations."""

import json
from pathlib import Path
from typing import Any

from linformers.report import plots
from linformers.report.document import FEW_POINTS, Block, Chart, Report, Section, Table, machine

Results = dict[str, Any]


def converted(folder: Path, facts: Results) -> Report:
    """The page of a converted model: its settings, and how far it is from its teacher."""
    name = facts["converted_from"]
    exact = f"the teacher's outputs up to {facts['exact_up_to']:,} tokens" if facts["exact_up_to"] else "none of them"
    found = [(label.replace("_", " "), shown(value)) for label, value in facts["settings"].items()]
    blocks: list[Block] = [Table(caption="What it computes", head=("setting", "value"), rows=found, words=True)]
    sections = [Section(title="The model", blocks=[*blocks, *map(str, facts.get("notes", ()))])]
    path = folder / "fidelity.json"
    if path.is_file():
        distance = json.loads(path.read_text(encoding="utf-8"))
        sections.append(Section(title="How near its teacher it is", blocks=_fidelity(distance)))
    return Report(
        title=f"Conversion: {name}",
        lead=f"{facts['architecture']}, made from {name}. Computed exactly: {exact}.",
        facts=[("Longest input", shown(facts["max_length"]), "tokens")] if facts["max_length"] else [],
        sections=sections,
        made=[("Command", facts["command"]), ("Time", f"{facts['seconds']:g} s"), *machine(facts["environment"])],
    )


def _fidelity(found: Results) -> list[Block]:
    rows = [
        (number or "embeddings", f"{layer['cosine']:.4f}", f"{layer['relative_error']:.4f}")
        for number, layer in enumerate(found["layers"])
    ]
    said = (
        f"On {found['texts']:,} texts of {found['tokens']:,} tokens, the longest {found['longest']:,}: the mean "
        f"embeddings have a cosine of {found['embedding_cosine']:.4f}."
    )
    table = Table(caption="Hidden states of each layer", head=("layer", "cosine", "relative error"), rows=rows)
    if len(rows) < FEW_POINTS:
        return [said, table]
    points = [(number, layer["cosine"]) for number, layer in enumerate(found["layers"])]
    return [
        said,
        line_chart("layers", {"cosine": points}, "layer", "cosine to the teacher", "Cosine to the teacher, by layer."),
        table,
    ]


def exported(folder: Path, facts: Results) -> Report:
    """The page of an export: what was checked, and what int8 costs."""
    checks = [(one["length"], one["batch"], one["padding"], f"{one['difference']:.1e}") for one in facts["checks"]]
    head = ("tokens", "batch", "padding", "largest difference")
    sections = [Section(title="ONNX beside torch", blocks=[Table(caption="float32", head=head, rows=checks)])]
    if facts["int8"]:
        error, accuracy = facts["int8"]["error"], facts["int8"]["accuracy"]
        rows = [(name.replace("_", " "), shown(value)) for name, value in error.items() if value is not None]
        blocks: list[Block] = [Table(caption="int8 against torch, on texts", head=("what", "value"), rows=rows)]
        if accuracy:
            cells = [(name.replace("_", " "), shown(value)) for name, value in accuracy.items()]
            blocks.append(Table(caption="On labelled rows", head=("what", "value"), rows=cells))
        sections.append(Section(title="What int8 costs", blocks=blocks))
    versions = {**facts["environment"]["versions"], **facts["onnx_versions"]}
    return Report(
        title=f"Export: {facts['model']}",
        lead=f"{facts['architecture']} as {facts['format']}, up to {facts['max_length']:,} tokens.",
        facts=[("Size", f"{facts['bytes'] / 1e6:,.1f} MB", facts["format"])],
        sections=sections,
        made=[("Command", facts["command"]), *machine({**facts["environment"], "versions": versions})],
    )


def calibrated(folder: Path, facts: Results) -> Report:
    """The page of a calibration: the threshold, what it gives, and two charts."""
    documents, target = facts["documents"], facts["target"]
    shares = [
        (name.capitalize(), f"{facts[name]['value']:.4f}", f"95% interval {_between(facts[name])}")
        for name in ("precision", "recall")
    ]
    bins = [(f"{one['predicted']:.4f}", f"{one['found']:.4f}", one["documents"]) for one in facts["bins"]]
    head = (f"probability of {target}", "share found", "documents")
    blocks: list[Block] = []
    if len(facts["bins"]) >= FEW_POINTS:
        predicted, found = ([one[name] for one in facts["bins"]] for name in ("predicted", "found"))
        blocks.append(
            Chart(
                name="reliability",
                picture=plots.plot_reliability(predicted, found, target),
                alt=f"The share of {target} against its mean probability; the table below has the numbers.",
                caption="Tenths of the documents by their probability; the dashed line would be perfect.",
                head=("probability", "share", "documents"),
                rows=[(one["predicted"], one["found"], one["documents"]) for one in facts["bins"]],
            )
        )
    points = facts.get("thresholds") or []
    if len(points) >= FEW_POINTS:
        blocks.append(
            Chart(
                name="thresholds",
                picture=plots.plot_thresholds(points, facts["threshold"], target),
                alt=f"Precision and recall against the threshold for {target}.",
                caption="What each threshold would give on these documents.",
                head=("threshold", "precision", "recall"),
                rows=points,
            )
        )
    blocks.append(Table(caption="Tenths of the documents", head=head, rows=bins))
    aim, least = next(iter(facts["asked"].items()))
    return Report(
        title=f"Calibration: {facts['model']['name']}",
        lead=f"A threshold for {target}, with a {aim} of {least:g} asked for, chosen on {documents['rows']:,} labelled "
        f"documents of {documents['file']}, {documents['positives']:,} of them {target}. "
        f"{documents['rejected']:,} were rejected.",
        facts=[("Threshold", f"{facts['threshold']:.6g}", f"{facts['flagged']:,} flagged"), *shares],
        sections=[
            Section(title="What the probabilities are worth", blocks=blocks),
            Section(
                title="In one number",
                blocks=[
                    Table(
                        caption="Of all documents",
                        head=("what", "value"),
                        rows=[
                            (name.replace("_", " "), f"{facts[name]:.4f}")
                            for name in ("auroc", "brier", "calibration_error")
                        ],
                    )
                ],
            ),
        ],
        made=[("Command", facts["command"]), *machine(facts["environment"])],
    )


def line_chart(name: str, lines: dict[str, Any], x: str, y: str, caption: str) -> Chart:
    """Lines of points, by their labels."""
    rows = [(label, *point) for label, points in lines.items() for point in points]
    ends = ", ".join(f"{label} {points[-1][1]:.4g}" for label, points in lines.items())
    drawn = {plots.plain(label): tuple(zip(*points, strict=True)) for label, points in lines.items()}
    return Chart(
        name=name,
        picture=plots.plot_lines(drawn, x, plots.plain(y)),
        alt=f"Line of {y} against {x}; at the end: {ends}.",
        caption=caption,
        head=("line", x, y),
        rows=rows,
    )


def _between(found: Results) -> str:
    return f"{found['low']:.4f} to {found['high']:.4f}"


def shown(value: Any) -> str:
    """A value for a person."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "none"
    return str(value)
