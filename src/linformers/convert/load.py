"""Load the model to convert, and refuse what cannot be converted, with the reason."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import FEATURE_EXTRACTOR_NAME
from transformers.utils.hub import cached_file

from linformers._registration import ATTENTION
from linformers.checks import check_int, closest
from linformers.convert.agreement import check_loaded, check_vocabulary
from linformers.convert.families import Family
from linformers.convert.patches import ALL_FAMILIES
from linformers.convert.surroundings import embeds, encoder_folder, with_surroundings
from linformers.files.folders import check_intact
from linformers.models.resize import reserved_positions
from linformers.models.silence import silenced

AUTO: dict[str, Any] = {
    "Model": AutoModel,
    "ForMaskedLM": AutoModelForMaskedLM,
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForQuestionAnswering": AutoModelForQuestionAnswering,
    "ForMultipleChoice": AutoModelForMultipleChoice,
    "ForImageClassification": AutoModelForImageClassification,
    "ForImageClassificationWithTeacher": AutoModelForImageClassification,
    "ForAudioClassification": AutoModelForAudioClassification,
}


def load_teacher(path: str | Path, families: Mapping[str, Family] | None = None) -> PreTrainedModel:
    """Load a trained encoder with the head it was saved with, and softmax attention.

    Weights are read as safetensors only, and no code of the folder is run. Of a folder of sentence-transformers it is
    the encoder.

    Args:
        path: a folder, or a name on the hub.
        families: to choose from, whose pretraining heads become the part of them that we have; None = any encoder of
            transformers, in the class that it was saved in.

    Raises:
        OSError: no such model, no safetensors in it, or a file that is damaged.
        ValueError: a model that cannot be converted.
    """
    check_intact(f"model={path}", Path(path))
    with reading(path):
        folder = with_surroundings(path)
    path = encoder_folder(folder)
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise OSError(f"model={path} has no config.json: give the folder of a saved model.")
    with reading(path):
        settings, _ = PreTrainedConfig.get_config_dict(path)
    if _lacks_head(settings, Path(folder)):
        settings["architectures"] = None
    model_type = settings.get("model_type")
    if families is None:
        _check_known(settings, str(path))
    else:
        _check_family(model_type, str(path), families)
    code = [name for name in settings.get("auto_map", {}) if name.startswith(("AutoConfig", "AutoModel"))]
    if code:
        raise ValueError(
            f"{path}/config.json: auto_map names code of the model's own ({', '.join(code)}), which is never run here. "
            f"If the weights are a plain {model_type}, delete auto_map from a copy of the folder and convert that."
        )
    if Path(path).is_dir() and not any(Path(path).glob("*.safetensors")):
        raise OSError(
            f"{path} holds no weights as safetensors; other formats can run code when they are read. Where you trust "
            "the files, load them with transformers and call save_pretrained, then convert what that wrote."
        )
    with reading(path):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if families is None:
        head = (settings.get("architectures") or ["AutoModel"])[0]
        auto = getattr(transformers, head)
        if getattr(config, ATTENTION, None) is not None:  # it is linear already, and is made so anew
            config._attn_implementation = None  # whichever softmax attention it has
    else:
        head = saved_head(settings)
        auto = AUTO[head]
        _check_config(config, head)
    with reading(path):
        teacher, report = auto.from_pretrained(
            path,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    without_head = type(teacher).__name__.endswith("Model")
    poolers = [name for name in report["missing_keys"] if without_head and "pooler." in name]
    check_loaded(str(path), teacher, report, head=not without_head)
    if poolers and hasattr(teacher, "pooler"):
        teacher.pooler = None  # it was not trained, and saving it would say that it was
    return teacher.eval()


def find_tokenizer(path: str | Path) -> Any | None:
    """The tokenizer beside the weights; None where a folder has none (transformers would make up an empty one)."""
    folder = Path(path := encoder_folder(path))
    files = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
    if folder.is_dir() and not any(any(folder.glob(name)) for name in files):
        return None
    with reading(path, "the tokenizer of "):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    check_vocabulary(path, tokenizer)
    return tokenizer


def load_processor(path: str | Path) -> dict[str, Any] | None:
    """Settings of the image processor or feature extractor beside the weights; None where there are none.

    Raises:
        OSError: they cannot be read.
        ValueError: they name code of their own.
    """
    with reading(path, "the processor of "):
        file = cached_file(str(path), FEATURE_EXTRACTOR_NAME, _raise_exceptions_for_missing_entries=False)
        settings = None if file is None else dict(json.loads(Path(file).read_text(encoding="utf-8")))
    if settings and "auto_map" in settings:
        raise ValueError(
            f"{path}/{FEATURE_EXTRACTOR_NAME}: auto_map names code of the processor's own, which is never run here. "
            "Delete auto_map from a copy of the folder, with one of transformers' processors in its place."
        )
    return settings


@contextmanager
def reading(path: str | Path, what: str = "") -> Iterator[None]:
    """Say in one line what transformers and the readers under it say in many, and show none of their reports.

    Args:
        path: what is read: a folder, a file or a name on the hub.
        what: goes before it in the message.

    Raises:
        OSError: it cannot be read.
        ValueError: It is damaged, see ``check_intact``.
    """
    check_intact(f"{what}model={path}", Path(path))
    try:
        with silenced():
            yield
    except Exception as error:  # tokenizers, safetensors and the client of the hub have kinds of their own
        said = shorten(str(error) or type(error).__name__, 120)
        if Path(path).exists():
            raise OSError(f"{what}model={path} cannot be read ({said}): save or download it again.") from error
        raise OSError(f"{what}model={path} is no folder: check the name. On the hub: {said}") from error


def head_of(teacher: Any) -> str:
    """The head of a model that can be converted, as what follows the family's name in its class.

    Raises:
        TypeError: no model of transformers.
        ValueError: a model that cannot be converted.
    """
    if not isinstance(teacher, PreTrainedModel):
        raise TypeError(
            f"the model to convert must be a path or a model of transformers, got {type(teacher).__name__}."
        )
    config, name = teacher.config, type(teacher).__name__
    _check_family(config.model_type, name, ALL_FAMILIES)
    heads = ALL_FAMILIES[config.model_type].heads
    head = _suffix(name)
    if head not in heads:
        raise ValueError(f"cannot convert a {name}: its head must be one of {', '.join(heads)}.")
    _check_config(config, head)
    return head


def name_of(model_or_path: PreTrainedModel | str | Path) -> str:
    """What the result says it comes from: a name, never a path of this machine."""
    if isinstance(model_or_path, PreTrainedModel):
        model_or_path = model_or_path.name_or_path or type(model_or_path).__name__
    path = Path(model_or_path)
    path = path.resolve() if path.exists() else path
    # Runs keep their model in a folder of this name, which tells nothing.
    return f"{path.parent.name}/model" if path.name == "model" and path.parent.name else path.name


def longest_input(model: PreTrainedModel) -> int:
    """Tokens that an encoder can read; RoBERTa and its kin keep the first rows of the position table for padding."""
    patches = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    if isinstance(patches, nn.Parameter):  # ViT and its kin
        return patches.shape[1]
    tables = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    return getattr(model.config, "max_position_embeddings", 512) - reserved_positions(next(tables, None))


def has_longest_input(model: PreTrainedModel) -> bool:
    """Whether an encoder says how much it reads; those of recordings and of images of any size may not."""
    patches = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    return isinstance(patches, nn.Parameter) or getattr(model.config, "max_position_embeddings", None) is not None


def _check_family(model_type: Any, where: str, families: Mapping[str, Family]) -> None:
    if model_type == "linformer":
        raise ValueError(f"{where} is a Linformer already; resize_max_length(n) makes it take longer sequences.")
    if model_type not in families:
        # A type that transformers knows is no misspelling: under another name it would be converted wrongly.
        hint = closest(str(model_type), families)
        if model_type in CONFIG_MAPPING:
            hint = ' Most encoders become linear in their own class: load it with attn_implementation="linformers".'
        raise ValueError(f"{where}: cannot convert model_type={model_type!r}; known are {', '.join(families)}.{hint}")


def _check_known(settings: Mapping[str, Any], where: str) -> None:
    """Refuse what transformers does not know, or what is no encoder."""
    model_type, head = settings.get("model_type"), (settings.get("architectures") or ["AutoModel"])[0]
    if model_type == "linformer":
        raise ValueError(f"{where} is a Linformer already; resize_max_length(n) makes it take longer sequences.")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"{where}: model_type={model_type!r} is unknown to transformers {transformers.__version__}."
            f"{closest(str(model_type), CONFIG_MAPPING)}"
        )
    if not isinstance(getattr(transformers, head, None), type):
        raise ValueError(f"{where}: architectures={[head]} is no class of transformers {transformers.__version__}.")
    if settings.get("is_decoder") or settings.get("add_cross_attention"):
        raise ValueError(f"{where} is a decoder (is_decoder): only encoders become linear.")


def _check_config(config: PreTrainedConfig, head: str) -> None:
    """Refuse what the family's name does not tell."""

    def refuse(field: str, remedy: str) -> None:
        raise ValueError(f"cannot convert a {config.model_type} with {field}={getattr(config, field)!r}: {remedy}.")

    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        refuse("is_decoder", "a Linformer sees the whole sequence; only encoders can be converted")
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        refuse("position_embedding_type", "only absolute positions can be converted")
    if getattr(config, "embedding_size", config.hidden_size) != config.hidden_size:
        refuse("embedding_size", f"it must equal hidden_size={config.hidden_size}, as in ELECTRA base and large")
    act = getattr(config, "hidden_act", None)
    expected = ALL_FAMILIES[config.model_type].head_activation
    if head == "ForMaskedLM" and expected is not None and act != expected:
        refuse("hidden_act", f"its masked-LM head uses {expected!r}, and a Linformer has one activation for both")
    if head == "ForQuestionAnswering" and config.num_labels != 2:
        refuse("num_labels", "question answering has two, the start and the end")
    if config.model_type == "electra" and head == "ForMultipleChoice":
        if config.summary_type != "first":
            refuse("summary_type", "only 'first' can be converted")
        if not config.summary_use_proj:
            refuse("summary_use_proj", "only True can be converted")


