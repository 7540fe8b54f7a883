"""Set-up of the model tests."""

import pytest

from linformers.models import LinformerConfig


@pytest.fixture
def tiny_config():
    from model_helpers import TINY

    return lambda **changes: LinformerConfig(**{**TINY, **changes})


@pytest.fixture
def batch():
    from model_helpers import make_batch

    return make_batch()
