"""What is written of how a figure was made."""

import shlex

import pytest

from linformers.files.environment import command_line


def test_a_command_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--texts", "my mails/*.txt", "--cells", "paper, k = n/2", "it's"]
    monkeypatch.setattr("sys.argv", ["/opt/lib/linformers/__main__.py", *given])
    assert shlex.split(command_line()) == ["linformers", *given]