def _suffix(class_name: str) -> str:
    found = re.search(r"((?<!Head)Model|For[A-Z]\w*)$", class_name)  # BertLMHeadModel has a head
    return found[1] if found else class_name


def _lacks_head(settings: dict[str, Any], folder: Path) -> bool:
    """Whether a folder of sentence-transformers names a head that is not for it, as all-mpnet-base-v2 does.

    That of pretraining is what the encoder was made of. Any other is there if the weights are those of a model with a
    head, which have the encoder's name before its own.
    """
    if not embeds(folder):
        return False
    name = (settings.get("architectures") or ["Model"])[0]
    if _suffix(name) in ("ForMaskedLM", "ForPreTraining"):
        return True
    prefix = f"{getattr(getattr(transformers, name, None), 'base_model_prefix', '')}."
    names: set[str] = set()
    for path in Path(encoder_folder(folder)).glob("*.safetensors"):
        try:
            with safe_open(path, "numpy") as weights:
                names.update(weights.keys())
        except SafetensorError:  # whoever reads the weights says so
            return False
    return bool(names) and not any(name.startswith(prefix) for name in names)


def saved_head(settings: dict[str, Any], folder: Path | None = None) -> str:
    """The head that a folder was saved with, see ``_lacks_head``; of pretraining heads the part that we have."""
    if folder is not None and _lacks_head(settings, folder):
        return "Model"
    names = settings.get("architectures") or ["Model"]
    head = _suffix(names[0])
    if head == "ForPreTraining":
        head = "Model" if settings["model_type"] == "electra" else "ForMaskedLM"
    if head not in AUTO:
        raise ValueError(f"cannot convert architectures={names}: the head must be one of {', '.join(AUTO)}.")
    return head


def layer_numbers(softmax_layers: Sequence[int], layers: int) -> set[int]:
    """Numbers of layers from 0, of such as may be counted from the last.

    Raises:
        TypeError: one is no integer.
        ValueError: there is no such layer.
    """
    for layer in softmax_layers:
        check_int("softmax_layers", layer, minimum=-layers)
        if layer >= layers:
            raise ValueError(f"softmax_layers={list(softmax_layers)}: there are {layers} layers, 0 to {layers - 1}.")
    return {layer % layers for layer in softmax_layers}
