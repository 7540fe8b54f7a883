"""A cell is used again for the same options, machine, versions and code, and for nothing else."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from linformers.measure import results
from linformers.reproduce.cells import LEARNED, SPECTRUM, Cell, Context, stop_if


def context(folder: Path) -> Context:
    return Context(scale="smoke", folder=folder, data=None, device="cpu", console=Console(quiet=True))


def test_a_cell_is_found_again(tmp_path: Path) -> None:
    cell = context(tmp_path).cell("k = 8, distilled", {"k": 8})
    assert cell.found is None and not cell.path.exists()
    assert cell.keep({"value": 0.5, "n": {64: 1}}) == {"value": 0.5, "n": {"64": 1}}
    again = context(tmp_path).cell("k = 8, distilled", {"k": 8})
    assert again.path == cell.path and again.found == {"value": 0.5, "n": {"64": 1}}
    assert again.path.name.startswith("k-8-distilled-")


def test_other_options_and_code_are_other_cells(tmp_path: Path) -> None:
    place = context(tmp_path)
    cells = [
        place.cell("a", {"k": 8}, LEARNED),
        place.cell("a", {"k": 9}, LEARNED),
        place.cell("a", {"k": 8}, SPECTRUM),
    ]
    assert len({cell.fingerprint for cell in cells}) == 3


@pytest.mark.parametrize(
    ("part", "key"), [("machine", "processor"), ("versions", "torch"), ("versions", "linformers code")]
)
def test_another_machine_or_version_is_another_cell(part: str, key: str, tmp_path: Path) -> None:
    one = context(tmp_path).cell("a", {"k": 8})
    assert key in one.identity[part]
    changed: Any = {**one.identity, part: {**one.identity[part], key: "another"}}
    assert Cell(tmp_path, "a", changed).fingerprint != one.fingerprint


def test_code_that_is_changed_during_a_run_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = context(tmp_path)
    before = place.cell("a", {})
    monkeypatch.setattr(results, "_hash_of_code", lambda patterns: "changed")
    assert place.cell("a", {}).fingerprint == before.fingerprint
    assert context(tmp_path).cell("a", {}).fingerprint != before.fingerprint


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"identity": {}}'])
def test_a_damaged_cell_is_measured_again(damage: str, tmp_path: Path) -> None:
    cell = context(tmp_path).cell("a", {})
    cell.keep({"value": 1})
    (cell.path / "cell.json").write_text(damage)
    assert cell.found is None
    cell.keep({"value": 2})
    assert cell.found == {"value": 2}


def test_a_stopped_run_ends_the_command() -> None:
    stop_if(0)
    with pytest.raises(KeyboardInterrupt):
        stop_if(130)
    with pytest.raises(SystemExit) as error:
        stop_if(143)
    assert error.value.code == 143
