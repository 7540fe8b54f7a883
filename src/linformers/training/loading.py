"""Load models and tokenizers to train: ours or transformers', safetensors only, and no code of the model's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

import linformers  # noqa: F401  (registers the model type)
from linformers.convert.agreement import check_loaded, check_vocabulary
from linformers.convert.load import AUTO, longest_input, saved_head
from linformers.convert.surroundings import encoder_folder, with_surroundings
from linformers.files.folders import check_intact
from linformers.models.silence import silenced

LOCAL: dict[str, Any] = {"trust_remote_code": False}
REPORTED = {"ignore_mismatched_sizes": True, "output_loading_info": True}  # see check_loaded


def load_saved(option: str, name: str, dtype: str = "float32") -> PreTrainedModel:
    """A model with the head it was saved with, in a dtype that need not be that of its file.

    Raises:
        ValueError: it cannot be loaded.
    """
    with reported(option, name):
        around = with_surroundings(name)
        folder = encoder_folder(around)
        config: Any = AutoConfig.from_pretrained(folder, **LOCAL)
        auto = AUTO[saved_head(config.to_dict(), Path(around))]
        model, report = auto.from_pretrained(
            folder, use_safetensors=True, dtype=getattr(torch, dtype), **REPORTED, **LOCAL
        )
    check_loaded(f"{option}={name!r}", model, report, head=auto is not AutoModel)
    return model


def load_encoder(option: str, name: str, dtype: str = "float32") -> PreTrainedModel:
    """A model without its head, and without gradients, in a dtype that need not be that of its file.

    Raises:
        ValueError: it cannot be loaded.
    """
    with reported(option, name):
        model, report = AutoModel.from_pretrained(
            encoder_folder(name), use_safetensors=True, dtype=getattr(torch, dtype), **REPORTED, **LOCAL
        )
    check_loaded(f"{option}={name!r}", model, report, head=False)
    return model.eval().requires_grad_(False)


def stored_dtype(option: str, name: str, dtype: str, console: Console) -> str:
    """In what dtype the weights of a model lie, by its configuration; says so where they are trained in another."""
    with reported(option, name):
        config: Any = AutoConfig.from_pretrained(encoder_folder(name), **LOCAL)
    stored = str(config.dtype or torch.float32).removeprefix("torch.")
    if stored != dtype:
        console.print(
            f"the weights of {name} are stored in {stored}; they are trained in {dtype}",
            highlight=False,
            soft_wrap=True,
        )
    return stored


def load_tokenizer(option: str, name: str) -> Tokenizer:
    """The tokenizer beside a model.

    Raises:
        ValueError: there is none.
    """
    with reported(option, name):
        tokenizer = AutoTokenizer.from_pretrained(encoder_folder(name), **LOCAL)
    check_vocabulary(encoder_folder(name), tokenizer)
    return tokenizer


def check_pair(
    name: str, teacher: PreTrainedModel, student: PreTrainedModel, tokenizer: Tokenizer, option: str, length: int
) -> None:
    """Refuse a teacher whose layers or tokens are not the student's, or that cannot read so much.

    Args:
        name: Name of the teacher.
        teacher: the model to imitate.
        student: the model that learns.
        tokenizer: Tokenizer of the student.
        option: what the user calls the length.
        length: Length of the longest input, in tokens.

    Raises:
        ValueError: they do not fit each other.
    """
    theirs: Any = teacher.config
    ours: Any = student.config
    for field in ("num_hidden_layers", "hidden_size", "vocab_size"):
        if getattr(theirs, field) != getattr(ours, field):
            raise ValueError(
                f"teacher={name!r} has {field}={getattr(theirs, field)}, but the model has {getattr(ours, field)}; "
                "take the teacher that the model was converted from"
            )
    if load_tokenizer("teacher", name).get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"teacher={name!r} has another vocabulary than the model; both must read the same tokens")
    if longest_input(teacher) < length:
        raise ValueError(
            f"teacher={name!r} reads {longest_input(teacher):,} tokens, but {option}={length}; lower {option}"
        )


@contextmanager
def reported(option: str, name: str) -> Iterator[None]:
    """One clear line for what transformers says about a model that cannot be loaded; nothing about new heads.

    Raises:
        ValueError: It cannot be loaded, or is damaged.
    """
    check_intact(f"{option}={name!r}", Path(name))
    try:
        with silenced():
            yield
    except (OSError, ValueError, KeyError) as error:
        what = "" if Path(name).is_dir() else " (no such folder, and no model of the hub that can be reached)"
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{option}={name!r} cannot be loaded{what}: {first} Give the folder of an encoder with a tokenizer, "
            "weights as safetensors, and no code of its own"
        ) from error
