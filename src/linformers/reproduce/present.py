"""The report of a target, and the index of all, from their result files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from linformers.report import words
from linformers.report.document import Block, Report, Section, Table, machine
from linformers.reproduce import claims, figure1, figure2, figure3, table2, table3
from linformers.reproduce.published import CLAIMS, PAPER

TARGETS: dict[str, Any] = {
    "figure1": figure1,
    "figure2": figure2,
    "table3": table3,
    "figure3": figure3,
    "table2": table2,
}
Results = Mapping[str, Any]


def evidence_of(results: Results) -> list[claims.Evidence]:
    """As it is in a result file."""
    return [claims.from_dict(row) for row in results["evidence"]]


def claims_table(evidence: Sequence[claims.Evidence]) -> Table:
    """Every comparison."""
    rows = [one.row() for one in sorted(evidence, key=lambda one: one.claim)]
    return Table(caption="Comparisons that bear on the paper's claims", head=claims.HEAD, rows=rows, words=True)


def _claims(evidence: Sequence[claims.Evidence]) -> list[Block]:
    """Every comparison, or that there is none."""
    return [claims_table(evidence)] if evidence else ["Nothing that was measured here bears on the paper's claims."]


def verdicts_table(evidence: Sequence[claims.Evidence]) -> Table:
    """Every claim in a line."""
    rows = []
    for claim, text in CLAIMS.items():
        of_it = [one for one in evidence if one.claim == claim]
        verdict = claims.overall(of_it) if of_it else "not measured"
        rows.append((f"({claim}) {text}", verdict, len(of_it)))
    return Table(caption="Did the claims hold here?", head=("claim", "verdict", "comparisons"), rows=rows, words=True)


def document_of(folder: Path, results: Results) -> Report:
    """The report of one target, or of all."""
    if results["target"] == "all":
        return index_of(folder, results)
    target = TARGETS[results["target"]]
    evidence = evidence_of(results)
    decided = [(f"Claim ({one.claim}): {one.what}", one.verdict, CLAIMS[one.claim]) for one in evidence]
    return Report(
        title=target.TITLE,
        lead=f"Run again at scale {results['scale']}: {results['about']}",
        facts=decided,
        sections=[
            Section(title="Ours beside published", blocks=[target.compare(results), *target.blocks(results)]),
            Section(title="Did the claims hold here?", blocks=_claims(evidence)),
            Section(title="Read with care", blocks=results["notes"]),
        ],
        made=_made(results),
    )


def index_of(folder: Path, results: Results) -> Report:
    """What ``all`` found; the targets have folders beside it."""
    targets = {
        name: json.loads((folder / name / "results.json").read_text(encoding="utf-8")) for name in results["targets"]
    }
    evidence = [one for found in targets.values() for one in evidence_of(found)]
    return Report(
        title="The Linformer paper, run again",
        lead=f"{PAPER}. Scale {results['scale']}: {results['about']}",
        sections=[
            Section(title="Claims", blocks=[verdicts_table(evidence), *_claims(evidence)]),
            *(
                Section(title=TARGETS[name].TITLE, blocks=[TARGETS[name].compare(found)])
                for name, found in targets.items()
            ),
        ],
        made=_made(results),
        links=[(TARGETS[name].TITLE, f"{name}/report.html") for name in targets],
    )


def _made(results: Results) -> list[tuple[str, object]]:
    return [
        ("Paper", PAPER),
        ("Command", results["command"]),
        ("Written", results["written"]),
        ("Time", f"{words.seconds(results['seconds'])} in this run; cells that were there before are not counted"),
        *machine(results["environment"]),
    ]
