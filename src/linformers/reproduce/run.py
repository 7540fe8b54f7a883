"""Run targets again: check everything first, then one after another; what is finished is kept."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from linformers.checks import check_choice
from linformers.commands.report import REPORT
from linformers.files.environment import command_line, describe_environment
from linformers.files.folders import check_output, write_file, write_folder
from linformers.files.run_folder import RESULTS, Folder
from linformers.models.silence import silenced
from linformers.report import words
from linformers.reproduce import claims, tiny
from linformers.reproduce.cells import Context
from linformers.reproduce.present import TARGETS, claims_table, document_of, evidence_of, verdicts_table
from linformers.reproduce.scales import Scale, load_scale

KIND = "linformers reproduce"
INDEX = "index.html"


def reproduce(
    target: str,
    scale: str,
    *,
    output: Path,
    data: Path | None = None,
    changes: Sequence[str] = (),
    device: str = "cpu",
    console: Console,
) -> None:
    """Run a target, or ``all``.

    Args:
        target: ``table2``, ``table3``, ``figure1``, ``figure2``, ``figure3`` or ``all``.
        scale: ``smoke``, ``laptop`` or ``paper``.
        output: folder; targets have folders in it, and share the cells.
        data: folder of the data sets.
        changes: ``target.key=value``, to the scale.
        device: ``cpu`` or ``cuda``.
        console: where to print.

    Raises:
        ValueError: an unknown name, a setting that does not do, or a folder of something else.
        FileNotFoundError: data or weights are missing; all that are missing are named before anything is run.
    """
    check_choice("target", target, (*TARGETS, "all"))
    check_choice("device", device, ("cpu", "cuda"))
    size = load_scale(scale, changes)
    names = list(TARGETS) if target == "all" else [target]
    trained = [name for name in names if name in ("table2", "figure3")]
    if size.needs_gpu and trained and not torch.cuda.is_available():
        raise ValueError(
            f"scale={scale!r} trains models that need GPUs ({', '.join(trained)}), and PyTorch sees none here; take "
            "--scale laptop, or run it where there are some"
        )
    ours = ("tiny", "texts", "start", INDEX, REPORT, RESULTS, *TARGETS)
    folder = Folder(output, option="--output", plan="cells", before=ours)
    folder.check(lambda cells: [])
    for name in TARGETS:  # which are replaced
        check_output(output / name, RESULTS)
    with folder.locked(), silenced():
        context = Context(scale=scale, folder=output.absolute(), data=data, device=device, console=console)
        check(names, size, context)
        began = time.perf_counter()
        found = {name: _run(name, size, context, changes) for name in names}
        if target == "all":
            content = _facts("all", size, context, time.perf_counter() - began) | {"targets": names}
            _publish(output, content)
    evidence = [one for results in found.values() for one in evidence_of(results)]
    if target == "all":
        for name, results in found.items():
            console.print(TARGETS[name].compare(results).for_terminal())
        console.print(verdicts_table(evidence).for_terminal())
    console.print(claims_table(evidence).for_terminal())
    if scale == "smoke":
        context.say(tiny.NOTE)
    page = output / (INDEX if target == "all" else f"{target}/{REPORT}")
    context.say(f"Report: {page}\nFigures, machine and versions: {page.parent / RESULTS}, and CSV and PNG beside it")
    following = {"smoke": "laptop", "laptop": "paper"}.get(scale)
    if following:
        context.say(f"Next: linformers reproduce {target} --scale {following}")


def check(names: Sequence[str], scale: Scale, context: Context) -> None:
    """Refuse before anything is run, and name all that is missing."""
    missing = []
    for name in names:
        try:
            TARGETS[name].check(scale, context)
        except FileNotFoundError as error:
            missing.append(str(error))
    if missing:
        raise FileNotFoundError("; ".join(dict.fromkeys(missing)))


def _run(name: str, scale: Scale, context: Context, changes: Sequence[str]) -> dict[str, Any]:
    """One target: its cells, then its folder."""
    target = TARGETS[name]
    context.console.print(f"[bold]{target.TITLE}[/bold], scale {context.scale}")
    context = replace(context, notes=[tiny.NOTE] if context.scale == "smoke" else [])
    began = time.perf_counter()
    found = target.run(scale, context)
    results = _facts(name, scale, context, time.perf_counter() - began)
    results |= {"changes": list(changes), "notes": context.notes, **found}
    results["evidence"] = claims.as_dicts(target.evidence(results), scale.decides)
    results = json.loads(json.dumps(results))  # as a reader of the file has it
    _publish(context.folder / name, results)
    context.console.print(target.compare(results).for_terminal())
    context.say(f"{name} is done after {words.seconds(results['seconds'])}")
    return results


def _facts(name: str, scale: Scale, context: Context, seconds: float) -> dict[str, Any]:
    return {
        "kind": KIND,
        "format": 1,
        "target": name,
        "scale": context.scale,
        "about": scale.about,
        "command": command_line(),
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": seconds,
        "environment": describe_environment(torch.device(context.device)),
    }


def _publish(folder: Path, results: dict[str, Any]) -> None:
    """Results, report, CSV and PNG; a target's folder appears whole, the index beside those of the targets."""
    document = document_of(folder, results)
    content = json.dumps(results, indent=1) + "\n"
    if results["target"] == "all":
        write_file(folder / INDEX, document.as_html())
        write_file(folder / RESULTS, content)
        return

    def write(target: Path) -> None:
        document.write_charts(target)
        (target / REPORT).write_text(document.as_html(), encoding="utf-8")
        (target / RESULTS).write_text(content, encoding="utf-8")

    write_folder(folder, write)
