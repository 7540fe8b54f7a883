"""Kills and signals: whatever happens to a run, it ends with the weights of a run that nothing happened to."""

import signal
from pathlib import Path

import pytest
from pretrain_helpers import exit_code, fingerprint, processes, tiny, write_text


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    write_text(folder)
    return folder


@pytest.fixture(scope="module")
def whole(work: Path) -> dict[str, bytes]:
    """What an uninterrupted run leaves."""
    assert exit_code(processes(), tiny(work, "whole")) == 0
    return fingerprint(work / "whole")


def test_kills_during_checkpoint_writes(work: Path, whole: dict[str, bytes]) -> None:
    recipe, context = tiny(work, "killed"), processes()
    # A checkpoint flushes six files and folders, the tokenizer's, written first, five, the files that begin a run four.
    for number in (6, 13, 20):
        assert exit_code(context, recipe, die_at_flush=number) == -signal.SIGKILL
    assert exit_code(context, recipe) == 0
    assert fingerprint(work / "killed") == whole
    assert not [path for path in (work / "killed").rglob(".*") if path.is_dir()]  # nothing half written is left


def test_sigterm_writes_a_checkpoint_and_the_run_goes_on(work: Path, whole: dict[str, bytes]) -> None:
    recipe, context = tiny(work, "terminated"), processes()
    assert exit_code(context, recipe, stop_in_step=5) == 143
    folder = work / "terminated"
    assert {path.name for path in folder.glob("checkpoints/*")} == {"checkpoint-3", "checkpoint-5"}
    assert exit_code(context, recipe) == 0
    assert fingerprint(folder) == whole
