"""What a release says of itself: version, changelog, extras, citation and workflows agree with the tree."""

import re
import sys
from pathlib import Path

import check_release
import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOLDERS = ("src", "docs", "benchmarks", "examples", "release", "recipes", ".github")
TEXTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile")] + [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".yml", ".sh", ".html")
]


def test_version_and_changelog_agree() -> None:
    assert check_release.problems() == []
    assert "the tag must be v" in check_release.problems("v9.9.9")[0]


def test_every_extra_that_is_named_exists() -> None:
    named = {
        (extra.strip(), path.relative_to(ROOT).as_posix())
        for path in TEXTS
        for found in re.findall(r"(?:['\"]linformers|[\s'\"]\.)\[([a-z, ]+)\]", path.read_text(encoding="utf-8"))
        for extra in found.split(",")
    }
    assert len({extra for extra, _ in named}) >= 5
    known = set(PROJECT["optional-dependencies"])
    assert not sorted((extra, path) for extra, path in named if extra not in known)


def test_pythons_that_are_claimed_are_those_of_the_workflow() -> None:
    claimed = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert PROJECT["requires-python"] == f">={claimed[0]}"
    matrix = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]["run"]["strategy"]["matrix"]
    assert {claimed[0], claimed[-1]} <= set(matrix["python"]) <= set(claimed)


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_call_what_exists(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    for command in (step["run"] for step in steps if "run" in step):
        program, target, *_ = command.split()
        assert program in ("bash", "make"), command
        assert (ROOT / target).is_file() if program == "bash" else f"\n{target}:" in makefile, command


def test_citation_has_what_the_format_requires() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PROJECT["license"]
    for reference in citation["references"]:
        assert {"authors", "title", "type"} <= reference.keys()
        assert reference["url"].endswith(reference["identifiers"][0]["value"].removeprefix("arXiv:"))
