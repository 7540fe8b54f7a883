"""Set-up of the model tests."""

import sys
from pathlib import Path

import pytest

from linformers.models import LinformerConfig

# The helpers are plain, and the tests on CUDA use them too; importlib mode adds no folder to the path.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def tiny_config():
    from model_helpers import TINY

    return lambda **changes: LinformerConfig(**{**TINY, **changes})


@pytest.fixture
def batch():
    from model_helpers import make_batch

    return make_batch()
