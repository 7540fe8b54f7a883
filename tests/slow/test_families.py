"""Every model type that AutoModel of the installed transformers knows: linear and exact, or refused; never wrong."""

import csv
import warnings
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]


def test_each_is_exact_or_refused_and_the_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    with warnings.catch_warnings():
        import families

        found = {row["model type"]: row for row in families.others()}
    assert not [row for row in found.values() if row["linear"] == "WRONG"]
    assert all(row["why"] for row in found.values() if row["linear"] != "yes"), "a refusal gives its reason"
    lines = (ROOT / "results" / "families-others.csv").read_text().splitlines()
    table = {row["model type"]: row for row in csv.DictReader(line for line in lines if not line.startswith("#"))}
    assert found.keys() == table.keys(), "another release of transformers: python benchmarks/families.py --others"
    assert Counter(row["linear"] for row in found.values()) == Counter(row["linear"] for row in table.values())
    covered = {name for name in families.FAMILIES if name in found}
    assert not covered, "the tests have those that they have"
