"""A default stands in a command's options, for its help, and in the settings behind them: both must be the same."""

import inspect
from typing import Any

import pytest

from linformers.classification.settings import FinetuneSettings
from linformers.cli.adapt import adapt
from linformers.cli.advise import advise
from linformers.cli.calibrate import calibrate
from linformers.cli.convert import convert
from linformers.cli.distil import distil
from linformers.cli.embed import embed
from linformers.cli.export import export
from linformers.cli.finetune import finetune
from linformers.cli.score import score
from linformers.cli.spectrum import spectrum
from linformers.cli.tokenizer import tokenizer
from linformers.commands.adapt import AdaptSettings
from linformers.commands.advise import AdviseSettings
from linformers.commands.convert import convert_to_folder
from linformers.commands.distil import DistilSettings
from linformers.commands.export import export_onnx
from linformers.commands.spectrum import SpectrumSettings
from linformers.convert.interface import Settings
from linformers.convert.linformer import to_linformer
from linformers.measure.memory import parse_bytes
from linformers.scoring.settings import EmbedSettings, Reading, ScoreSettings


def defaults(function: Any) -> dict[str, Any]:
    found = {name: one.default for name, one in inspect.signature(function).parameters.items()}
    sizes = {name: value for name, value in found.items() if name in ("memory", "limit_bytes")}  # typed as 1GB
    return found | {name: parse_bytes(name, value) for name, value in sizes.items() if isinstance(value, str)}


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        (finetune, FinetuneSettings),
        (distil, DistilSettings),
        (adapt, AdaptSettings),
        (spectrum, SpectrumSettings),
        (advise, AdviseSettings),
        (score, ScoreSettings),
        (embed, EmbedSettings),
    ],
)
def test_options_are_the_settings_with_their_defaults(command: Any, settings: Any) -> None:
    options = defaults(command)
    known = settings.model_fields
    assert set(options) <= set(known)
    for name, value in options.items():
        required = value is inspect.Parameter.empty
        assert required == known[name].is_required(), name
        assert required or (value or None) == (known[name].default or None), (
            name
        )  # no list and an empty tuple are the same


def test_options_of_convert_have_the_defaults_of_linearise() -> None:
    options = defaults(convert)
    for name, value in defaults(to_linformer).items():
        if name in options and value is not inspect.Parameter.empty and name != "texts":  # here, texts to measure on
            assert (options[name] or None) == (value or None), name
    for name in ("segment_length", "context_weight", "trained_length"):
        assert options[name] == Settings.__dataclass_fields__[name].default


def test_options_of_calibrate_have_the_defaults_of_score() -> None:
    options, known = defaults(calibrate), {name: one.default for name, one in Reading.model_fields.items()}
    shared = options.keys() & known.keys() - {"model"}
    assert len(shared) >= 5 and {name: options[name] for name in shared} == {name: known[name] for name in shared}


def test_options_of_export_have_the_defaults_of_the_function() -> None:
    options, known = defaults(export), defaults(export_onnx)
    shared = options.keys() & known.keys() - {"model", "output"}
    assert len(shared) == 6 and all((options[name] or None) == (known[name] or None) for name in shared)


def test_every_command_that_reads_text_takes_the_share_of_rejects() -> None:
    commands = (finetune, distil, adapt, spectrum, advise, convert, export, calibrate, tokenizer, score, embed)
    shares = {command.__name__: defaults(command)["max_reject_share"] for command in commands}
    assert {share for name, share in shares.items() if name not in ("score", "embed")} == {0.01}
    assert defaults(convert_to_folder)["max_reject_share"] == 0.01
