"""Where results may be written."""

import errno
from pathlib import Path

import pytest

from linformers.files import folders
from linformers.files.folders import (
    MANIFEST,
    DiskFullError,
    check_intact,
    check_output,
    explain,
    remove_leftovers,
    save_beside,
    write_file,
    write_folder,
)


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "an earlier result"])
def test_a_folder_that_may_be_written(there: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    if there != "nothing":
        output.mkdir()
    if there == "an earlier result":
        (output / "facts.json").touch()
    check_output(output, "facts.json")


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_the_way_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^output=.*/file is a file; name a folder$"):
        check_output(tmp_path / name, "facts.json")


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="holds other files; name a new folder"):
        check_output(tmp_path, "facts.json")


def test_a_manifest_of_another_program_is_not_ours_to_judge(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for text in ('{"name": "an app", "icons": []}', "[]"):
        (tmp_path / MANIFEST).write_text(text)
        check_intact("model", tmp_path)
    check_intact("model", tmp_path / "a name on the hub")


def test_the_name_of_a_model_is_in_the_message(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_folder(folder, lambda target: (target / "config.json").write_text("{}"))
    check_intact("model='m'", folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="^model='m' is damaged: config.json is missing. .* delete .*manifest.json"):
        check_intact("model='m'", folder)


def test_a_file_is_replaced_in_one_step_and_a_link_is_not_followed(tmp_path: Path) -> None:
    precious, target = tmp_path / "precious", tmp_path / "results"
    precious.write_text("mine")
    target.symlink_to(precious)
    write_file(target, "one")
    assert precious.read_text() == "mine" and target.read_text() == "one"

    def fails(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_file(target, fails)
    assert target.read_text() == "one" and len(list(tmp_path.iterdir())) == 2
    write_file(target, b"\0", shared=True)
    assert target.read_bytes() == b"\0" and len(list(tmp_path.iterdir())) == 2


def test_a_folder_takes_the_place_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "precious").touch()
    (tmp_path / "out").symlink_to(tmp_path / "there")
    write_folder(tmp_path / "out", lambda target: (target / "facts.json").write_text("{}"))
    assert (tmp_path / "there" / "precious").is_file() and (tmp_path / "out" / "facts.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "there"]


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose replacement was killed between the two renames."""
    target = tmp_path / "out"

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    write_folder(target, lambda folder: (folder / "facts.json").write_text("old"))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(folders.os, "replace", die)
        patched.setattr(folders, "_remove", lambda _: None)  # a kill leaves everything where it is
        write_folder(target, lambda folder: (folder / "facts.json").write_text("new"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".old-out", ".unfinished-out"]
    return target


@pytest.mark.parametrize("use", ["check", "tidy", "write", "fail"])
def test_a_kill_between_two_renames_loses_nothing(killed: Path, use: str) -> None:
    with pytest.raises(ValueError, match=r"^model='out' was being replaced .* rename .*/\.old-out$"):
        check_intact("model='out'", killed)
    if use == "check":
        check_output(killed, "facts.json")
    elif use == "tidy":
        remove_leftovers(killed.parent)
    elif use == "write":
        write_folder(killed, lambda folder: (folder / "facts.json").write_text("new"))
    else:
        with pytest.raises(ZeroDivisionError):
            write_folder(killed, lambda folder: 1 // 0)
    check_intact("model='out'", killed)
    assert (killed / "facts.json").read_text() == ("new" if use == "write" else "old")
    left = {path.name for path in killed.parent.iterdir()}
    assert left == {"out"} | ({".unfinished-out"} if use == "check" else set())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: the result was not written; free some"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full: the result was not"),
        (
            OSError(errno.EROFS, "Read-only file system", "runs/.unfinished-x"),
            "runs/x cannot be written, as",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a.csv"), "a.csv cannot be read or written (Permission"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.csv"), "a.csv: No such file or directory"),
        (OSError("a.csv: no such file; check the spelling"), None),
        (DiskFullError("the disk is full: x was not written"), None),
        (ValueError("steps=0"), None),
    ],
)
def test_errors_of_the_system_become_a_sentence(error: Exception, said: str | None) -> None:
    found = explain(error)
    assert (found is None) if said is None else (found or "").startswith(said)
    assert "Errno" not in (found or "")


def test_files_beside_others_are_all_written_or_none(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "a.json").write_text("old")

    def fail(folder: Path) -> None:
        (folder / "a.json").write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match="was not written; free some space"):
        save_beside(tmp_path, fail)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"mine.txt": "mine", "a.json": "old"}
    save_beside(tmp_path, lambda folder: (folder / "a.json").write_text("new"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"mine.txt": "mine", "a.json": "new"}


def test_an_output_that_cannot_be_written_to_is_refused_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # the superuser may write everywhere
    with pytest.raises(ValueError, match=r"output='.*new' cannot be written to, as .* is read-only; name another"):
        check_output(tmp_path / "new", "facts.json")
