"""What an import costs, what it offers, and that transformers finds the models in whichever order they are imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModel, AutoModelForTextEncoding

import linformers

SRC = Path(linformers.__file__).parent

# module -> what importing it must not load. Commands import what they need when they run.
LIGHT = {
    "linformers": ["torch", "transformers", "numpy", "typer"],
    "linformers._registration": ["torch", "transformers", "numpy"],
    **{
        f"linformers.cli.{path.stem}": ["torch", "transformers", "datasets", "matplotlib", "sklearn", "numpy"]
        for path in (SRC / "cli").glob("*.py")
        if path.stem != "__init__"
    },
    "linformers.attention": ["transformers", "datasets", "matplotlib", "sklearn", "typer"],
}

# Saves a tiny model and tokenizer, then loads them by the Auto classes and a pipeline.
ROUND_TRIP = """
import sys, tempfile
from tokenizers import Tokenizer, models, pre_tokenizers
config = LinformerConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
                         max_position_embeddings=16, projected_dim=4)
words = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
with tempfile.TemporaryDirectory() as folder:
    LinformerForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert type(AutoConfig.from_pretrained(folder)) is LinformerConfig
    assert AutoTokenizer.from_pretrained(folder)("a b")["input_ids"] == [4, 5]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(model) is LinformerForSequenceClassification
    assert type(AutoModel.from_config(config)).__name__ == "LinformerModel"
    result = transformers.pipeline("text-classification", model=folder)("a b a")
    assert 0 <= result[0]["score"] <= 1
"""
OURS = "from linformers import LinformerConfig, LinformerForSequenceClassification\n"
THEIRS = "from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer\n"
ORDERS = {
    "linformers first": "import linformers, transformers\n" + THEIRS + OURS,
    "transformers first": "import transformers\n" + THEIRS + "import linformers\n" + OURS,
    "AutoConfig between": "from transformers import AutoConfig\nimport linformers, transformers\n" + THEIRS + OURS,
    "our classes first": OURS + "import transformers\n" + THEIRS,
    "models package first": "import linformers.models, transformers\n" + THEIRS + OURS,
}


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("module", LIGHT)
def test_import_is_lazy(module: str) -> None:
    loaded = run_python(f"import json, sys, {module}; print(json.dumps(list(sys.modules)))")
    assert not set(LIGHT[module]) & set(json.loads(loaded))


@pytest.mark.parametrize("name", [name for name in linformers.__all__ if name != "__version__"])
def test_public_names(name: str) -> None:
    value = getattr(linformers, name)
    assert callable(value) and value.__name__ == name
    assert name in dir(linformers)


def test_misspelt_name() -> None:
    with pytest.raises(AttributeError, match="LinformerAttentoin"):
        linformers.LinformerAttentoin  # noqa: B018
    with pytest.raises(ImportError, match="LinformerAttentoin"):
        from linformers import LinformerAttentoin  # noqa: F401  # pyright: ignore


@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes(order: str) -> None:
    run_python(ORDERS[order] + ROUND_TRIP)


def test_every_auto_class() -> None:
    run_python(
        "import linformers, transformers\n"
        "from linformers._registration import AUTO_CLASSES\n"
        "for auto_class, (_, name) in AUTO_CLASSES.items():\n"
        "    mapping = getattr(transformers, auto_class)._model_mapping\n"
        "    found = mapping[linformers.LinformerConfig]\n"
        "    several = tuple(getattr(linformers, one) for one in ((name,) if isinstance(name, str) else name))\n"
        "    assert (found if isinstance(found, tuple) else (found,)) == several, auto_class\n"
    )


@pytest.mark.parametrize("first", ["linformers", "transformers.models.auto.modeling_auto", "peft"])
def test_tables_of_names_and_targets_of_adapters(first: str) -> None:
    """Whichever is imported first."""
    run_python(
        f"import {first}\n"
        "import linformers, peft\n"
        "from transformers.models.auto import modeling_auto\n"
        "assert modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES['linformer'] == 'LinformerForMaskedLM'\n"
        "shape = dict(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)\n"
        "for kind in (peft.LoraConfig, peft.IA3Config):\n"
        "    model = peft.get_peft_model(linformers.LinformerModel(linformers.LinformerConfig(**shape)), kind())\n"
        "    assert any('v_proj' in n for n, p in model.named_parameters() if p.requires_grad), kind\n"
    )


def test_auto_model_gives_the_encoder_that_was_saved(tmp_path: Path) -> None:
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    for saved, options in (
        (linformers.LinformerImageModel, {"image_size": 16, "patch_size": 8}),
        (linformers.LinformerAudioModel, {"audio_length": 64, "num_mel_bins": 16, "patch_size": 16}),
        (linformers.LinformerModel, {"vocab_size": 9}),
    ):
        saved(linformers.LinformerConfig(**shape, **options)).save_pretrained(tmp_path)
        assert type(AutoModel.from_pretrained(tmp_path)) is saved
    assert type(AutoModel.from_config(linformers.LinformerConfig(**shape))) is linformers.LinformerModel
    assert type(AutoModelForTextEncoding.from_pretrained(tmp_path)) is linformers.LinformerModel


def test_registration_waits_for_transformers() -> None:
    run_python("import sys, linformers; import transformers; assert 'linformers.models' not in sys.modules")
