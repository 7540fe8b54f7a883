"""The README keeps its word: its Python runs, its commands, options and files exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_blocks import ROOT, check_command, command_lines, find_blocks

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return [block.text for block in find_blocks(TEXT) if block.language == language]


def test_python_blocks_run_in_order(tmp_path: Path) -> None:
    """All in one process, as a reader would paste them, in an empty folder."""
    script = "\n\n".join(blocks("python"))
    assert script
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [command for text in blocks("bash") for command in command_lines(text)])
def test_commands_and_options_exist(command: str) -> None:
    check_command(command)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:|#)([^)]+)\)", TEXT))
def test_linked_files_exist(link: str) -> None:
    assert (ROOT / link).exists()


def test_it_is_read_in_a_few_minutes() -> None:
    assert len(TEXT.split()) <= 1000


def test_the_tree_of_the_architecture_matches_the_package() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^      ([a-z]+)/ ", text, flags=re.MULTILINE))
    assert named == {path.parent.name for path in (ROOT / "src" / "linformers").glob("*/__init__.py")}
