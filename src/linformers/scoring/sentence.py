"""What a folder of sentence-transformers says of an encoder's vectors: pooling, layers on top, length 1, prompts."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from linformers.convert.surroundings import KIND, encoder_folder, modules_of

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# Before version 6 each mode was a switch of its own.
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_VECTOR = "sentence_embedding"

Layer = Callable[[Float[Tensor, "vectors before"]], Float[Tensor, "vectors after"]]


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """How vectors are made of hidden states; the defaults are those of a folder that does not say.

    Args:
        modes: Ways of pooling, whose results are put one after the other.
        include_prompt: Whether a prompt's tokens are pooled, too.
        layers: What vectors go through after that.
        normalizes: Whether they get length 1 in the end.
        max_length: Tokens that are read; None = as many as the tokenizer says.
        lowercase: Whether texts are read in lower case.
        prompts: Prompts, by name.
        default_prompt: Name of the one that is put before every text.
        known: Whether the folder is one of sentence-transformers.
    """

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    layers: tuple[Layer, ...] = ()
    normalizes: bool = False
    max_length: int | None = None
    lowercase: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    known: bool = False


def read_sentences(model: str | Path) -> Sentences:
    """What a folder says, without running any code of it.

    Raises:
        ValueError: A module that cannot be computed here, or a file that is not what sentence-transformers writes.
    """
    folder = Path(model)
    if not (modules := modules_of(folder)):
        return Sentences()
    names = [module["type"].rpartition(".")[2] for module in modules]
    if names[:2] != ["Transformer", "Pooling"] or not all(_is_theirs(module["type"]) for module in modules):
        raise ValueError(
            f"model={str(model)!r} has the modules {', '.join(module['type'] for module in modules)}; embed reads "
            "Transformer, Pooling, Dense, Dropout and Normalize of sentence-transformers, in this order"
        )
    pooling = _config(folder / modules[1]["path"])
    layers: list[Layer] = []
    for name, module in zip(names[2:], modules[2:], strict=True):
        if name == "Normalize":
            layers.append(normalized)
        elif name == "Dense":
            layers.append(_dense(folder / module["path"]))
        elif name != "Dropout":
            raise ValueError(f"model={str(model)!r} has a module {name}, which embed does not read: export its vectors "
                             "with sentence-transformers")  # fmt: skip
    normalizes = bool(layers) and layers[-1] is normalized
    inner = Path(encoder_folder(folder))
    encoder = next((_config(inner, path.name) for path in sorted(inner.glob("sentence_*_config.json"))), {})
    kind = _config(folder, KIND)
    return Sentences(
        modes=_modes(pooling, folder),
        include_prompt=pooling.get("include_prompt", True),
        layers=tuple(layers[:-1] if normalizes else layers),
        normalizes=normalizes,
        max_length=encoder.get("max_seq_length"),
        lowercase=bool(encoder.get("do_lower_case")),
        prompts=kind.get("prompts") or {},
        default_prompt=kind.get("default_prompt_name"),
        known=True,
    )


def sentence_files(model: str | Path) -> list[Path]:
    """The files beside the encoder that decide what its vectors are."""
    folder = Path(model)
    inner = Path(encoder_folder(folder))
    found = [folder / "modules.json", folder / KIND, *inner.glob("sentence_*_config.json")]
    for module in modules_of(folder)[1:]:
        found += [path for name in ("config.json", "*.safetensors") for path in (folder / module["path"]).glob(name)]
    return sorted({path for path in found if path.is_file()})


def normalized(vectors: Float[Tensor, "vectors size"]) -> Float[Tensor, "vectors size"]:
    """Vectors of length 1."""
    return nn.functional.normalize(vectors, dim=-1)


def _is_theirs(name: str) -> bool:
    return name.startswith("sentence_transformers.")


def _config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    except ValueError:
        pass
    raise ValueError(f"{path} is no JSON object: save the model again")


def _modes(pooling: dict[str, Any], folder: Path) -> tuple[str, ...]:
    given = pooling.get("pooling_mode") or [mode for name, mode in _SWITCHES.items() if pooling.get(name)]
    modes = (given,) if isinstance(given, str) else tuple(given) or ("mean",)
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise ValueError(f"model={str(folder)!r} pools by {unknown[0]!r}; known are {', '.join(MODES)}")
    return modes


def _dense(folder: Path) -> Layer:
    config = _config(folder)
    function = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    package, _, name = str(function).rpartition(".")
    activation = getattr(nn, name, None) if package.startswith("torch.nn") else None
    if activation is None or config.get("module_input_name", _VECTOR) != _VECTOR:
        raise ValueError(f"{folder / 'config.json'}: a dense layer with {function} is none that embed reads")
    if not (folder / "model.safetensors").is_file():
        raise ValueError(
            f"{folder} holds no model.safetensors; other formats can run code when they are read. Where you trust the "
            "file, load the folder with sentence-transformers and call save_pretrained, then give that"
        )
    weights, active = load_file(folder / "model.safetensors"), activation()
    weight, bias = weights["linear.weight"].float(), weights.get("linear.bias")

    @torch.inference_mode()
    def dense(vectors: Tensor) -> Tensor:
        return active(nn.functional.linear(vectors, weight, None if bias is None else bias.float()))

    return dense
