"""Set-up of the attention tests."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# The helpers are plain functions, some used while tests are collected; importlib mode adds no folder to the path.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """These tensors are tiny: more threads only wait for each other, and much longer on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
