"""A default stands in a command's options, for its help, and in the settings behind them: both must be the same."""

import dataclasses
import inspect
from typing import Any

import pytest

from linformers.analysis.advise_run import AdviseSettings
from linformers.analysis.spectrum_run import SpectrumSettings
from linformers.cli.advise import advise
from linformers.cli.convert import convert
from linformers.cli.distil import distil
from linformers.cli.finetune import finetune
from linformers.cli.spectrum import spectrum
from linformers.models.convert import linearise
from linformers.training.classify_settings import FinetuneSettings
from linformers.training.distil_run import DistilSettings


def defaults(function: Any) -> dict[str, Any]:
    return {name: one.default for name, one in inspect.signature(function).parameters.items()}


@pytest.mark.parametrize(
    ("command", "settings"),
    [(finetune, FinetuneSettings), (distil, DistilSettings), (spectrum, SpectrumSettings), (advise, AdviseSettings)],
)
def test_options_are_the_settings_with_their_defaults(command: Any, settings: Any) -> None:
    options = defaults(command)
    known = {field.name: field.default for field in dataclasses.fields(settings)}
    assert set(options) <= set(known)
    for name, value in options.items():
        required = value is inspect.Parameter.empty
        assert required == (known[name] is dataclasses.MISSING), name
        assert required or (value or None) == (known[name] or None), name  # no list and an empty tuple are the same


def test_options_of_convert_have_the_defaults_of_linearise() -> None:
    options = defaults(convert)
    for name, value in defaults(linearise).items():
        if name in options and value is not inspect.Parameter.empty and name != "texts":  # here, texts to measure on
            assert (options[name] or None) == (value or None), name
