"""Folders that are whole or not there: kills, damage, and a full disk."""

import errno
import json
from pathlib import Path

import pytest

from linformers.files.checkpoints import Checkpoints
from linformers.files.folders import MANIFEST, DiskFullError, damage, write_folder


def fill(text: str):
    def write(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "weights").write_text(text)
        (folder / "sub" / "more").write_text(text * 2)

    return write


def full(folder: Path) -> None:
    (folder / "weights").write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_is_written_whole_and_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    for text in ("one", "two"):
        write_folder(target, fill(text))
        assert (target / "sub" / "more").read_text() == text * 2
        assert damage(target) is None
    assert [path.name for path in target.parent.iterdir()] == ["b"]


@pytest.mark.parametrize("fails", ["error", "full", "safetensors"])
def test_a_failure_leaves_what_was_there(tmp_path: Path, fails: str) -> None:
    target = tmp_path / "checkpoint-2"
    write_folder(target, fill("good"))

    def write(folder: Path) -> None:
        if fails == "full":
            full(folder)
        raise RuntimeError("I/O error: No space left on device (os error 28)" if fails == "safetensors" else "bug")

    with pytest.raises(RuntimeError if fails == "error" else DiskFullError) as caught:
        write_folder(target, write, intact="the checkpoint of step 1 is intact")
    if fails != "error":
        assert "the checkpoint of step 1 is intact; free some space" in str(caught.value)
    assert damage(target) is None and (target / "weights").read_text() == "good"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize(
    ("hurt", "said"),
    [
        (lambda folder: (folder / "weights").write_text("goof"), "weights has other contents"),
        (lambda folder: (folder / "weights").write_text("go"), "weights has 2 bytes in place of 4"),
        (lambda folder: (folder / "sub" / "more").unlink(), "sub/more is missing"),
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "manifest.json cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text(json.dumps([])), "manifest.json cannot be read"),
    ],
)
def test_damage_is_named_and_the_newest_whole_one_used(tmp_path: Path, hurt, said: str) -> None:
    checkpoints, heard = Checkpoints(tmp_path, keep=3), []
    for step in (5, 10, 100):
        checkpoints.write(step, fill("good"))
    hurt(checkpoints.path(100))
    assert checkpoints.newest_whole(heard.append) == tmp_path / "checkpoint-10"
    assert len(heard) == 1 and "checkpoint-100 is damaged" in heard[0] and said in heard[0]


def test_all_damaged_is_an_error_and_none_is_not(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest_whole(print) is None
    checkpoints.write(1, fill("good"))
    (checkpoints.path(1) / "weights").unlink()
    with pytest.raises(ValueError, match="all 1 checkpoints"):
        checkpoints.newest_whole(lambda text: None)


def test_old_ones_go_and_leftovers_are_tidied(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 10):
        checkpoints.write(step, fill("x"))
    assert checkpoints.steps() == [10, 2]
    (tmp_path / ".unfinished-checkpoint-11").mkdir()
    (tmp_path / ".unfinished-checkpoint-1").mkdir()
    checkpoints.tidy()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-2"]


def test_a_full_disk_names_the_last_good_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(3, fill("good"))
    with pytest.raises(DiskFullError, match="checkpoint-4 was not written, the checkpoint of step 3 is intact"):
        checkpoints.write(4, full)
    assert checkpoints.newest_whole(print) == checkpoints.path(3)


def test_no_checkpoint_is_called_intact_where_there_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.intact() == ""
    checkpoints.write(3, fill("x"))
    assert checkpoints.intact() == "the checkpoint of step 3 is intact" and checkpoints.intact(3) == ""
