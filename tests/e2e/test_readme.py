"""The README keeps its word: its Python runs, its commands, options and files exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def test_python_blocks_run_in_order(tmp_path: Path) -> None:
    """All in one process, as a reader would paste them, in an empty folder."""
    script = "\n\n".join(blocks("python"))
    assert script
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_commands_exist() -> None:
    shell = "\n".join(blocks("bash")) + "\n".join(re.findall(r"`((?:make|linformers) [^`]*)`", TEXT))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^(?:.*&& )?make ([a-z]+)", shell, flags=re.MULTILINE)
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"make {target}"
    for command in re.findall(r"^linformers ([a-z]+)", shell, flags=re.MULTILINE):
        subprocess.run([sys.executable, "-m", "linformers", command, "--help"], check=True, capture_output=True)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:|#)([^)]+)\)", TEXT))
def test_linked_files_exist(link: str) -> None:
    assert (ROOT / link).exists()


def test_tree_matches_the_package() -> None:
    named = set(re.findall(r"^      ([a-z]+)/ ", TEXT, flags=re.MULTILINE))
    assert named == {path.parent.name for path in (ROOT / "src" / "linformers").glob("*/__init__.py")}
