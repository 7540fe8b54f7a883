"""What documents show: code blocks, run in order as a reader would paste them, and commands that are only read."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is the content of ("" for none), its text and first line."""

    language: str
    title: str
    text: str
    line: int


def find_blocks(document: str) -> list[Block]:
    """All fenced blocks, in order."""
    fence = r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$"
    return [
        Block(found[1], found[2] or "", found[3], document.count("\n", 0, found.start()) + 2)
        for found in re.finditer(fence, document, flags=re.MULTILINE | re.DOTALL)
    ]


def run_blocks(document: str, name: str) -> None:
    """Run a document's Python and bash blocks in this process and folder, and write the files that it shows.

    ``linformers`` runs in the process, which has torch and transformers loaded; other commands in a shell.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    for block in find_blocks(document):
        place = f"{name}, line {block.line}"
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, name, "exec"), names)
        elif block.language == "bash":
            for command in command_lines(block.text):
                assert run_command(command) == 0, f"{place}: {command}"


def run_command(command: str) -> int:
    """The exit code of a command."""
    from linformers.cli import main

    words = shlex.split(command)
    if words[0] == "linformers":
        return main.run(words[1:])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return subprocess.run(command, shell=True, env={**os.environ, "PATH": path}, timeout=60).returncode


def command_lines(text: str) -> Iterator[str]:
    """Whole commands: continued lines joined, comments left out, without a prompt."""
    for line in text.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s)#.*", "", line).strip().removeprefix("$ ")
        if command:
            yield command


def check_command(command: str) -> None:
    """Refuse what does not exist: a target of the Makefile, a command or an option of ``linformers``."""
    if found := re.search(r"(?:^|&& )make ([a-z]+)", command):
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{found[1]}:", makefile, flags=re.MULTILINE), command
    if found := re.search(r"(?:^|-m )linformers ([a-z].*)", command):
        import typer

        from linformers.cli.main import app

        name, *arguments = shlex.split(found[1])
        commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
        commands[name].make_context(name, arguments)  # raises as the command line does
