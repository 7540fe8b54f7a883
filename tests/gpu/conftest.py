"""Set-up of the tests that need a CUDA device."""

import sys
from pathlib import Path

import pytest
import torch

# Builders of modules, masks and models, as the CPU tests use them.
for _name in ("attention", "models"):
    sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / _name))


@pytest.fixture(autouse=True)
def _needs_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
