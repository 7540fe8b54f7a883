"""What lies around the encoder in a folder of sentence-transformers: found, and carried to the folder of another."""

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers.utils.hub import cached_file

MODULES, KIND = "modules.json", "config_sentence_transformers.json"
_FACTS = (KIND, MODULES, "router_config.json")
_OF_ENCODER = "sentence_*_config.json"
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
# Of a model on the hub: the encoder's weights in other formats. Patterns hold for the whole path.
_OTHERS = ("pytorch_model*.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "onnx/*", "openvino/*")


def modules_of(folder: Path) -> list[dict[str, Any]]:
    """The modules of a sentence-transformers model in their order, the encoder first; none for another folder.

    Raises:
        ValueError: ``modules.json`` is not what sentence-transformers writes, or names a folder outside.
    """
    file = folder / MODULES
    if not file.is_file():
        return []
    try:
        modules = sorted(json.loads(file.read_text(encoding="utf-8")), key=lambda module: module["idx"])
        whole = all(isinstance(module["path"], str) and isinstance(module["type"], str) for module in modules)
    except (ValueError, TypeError, KeyError):
        modules, whole = [], False
    if not whole or not modules:
        raise ValueError(f"{file} does not list modules with idx, path and type: save the model again.")
    for path in (Path(module["path"]) for module in modules):
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{file} names {path}, which is outside of the folder: nothing is read or written there.")
    return modules


def encoder_folder(path: str | Path) -> Path | str:
    """Where the encoder of a model lies: its folder, or that which an older ``modules.json`` names (0_Transformer).

    Raises:
        ValueError: ``modules.json`` is not what sentence-transformers writes.
    """
    folder = Path(path)
    if (folder / "config.json").is_file() or not (modules := modules_of(folder)):
        return path
    return folder / modules[0]["path"]


def embeds(folder: Path) -> bool:
    """Whether sentence-transformers reads the encoder of a folder without a head, whatever its ``config.json`` says.

    Cross-encoders and sparse encoders, which have one, are named as such; older folders of sentence encoders are not.
    """
    first = [module["type"].rpartition(".")[2] for module in modules_of(folder)[:1]]
    try:
        kind = json.loads((folder / KIND).read_text(encoding="utf-8")).get("model_type", "SentenceTransformer")
    except (OSError, ValueError, AttributeError):
        kind = "SentenceTransformer"
    return first == ["Transformer"] and kind == "SentenceTransformer"


def with_surroundings(name: str | Path) -> str | Path:
    """The folder of a model; of one on the hub, if it is of sentence-transformers, a copy on this machine."""
    if Path(name).exists():
        return name
    if cached_file(str(name), MODULES, _raise_exceptions_for_missing_entries=False) is None:
        return name
    return Path(snapshot_download(str(name), ignore_patterns=list(_OTHERS)))


def carry(source: Path, target: Path, max_length: int | None, notes: list[str] | None = None) -> Path:
    """Copy all of a sentence-transformers model but its encoder.

    Args:
        source: Its folder.
        target: That of the new model.
        max_length: Tokens that the new model reads; None = as many as before.
        notes: What a user should know is added to this list, in sentences.

    Returns:
        Where in ``target`` its encoder and tokenizer go: itself, but for an older layout.
    """
    said = [] if notes is None else notes
    if not (modules := modules_of(source)):
        return target
    (inner := target / modules[0]["path"]).mkdir(parents=True, exist_ok=True)
    for name in _FACTS:
        if (source / name).is_file():
            shutil.copy(source / name, target / name)
    encoder, *others = modules
    for file in (source / encoder["path"]).glob(_OF_ENCODER):
        settings = json.loads(file.read_text(encoding="utf-8"))
        before = settings.get("max_seq_length")
        if before is not None and max_length is not None and before != max_length:
            settings["max_seq_length"] = max_length
            said.append(f"sentence-transformers reads {max_length:,} tokens (max_seq_length), where it read {before:,}")
        (inner / file.name).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    for module in others:
        if module["path"] and (source / module["path"]).is_dir():
            shutil.copytree(source / module["path"], target / module["path"], dirs_exist_ok=True)
    for module in modules:
        name = module["type"]
        if not name.startswith("sentence_transformers."):
            said.append(f"the module {name} is no part of sentence-transformers: its code is needed beside the folder")
    copied = (path for module in others if module["path"] for path in sorted((target / module["path"]).rglob("*")))
    for path in copied:
        if path.suffix in _PICKLED:
            said.append(
                f"{path.relative_to(target)} is no safetensors file; it was copied unread, and sentence-transformers "
                "will unpickle it"
            )
    return inner
