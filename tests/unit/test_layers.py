"""Imports between the package's folders point one way, and what holds no model does not load torch."""

import ast
import subprocess
import sys
from pathlib import Path

import linformers

SRC = Path(linformers.__file__).parent
# A folder may import from those before it, and from itself. ARCHITECTURE.md draws the same.
ORDER = (
    "_version",
    "checks",
    "files",
    "attention",
    "models",
    "data",
    "convert",
    "training",
    "classification",
    "extraction",
    "scoring",
    "analysis",
    "report",
    "measure",
    "export",
    "commands",
    "reproduce",
    "cli",
)


def imports(path: Path) -> set[str]:
    """Folders of the package that a module imports from, at its top or in a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[1] for name in names if name.startswith("linformers.")}


def test_imports_point_one_way():
    wrong = []
    for path in SRC.rglob("*.py"):
        folder = path.relative_to(SRC).parts[0].removesuffix(".py")
        if folder in ("__init__", "__main__", "_registration"):  # which hand out names of every folder
            continue
        above = set(ORDER[ORDER.index(folder) + 1 :])
        wrong += [f"{path.relative_to(SRC)} imports {name}" for name in sorted(imports(path) & above)]
    assert wrong == []


def test_nothing_but_the_reference_tests_imports_the_reference():
    for path in SRC.rglob("*.py"):
        assert "attention.reference" not in path.read_text(encoding="utf-8"), path


def test_what_holds_no_model_does_not_load_torch():
    modules = [f"linformers.files.{path.stem}" for path in (SRC / "files").glob("*.py")]
    code = (
        "import sys, linformers.checks, "
        + ", ".join(modules)
        + "; print([n for n in ('torch', 'transformers') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
