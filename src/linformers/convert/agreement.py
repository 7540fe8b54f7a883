"""What a folder says twice must agree: weights and configuration, labels and classifier, tokenizer and embedding."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig


def check_loaded(where: str, model: PreTrainedModel, report: Mapping[str, Any], *, head: bool = True) -> None:
    """Refuse a model whose weights or labels are not what its configuration says.

    Args:
        where: What the message begins with.
        model: As ``from_pretrained(..., ignore_mismatched_sizes=True, output_loading_info=True)`` gives it.
        report: What it gives beside the model.
        head: Whether the head matters, too; a pooler that nothing reads may be missing.

    Raises:
        ValueError: They disagree; both are named.
    """
    config: Any = model.config
    for name, found, expected in sorted(report["mismatched_keys"]):
        says = "config.json"
        if head and expected[0] == config.num_labels != found[0] and "embed" not in name:
            says = f"the {config.num_labels} labels of id2label in config.json"
        raise ValueError(
            f"{where}: {name} has shape {tuple(found)} in the weights, but {tuple(expected)} by {says}: correct "
            "config.json, or save the model again"
        )
    missing = sorted(name for name in report["missing_keys"] if head or "pooler." not in name)
    if missing:
        raise ValueError(
            f"{where} lacks weights of its {type(model).__name__}: {', '.join(missing[:3])}"
            f"{', ...' if missing[3:] else ''}. Correct its config.json (`architectures` names the head)"
        )
    if not type(model).__name__.endswith("Classification"):  # others have labels that nobody reads
        return
    names, numbers = getattr(config, "id2label", None) or {}, getattr(config, "label2id", None) or {}
    if names and numbers and {str(name): int(i) for i, name in names.items()} != _numbers(numbers):
        raise ValueError(
            f"{where}: id2label={dict(names)} and label2id={dict(numbers)} in config.json are not each other's "
            "inverse: correct the one that is wrong"
        )


def _numbers(label2id: Mapping[str, Any]) -> dict[str, int | None]:
    """Numbers of labels, which some files hold as text; None for what is none."""
    return {name: int(i) if str(i).isdecimal() else None for name, i in label2id.items()}


def check_vocabulary(folder: str | Path, tokenizer: Any) -> None:
    """Refuse a tokenizer that gives ids which the embedding of the same folder has not.

    Raises:
        ValueError: It does; both are named.
    """
    settings, _ = PreTrainedConfig.get_config_dict(folder)
    size, longest = settings.get("vocab_size"), max(tokenizer.get_vocab().values(), default=-1)
    if isinstance(size, int) and longest >= size:
        token = tokenizer.convert_ids_to_tokens(longest)
        raise ValueError(
            f"{folder}: its tokenizer gives ids up to {longest:,} ({token!r}), but vocab_size={size:,} in config.json, "
            "so the embedding has no row for them: copy the tokenizer that the model was trained with, or call "
            "resize_token_embeddings and save the model again"
        )
