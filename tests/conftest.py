"""What all tests share. Nothing here imports linformers: the shape-checking hook must see its imports first."""

import os
import sys
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

# Helpers are plain modules, which child processes import as well; importlib mode adds no folder to the path.
for _name in ("", "unit/attention", "unit/models", "unit/convert"):
    sys.path.insert(0, str(Path(__file__).parent / _name))

# Before any test imports the libraries that read these.
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for a network is a mistake, so it fails at once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

# Examples differ in cost (the first one pays for imports), and a failure must come back on the next run.
settings.register_profile("linformers", deadline=None, derandomize=True)
settings.load_profile("linformers")

# Folders of tests/unit whose tests `make test` runs with the shape of every array checked.
SHAPED = {"attention", "models", "convert", "data", "training", "classification", "analysis", "scoring", "extraction"}


def shape_hook_active(config: pytest.Config) -> bool:
    """Whether `pytest --jaxtyping-packages=...` checks the shapes of every call into the package."""
    return bool(config.getoption("--jaxtyping-packages", None)) and not jaxtyping.config.jaxtyping_disable


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="fullgraph tracing fails in modules that the shape hook has imported")
    for item in items:
        if item.path.parent.name in SHAPED and item.path.parent.parent.name == "unit":
            item.add_marker("shaped")
        if "compile" in item.keywords or "bad_input" in getattr(item, "fixturenames", ()):
            item.add_marker("unhooked")
        if "compile" in item.keywords and config.getoption("--jaxtyping-packages", None):
            item.add_marker(skip)


@pytest.fixture
def bad_input(request: pytest.FixtureRequest) -> None:
    """For tests that break a signature on purpose: under the shape hook its own error would come first."""
    if shape_hook_active(request.config):
        pytest.skip("the shape-checking hook refuses the call before the library can: JAXTYPING_DISABLE=1")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers, alone or in any order."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets (IMDB, SST-2, ...), which the repository does not carry."""
    folder = os.environ.get("LINFORMERS_DATA")
    if not folder:
        pytest.skip("needs real data sets: set LINFORMERS_DATA to the folder of imdb_train.parquet and the rest")
    if not Path(folder).is_dir():
        pytest.fail(f"LINFORMERS_DATA={folder} is not a folder")
    return Path(folder)
