"""Turn a trained encoder with softmax attention into a Linformer, a class of ours, with its weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from linformers.attention import LinformerAttention
from linformers.attention.projection import LinearProjection
from linformers.attention.sharing import PROJECTION_KINDS, per_layer
from linformers.checks import check_choice
from linformers.convert.families import Family
from linformers.convert.fit import fit_projections
from linformers.convert.load import (
    find_tokenizer,
    head_of,
    layer_numbers,
    load_teacher,
    longest_input,
    name_of,
)
from linformers.convert.patches import ALL_FAMILIES
from linformers.models import audio, heads, text, vision
from linformers.models.config import EXACT_LENGTH, LinformerConfig
from linformers.models.resize import Positions
from linformers.models.text import LinformerPreTrainedModel

PROJECTION_INITS = ("pooling", "random", "fit")

_ENCODERS: dict[str, type[LinformerPreTrainedModel]] = {
    "text": text.LinformerModel,
    "image": vision.LinformerImageModel,
    "audio": audio.LinformerAudioModel,
}
_OURS: dict[str, type[LinformerPreTrainedModel]] = {
    "ForMaskedLM": text.LinformerForMaskedLM,
    "ForPreTraining": text.LinformerForMaskedLM,
    "ForSequenceClassification": heads.LinformerForSequenceClassification,
    "ForTokenClassification": heads.LinformerForTokenClassification,
    "ForQuestionAnswering": heads.LinformerForQuestionAnswering,
    "ForMultipleChoice": heads.LinformerForMultipleChoice,
    "ForImageClassification": vision.LinformerForImageClassification,
    "ForImageClassificationWithTeacher": vision.LinformerForImageClassification,
    "ForAudioClassification": audio.LinformerForAudioClassification,
}
_SAME_NAME = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "classifier_dropout",
    "problem_type",
    "id2label",
    "label2id",
)
_OF_PATCHES = (
    "image_size",
    "num_channels",
    "patch_size",
    "patch_stride",
    "audio_length",
    "num_mel_bins",
)


def to_linformer(
    model_or_path: PreTrainedModel | str | Path,
    *,
    projected_dim: int | Sequence[int | None] = 128,
    max_length: int | None = None,
    projection_kind: str = "cluster",
    projection_sharing: str = "key_value",
    projection_init: str = "pooling",
    local_window: int | None = None,
    global_tokens: int = 1,
    exact_length: int | None = None,
    softmax_layers: Sequence[int] = (),
    positions: str = "tile",
    attention_type: str = "linformer",
    texts: Sequence[str] = (),
    tokenizer: Any = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> LinformerPreTrainedModel:
    """Give the weights of a trained encoder to a class of ours, whose attention is linear in sequence length.

    >>> from transformers import BertConfig, BertModel
    >>> teacher = BertModel(BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4))
    >>> type(to_linformer(teacher, projected_dim=64, max_length=4096)).__name__
    'LinformerModel'

    ``linearise`` leaves a model in its own class, with all that people do with that. Ours is for what only it can do:
    the paper's learned projections and its modes of sharing them, streaming, and sequence parallelism. The encoder may
    be a BERT, RoBERTa, XLM-R, CamemBERT, DistilBERT or ELECTRA, of images a ViT or DeiT, of audio an AST.

    The result has the teacher's weights and head. Where slots stand for tokens (all kinds but ``linear`` and ``conv``)
    it computes what the teacher computes on texts of up to ``projected_dim`` tokens beside the global ones, and on all
    of up to ``exact_length``; longer ones are approximated, the better the more slots there are.

    Args:
        model_or_path: Model of transformers, or a folder (or hub name) that holds one as safetensors.
        projected_dim: Slots, k; one for all layers or one per layer (None = softmax attention there).
        max_length: Longest sequence of the result, in tokens; None = the teacher's, as for images and audio.
        projection_kind: Kind of the slots: ``cluster`` (the closest to the teacher), ``attention_pool``, ``mean_pool``,
            ``max_pool``, ``linear`` or ``conv``; see ``LinformerAttention``.
        projection_sharing: Mode of sharing: ``none``, ``headwise``, ``key_value`` or ``layerwise``.
        projection_init: Start of linear and convolutional projections: as ``pooling``, at ``random`` (linear only), or
            as ``pooling`` and then ``fit`` to the teacher's attention on ``texts``.
        local_window: Exact neighbours on each side, in Linformer layers; None = 0 for ``cluster``, 64 for the other
            kinds, which need them.
        global_tokens: Tokens at the start that all see and that see all, in Linformer layers; 2 suits DeiT and AST,
            which have two before the patches.
        exact_length: Length, in tokens, up to which Linformer layers read a text by softmax attention itself; 0 = none;
            None = 1,024, about where both take the same time on a CPU, and 0 for ``linear`` and ``conv``.
        softmax_layers: Layers that keep softmax attention; negative ones count from the last.
        positions: Growth of the position table beyond the teacher's, ``tile`` or ``interpolate``.
        attention_type: Attention of the other layers: ``linformer``, ``kfree`` or ``softmax``.
        texts: Texts for ``projection_init="fit"``; a hundred long ones are plenty.
        tokenizer: Tokenizer of the model, for ``fit``; None = the one beside the weights.
        on_progress: Function called while fitting, with the steps done and their number.

    Returns:
        A new model of the same task, in evaluation mode; the teacher is not changed.

    Raises:
        TypeError: An argument of the wrong type.
        StrictDataclassFieldValidationError: A field of the configuration of the wrong type.
        ValueError: A model that cannot be converted, or options that contradict each other.
        OSError: No such model, or one that is damaged.
    """
    check_choice("projection_init", projection_init, PROJECTION_INITS)
    check_choice("positions", positions, get_args(Positions))
    check_choice("attention_type", attention_type, ("linformer", "kfree", "softmax"))
    check_choice("projection_kind", projection_kind, PROJECTION_KINDS)
    _check_init(projection_init, projection_kind, attention_type, texts)
    is_path = isinstance(model_or_path, str | Path)
    teacher = load_teacher(model_or_path, ALL_FAMILIES) if is_path else model_or_path
    head = head_of(teacher)
    family = ALL_FAMILIES[teacher.config.model_type]
    if family.modality != "text":
        _check_patches(teacher.config.model_type, projection_init, max_length)
    elif is_path:
        tokenizer = tokenizer or find_tokenizer(model_or_path)
    if projection_init == "fit" and tokenizer is None:
        raise ValueError("projection_init='fit' needs the model's tokenizer, and there is none: give tokenizer=...")

    layers = teacher.config.num_hidden_layers
    kept = layer_numbers(softmax_layers, layers)
    types = ["softmax" if layer in kept else attention_type for layer in range(layers)]
    dims = per_layer("projected_dim", projected_dim, layers)
    if not any(kind == "linformer" and k is not None for kind, k in zip(types, dims, strict=True)):
        local_window = global_tokens = exact_length = 0
    if local_window is None:
        local_window = 0 if projection_kind == "cluster" else 64
    if exact_length is None:
        exact_length = EXACT_LENGTH if PROJECTION_KINDS[projection_kind].stands_for_tokens else 0
    config = LinformerConfig(
        **_settings(teacher.config, family, head),
        max_position_embeddings=longest_input(teacher),
        attention_type=types[0] if len(set(types)) == 1 else types,
        projected_dim=dims[0] if len(set(dims)) == 1 else dims,
        projection_kind=projection_kind,
        projection_sharing=projection_sharing,
        local_window=local_window,
        global_tokens=global_tokens,
        exact_length=exact_length,
        converted_from=name_of(model_or_path),
    )
    if tokenizer is not None:  # BERT's configurations do not name these
        if config.bos_token_id is None:
            config.bos_token_id = tokenizer.cls_token_id
        if config.eos_token_id is None:
            config.eos_token_id = tokenizer.sep_token_id
    student = (_ENCODERS[family.modality] if head == "Model" else _OURS[head])(config)
    _copy_weights(teacher, student, family, head)
    student.to(teacher.device, teacher.dtype)  # type: ignore[arg-type]  (a decorator hides the signature)
    student.eval()
    if max_length is not None:
        student.resize_max_length(max_length, positions)
    if projection_init != "random":
        start_as_pooling(student)
    if projection_init == "fit":
        fit_projections(student, teacher, tokenizer, texts, on_progress=on_progress)
    return student


def _check_init(projection_init: str, kind: str, attention_type: str, texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise TypeError("texts must be a list of texts, got one str: put it in a list.")
    if projection_init == "fit":
        if kind not in ("linear", "conv") or attention_type != "linformer":
            raise ValueError(
                f"projection_init='fit' has nothing to fit with projection_kind={kind!r} and attention_type="
                f"{attention_type!r}: use 'linear' or 'conv' and 'linformer', or leave projection_init out."
            )
        if not texts:
            raise ValueError(
                "projection_init='fit' needs texts (of the command: fit_texts): give some as long as those to come."
            )
    elif texts:
        raise ValueError(
            f"texts (of the command: fit_texts) are read only by projection_init='fit', not by {projection_init!r}: "
            "leave them out."
        )
    if projection_init == "random" and kind != "linear":
        raise ValueError(f"projection_init='random' needs projection_kind='linear', not {kind!r}.")


def _check_patches(model_type: str, projection_init: str, max_length: int | None) -> None:
    if projection_init == "fit":
        raise ValueError(f"projection_init='fit' reads texts, but a {model_type} has none: use 'pooling'.")
    if max_length is not None:
        raise ValueError(
            f"max_length={max_length} is for text, but a {model_type} has a grid of patches: leave it out. Images of "
            "other sizes go after resize_image_size."
        )


def _settings(config: PreTrainedConfig, family: Family, head: str) -> dict[str, Any]:
    """Fields of our configuration from theirs."""
    is_text, settings = family.modality == "text", dict[str, Any]()
    for name in _SAME_NAME if is_text else (*_SAME_NAME, *_OF_PATCHES):
        theirs = family.fields.get(name, name)
        if isinstance(theirs, tuple):
            settings[name] = tuple(getattr(config, one) for one in theirs)
        elif is_text or hasattr(config, theirs):
            settings[name] = getattr(config, theirs, None)
    settings |= family.constants
    if settings["id2label"] is None:
        del settings["id2label"], settings["label2id"]
    if not is_text:
        settings["num_prefix_tokens"] = len(family.prefix_tokens)
        several = any(isinstance(theirs, tuple) for theirs in family.heads[head].values())
        settings["classifier_pooling"] = "prefix" if several else "cls"
    activation = family.classifier_activation.get(head, "tanh")
    if activation.startswith("<"):
        activation = getattr(config, activation.strip("<>")) or "linear"
    return settings | {"classifier_activation": activation}


@torch.no_grad()
def _copy_weights(teacher: Any, student: LinformerPreTrainedModel, family: Family, head: str) -> None:
    """Copy every weight; the projections E and F are not in the teacher."""
    base, whole = teacher.base_model.state_dict(), teacher.state_dict()
    modules = family.heads[head]
    tied = set(student.all_tied_weights_keys)
    for name, target in student.named_parameters():
        inner = name.removeprefix(f"{student.base_model_prefix}.")
        if inner.startswith("encoder.projections.") or name in tied:
            continue
        module, _, weight = name.rpartition(".")
        if inner == "embeddings.prefix_tokens":
            source = torch.cat([base[f"embeddings.{token}"][0] for token in family.prefix_tokens])
        elif family.modality != "text" and inner == "embeddings.position_embeddings.weight":
            source = base["embeddings.position_embeddings"][0]
        elif module in modules:
            source = _of_modules(whole, modules[module], weight)
        elif (theirs := family.source(inner)) in base:
            source = base[theirs]
        elif theirs is None or weight == "bias":  # DistilBERT has no token types, a ViT may have no biases of queries
            target.zero_()
            continue
        else:
            raise ValueError(
                f"the {type(teacher).__name__} has no weight {theirs}: use a newer release of transformers."
            )
        if inner == "embeddings.position_embeddings.weight":  # RoBERTa's first rows are for padding
            source = source[len(source) - longest_input(teacher) :]
        if source.shape != target.shape:
            raise ValueError(
                f"weight {name} has shape {tuple(source.shape)} in the teacher, and {tuple(target.shape)} by its "
                "config: correct config.json."
            )
        target.copy_(source)


def _of_modules(weights: Mapping[str, Tensor], modules: str | tuple[str, ...], weight: str) -> Tensor:
    """A weight of theirs, or that of the average of several classifiers; see ``Names``."""
    if isinstance(modules, str):
        return weights[f"{modules}.{weight}"]
    parts = torch.stack([weights[f"{module}.{weight}"] for module in modules]) / len(modules)
    return parts.transpose(0, 1).flatten(1) if weight == "weight" else parts.sum(0)


@torch.no_grad()
def start_as_pooling(student: LinformerPreTrainedModel) -> None:
    """Fill linear projections with what mean pooling of a text of the greatest length does; conv starts so anyway."""
    for attention in student.modules():
        if not isinstance(attention, LinformerAttention):
            continue
        for projection in {attention.key_projection, attention.value_projection}:
            if isinstance(projection, LinearProjection):
                n, k = projection.weight.shape[-2:]
                slots = torch.arange(n, device=projection.weight.device) * k // n
                pooling = torch.nn.functional.one_hot(slots, k).to(projection.weight)
                projection.weight.copy_(pooling / pooling.sum(0).clamp(min=1))
