"""What is measured: our encoder, softmax attention in it, and transformers' encoders, all of one shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from huggingface_hub.errors import StrictDataclassError
from pydantic import Field
from transformers import AutoConfig

from linformers.checks import check_choice, check_heads
from linformers.files.settings import Count, StrictModel
from linformers.models import LinformerConfig

SPECIAL_TOKENS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
LANDMARKS = 64  # transformers' default for Nystromformer

# The rivals by the names of --against: their type in transformers, and what a reader of the table must know.
RIVALS = {
    "nystromformer": ("nystromformer", "64 landmarks; inputs padded to a multiple of 64"),
    "longformer": ("longformer", "window 512, no global tokens; pads inputs to a multiple of 512 itself"),
    "bigbird": ("big_bird", "blocks of 64, 3 random ones; full attention up to 704 tokens, as transformers does"),
    "modernbert": (
        "modernbert",
        "local attention of 128, every third layer global; gated feed-forward of 3/8 of the intermediate size, as in "
        "ModernBERT-base (1,152 for 3,072)",
    ),
    "roberta": ("roberta", "PyTorch's scaled_dot_product_attention"),
    "softmax-sdpa": ("linformer", "our encoder with softmax attention, scaled_dot_product_attention"),
    "kfree": ("linformer", "our encoder with k-free attention"),
    "softmax-eager": ("roberta", "RoBERTa that writes out all n x n weights, as encoders did when Linformer appeared"),
}


class Shape(StrictModel):
    """What all contenders share.

    Args:
        hidden_size: Width of the encoder.
        num_hidden_layers: Layers.
        num_attention_heads: Heads in a layer.
        intermediate_size: Width of the feed-forward layers; None = four times ``hidden_size``.
        vocab_size: Tokens of the vocabulary.
    """

    hidden_size: Count = 768
    num_hidden_layers: Count = 3
    num_attention_heads: Count = 12
    intermediate_size: Count | None = None
    vocab_size: Annotated[int, Field(ge=64)] = 50265

    def _check(self) -> None:
        check_heads(self.hidden_size, self.num_attention_heads)
        if self.intermediate_size is None:
            object.__setattr__(self, "intermediate_size", 4 * self.hidden_size)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One encoder of the table.

    Args:
        name: in the table.
        model_type: transformers' name of its kind.
        fields: Fields of its configuration; what follows from the length is left to ``fields_at``.
        eager: write out attention weights.
        about: what a reader of the table must know.
    """

    name: str
    model_type: str
    fields: Mapping[str, Any]
    eager: bool = False
    about: str = ""

    def padded(self, length: int) -> int:
        """The length of its input for texts of ``length`` tokens."""
        return -(-length // LANDMARKS) * LANDMARKS if self.model_type == "nystromformer" else length

    def fields_at(self, length: int) -> dict[str, Any]:
        """Its configuration for inputs of a length: positions for all tokens, and nothing longer."""
        length = self.padded(length)
        # RoBERTa and its heirs leave two positions out; BigBird fills up its last block of 64.
        positions = length if self.model_type == "linformer" else -(-length // 64) * 64 + 2
        fields = {**self.fields, "max_position_embeddings": positions}
        if self.model_type == "nystromformer":  # it takes this one length; its default would be exact attention
            fields["segment_means_seq_len"] = length
        return fields

    def compresses(self, length: int) -> bool:
        """Whether it has fewer slots than there are tokens; what has no slots does not count as one that has not."""
        k = self.fields.get("projected_dim") if self.fields.get("attention_type") == "linformer" else None
        return not isinstance(k, int) or k < length


def linformer(shape: Shape, projected_dim: int, fields: Mapping[str, Any] = {}, name: str = "") -> Contender:  # noqa: B006
    """Our encoder.

    Args:
        shape: Shape of the table.
        projected_dim: slots.
        fields: Fields of ``LinformerConfig``, beside the shape's.
        name: in the table, if not ``linformer k=...``.

    Raises:
        ValueError: a field that is none, or values that contradict each other.
    """
    given = set(fields) & {*shape.model_dump(), "projected_dim", "max_position_embeddings"}
    if given:
        raise ValueError(f"{sorted(given)[0]}=... is not to be set here: it has an option of its own")
    all_fields = {**shape.model_dump(), "attention_type": "linformer", "projected_dim": projected_dim, **fields}
    try:
        LinformerConfig(**all_fields)
    except StrictDataclassError as error:  # names the field on its first line, the reason on the next ones
        raise TypeError(" ".join(str(error).split())) from error
    return Contender(name=name or f"linformer k={projected_dim}", model_type="linformer", fields=all_fields)


def rival(name: str, shape: Shape) -> Contender:
    """A contender of ``RIVALS``.

    Raises:
        ValueError: an unknown name.
    """
    check_choice("against", name, RIVALS)
    model_type, about = RIVALS[name]
    fields: dict[str, Any] = {**shape.model_dump(), **SPECIAL_TOKENS}
    if model_type == "linformer":
        fields["attention_type"] = "softmax" if name == "softmax-sdpa" else name
    elif model_type == "modernbert":
        assert shape.intermediate_size is not None
        fields |= {"intermediate_size": max(3 * shape.intermediate_size // 8, 1), "cls_token_id": 0, "sep_token_id": 2}
    elif model_type == "big_bird":
        fields["sep_token_id"] = 2
    return Contender(name=name, model_type=model_type, fields=fields, eager=name == "softmax-eager", about=about)


def saved(name: str) -> tuple[Contender, Shape]:
    """A model of one's own, by the folder of its configuration or its hub id; only the configuration is read.

    Raises:
        ValueError: it cannot be read, or has no shape that rivals could take over.
    """
    from linformers.training.loading import LOCAL, reported

    with reported("--model", name):
        config: Any = AutoConfig.from_pretrained(name, **LOCAL)
    fields = config.to_diff_dict()
    for key in ("transformers_version", "model_type", "architectures", "dtype"):
        fields.pop(key, None)
    missing = [key for key in Shape.model_fields if not isinstance(getattr(config, key, None), int)]
    if missing:
        raise ValueError(f"--model={name!r}: its configuration ({config.model_type}) has no {missing[0]}; take another")
    shape = Shape(**{key: getattr(config, key) for key in Shape.model_fields})
    return Contender(name="model", model_type=config.model_type, fields=fields, about=name), shape


def notes(contenders: Sequence[Contender]) -> list[str]:
    """What a reader must know about them."""
    return [f"{contender.name}: {contender.about}" for contender in contenders if contender.about]
