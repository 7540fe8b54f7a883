"""What `make weights` packs, and what it refuses. The wheel itself is built before a release, see docs/release.md."""

import json
import sys
from pathlib import Path

import pytest
import weights_wheel

from linformers.files.folders import damage, write_manifest

CARD = "---\nlicense: apache-2.0\n---\n\n# A model\n\nIts text.\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder as `linformers adapt` leaves one, without weights that anything loads."""
    model = tmp_path / "run" / "model"
    (model / "1_Pooling").mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"linformers": {"segment_length": 128}}))
    for name in ("modules.json", "model.safetensors", "1_Pooling/config.json", "run.json", "adapt.json"):
        (model / name).write_text("{}")
    (model / "README.md").write_text(CARD)
    write_manifest(model)
    return tmp_path / "run"


def test_package_holds_the_model_with_its_card_and_nothing_of_the_machine(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    weights_wheel.lay_out(weights_wheel.model_folder(run), place, "long_encoder", "0.1.0")
    model = place / "long_encoder" / "model"
    left = {path.name for path in (run / "model").iterdir()} - {path.name for path in model.iterdir()}
    assert left == {"run.json", "adapt.json"} and damage(model) is None
    readme, project = (place / "README.md").read_text(), (place / "pyproject.toml").read_text()
    assert "AutoModel.from_pretrained(long_encoder.path)" in readme and readme.endswith("# A model\n\nIts text.\n")
    assert 'name = "long-encoder"' in project and 'license = "Apache-2.0"' in project and "linformers>=" in project
    names: dict[str, object] = {"__file__": str(place / "long_encoder" / "__init__.py")}
    exec((place / "long_encoder" / "__init__.py").read_text(), names)
    assert names["path"] == str(model)


def test_what_is_no_adapted_model_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no model"):
        weights_wheel.model_folder(tmp_path)
    (run / "model" / "model.safetensors").write_text("other")
    with pytest.raises(SystemExit, match="is damaged: model.safetensors"):
        weights_wheel.model_folder(run)
    (run / "model" / "config.json").write_text("{}")
    with pytest.raises(SystemExit, match="is not linear"):
        weights_wheel.model_folder(run)


def test_without_text_it_says_what_to_give(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LINFORMERS_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["weights_wheel.py", "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="make weights MODEL=FOLDER"):
        weights_wheel.main()
    assert not (tmp_path / "out").exists()
