"""The folder of a run: nothing of the user's is ever lost, whatever goes wrong."""

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from linformers.files.run_folder import RESULTS, Folder
from linformers.files.settings import differences

KIND = "test results"


@contextmanager
def staged(path: Path, free_bytes: int = 0) -> Iterator[Path]:
    folder = Folder(path, option="--output", plan=RESULTS, before=())
    folder.check(lambda plan: differences({"kind": (folder.results or {}).get("kind")}, {"kind": KIND}))
    with folder.locked(), folder.staged(free_bytes) as staging:
        yield staging


def write_results(staging: Path, value: int) -> None:
    (staging / RESULTS).write_text(json.dumps({"kind": KIND, "value": value}))


def fill(path: Path, value: int) -> None:
    with staged(path) as staging:
        (staging / "model").mkdir()
        (staging / "model" / "weights").write_text(str(value))
        write_results(staging, value)


def content(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}


def test_publish_leaves_the_results_and_nothing_else(tmp_path) -> None:
    fill(tmp_path / "deep" / "run", 1)
    files = content(tmp_path / "deep" / "run")
    assert sorted(files) == [os.path.join("model", "weights"), "results.json"]
    assert json.loads(files["results.json"])["value"] == 1


def test_a_second_run_replaces_the_first_and_keeps_notes(tmp_path) -> None:
    fill(tmp_path, 1)
    (tmp_path / "notes.txt").write_text("mine")
    fill(tmp_path, 2)
    files = content(tmp_path)
    assert files["notes.txt"] == "mine" and files[os.path.join("model", "weights")] == "2"


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_a_failed_run_changes_nothing(tmp_path, error: BaseException) -> None:
    fill(tmp_path, 1)
    before = content(tmp_path)
    with pytest.raises(type(error)), staged(tmp_path) as staging:
        write_results(staging, 2)
        raise error
    assert content(tmp_path) == before


def test_a_failed_first_run_leaves_no_folder(tmp_path) -> None:
    with pytest.raises(RuntimeError), staged(tmp_path / "run"):
        raise RuntimeError
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_will_do(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    fill(tmp_path / "run", 1)
    assert len(content(tmp_path / "run")) == 2


def test_what_a_killed_run_left_is_cleared(tmp_path) -> None:
    (tmp_path / ".unfinished-files").mkdir()
    (tmp_path / ".unfinished-files" / "half").write_text("x")
    (tmp_path / ".lock").write_text("")
    fill(tmp_path, 1)
    assert sorted(content(tmp_path)) == [os.path.join("model", "weights"), "results.json"]


def test_a_file_is_no_folder(tmp_path) -> None:
    (tmp_path / "run").write_text("precious")
    with pytest.raises(ValueError, match="run is a file; name a folder"), staged(tmp_path / "run"):
        pass
    assert (tmp_path / "run").read_text() == "precious"


def test_a_folder_below_a_file(tmp_path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match="file is a file; name a folder"), staged(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize("foreign", ["thesis.tex", "results.json"])
def test_somebody_elses_folder_is_refused(tmp_path, foreign: str) -> None:
    (tmp_path / foreign).write_text('{"kind": "something else"}')
    before = content(tmp_path)
    message = r"holds (other files \(thesis.tex\)|another run: kind was 'something else')"
    with pytest.raises(ValueError, match=message), staged(tmp_path):
        pass
    assert content(tmp_path) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place where nobody may write")
def test_a_place_that_cannot_be_written_to() -> None:
    message = "--output='/proc/linformers' cannot be written to"
    with pytest.raises(ValueError, match=message), staged(Path("/proc/linformers")):
        pass


def test_two_runs_at_once(tmp_path) -> None:
    fill(tmp_path, 1)
    with staged(tmp_path) as first:
        (first / "work").write_text("first")
        with pytest.raises(ValueError, match="another run is writing"), staged(tmp_path):
            pass
        assert (first / "work").read_text() == "first"


def test_too_little_space(tmp_path) -> None:
    with pytest.raises(OSError, match="MB are free"), staged(tmp_path / "run", free_bytes=10**18):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),  # as safetensors says it
    ],
)
def test_a_full_disk_is_named(tmp_path, error: Exception) -> None:
    fill(tmp_path, 1)
    before = content(tmp_path)
    with pytest.raises(OSError, match="is full: .*, what was there before is unchanged"), staged(tmp_path):
        raise error
    assert content(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission(tmp_path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ValueError, match="cannot be written to"), staged(tmp_path / "run"):
            pass
    finally:
        tmp_path.chmod(0o700)
