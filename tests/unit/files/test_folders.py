"""Where results may be written."""

from pathlib import Path

import pytest

from linformers.files.folders import check_output


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
