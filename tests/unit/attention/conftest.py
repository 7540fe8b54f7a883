"""Fixtures of the attention tests."""

import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch

# The helpers are plain functions, some used while tests are collected; importlib mode adds no folder to the path.
sys.path.insert(0, str(Path(__file__).parent))


def shape_hook_active(config: pytest.Config) -> bool:
    """Whether `pytest --jaxtyping-packages=...` checks the shapes of every call into the package."""
    return bool(config.getoption("--jaxtyping-packages", None)) and not jaxtyping.config.jaxtyping_disable


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not shape_hook_active(config):
        return
    folder = Path(__file__).parent
    skip_compile = pytest.mark.skip(reason="fullgraph tracing fails under the shape hook: JAXTYPING_DISABLE=1")
    for item in items:
        if folder in item.path.parents and "compile" in item.keywords:
            item.add_marker(skip_compile)


@pytest.fixture
def bad_input(request: pytest.FixtureRequest) -> None:
    """For tests that break the signature on purpose: under the shape hook its own error would come first."""
    if shape_hook_active(request.config):
        pytest.skip("the shape-checking hook refuses the call before the library can: JAXTYPING_DISABLE=1")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """These tensors are tiny: more threads only wait for each other, and much longer on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
