"""``attn_implementation="linformers"``: linear attention in a model's own class.

Encoders of transformers hand queries, keys and values, projected and rotated, to a function that
``attn_implementation`` names. This file holds that function, its settings, and what makes room for long inputs.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, NoReturn, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

from linformers._registration import ATTENTION as NAME
from linformers._registration import MODEL_TYPE
from linformers.attention.distances import Distances
from linformers.attention.documents import Documents, wide
from linformers.attention.keys import Keys, token_keys
from linformers.attention.memory import Memory, memory_of_tokens
from linformers.attention.segments import read_in_segments
from linformers.attention.sharing import PROJECTION_KINDS
from linformers.attention.slots import AttentionPoolProjection
from linformers.attention.window import Nearby
from linformers.checks import check_choice, check_int, check_number
from linformers.models.config import EXACT_LENGTH
from linformers.models.resize import check_module

POOLING_KINDS = {name: kind for name, kind in PROJECTION_KINDS.items() if issubclass(kind, AttentionPoolProjection)}
# What some models hand to their attention that changes its result.
NOT_TAKEN = ("softcap", "s_aux", "position_bias", "cache", "cu_seq_lens_q", "cu_seq_lens_k", "head_mask")
ModelT = TypeVar("ModelT", bound=nn.Module)
SOFTMAX = 'set attn_implementation="sdpa" (or "eager") for this model'
CONTEXT_WEIGHT = 0.125


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model's attention is made linear; kept in ``config.json`` under ``linformers``.

    Args:
        projected_dim: Slots, k; one number, or one for each layer (None = softmax attention there).
        projection_kind: ``cluster`` (slots that follow the content) or ``attention_pool`` (windows of neighbours).
        local_window: Exact neighbours on each side, beside the slots.
        global_tokens: Tokens at the start that all see and that see all.
        exact_length: Inputs of up to so many tokens are read by softmax attention itself, each by its own length.
        segment_length: Tokens that see each other exactly, with all others as slots that weigh less: see
            ``attention/segments.py``. 0 = the text as a whole. Inputs of up to so many tokens are read by softmax
            attention, whatever ``exact_length`` says; there is no window beside.
        context_weight: The most that all other text weighs, at equal scores, of what a segment weighs.
        trained_length: Tokens of the texts that the model was trained on. Queries of n tokens, more than that, are
            multiplied by ``log(n) / log(trained_length)``, so that attention among many tokens is as sharp as among
            few (Chiang and Cholak, arXiv 2202.12172), in all layers but those with a window of the model's own. 0 =
            queries as they are.
    """

    projected_dim: int | tuple[int | None, ...] = 128
    projection_kind: str = "cluster"
    local_window: int = 0
    global_tokens: int = 1
    exact_length: int = EXACT_LENGTH
    segment_length: int = 0
    context_weight: float = CONTEXT_WEIGHT
    trained_length: int = 0

    def __post_init__(self) -> None:
        for k in self.projected_dim if isinstance(self.projected_dim, tuple) else (self.projected_dim,):
            if k is not None or not isinstance(self.projected_dim, tuple):
                check_int("projected_dim", k)
        check_choice("projection_kind", self.projection_kind, POOLING_KINDS)
        for name in ("local_window", "global_tokens", "exact_length", "segment_length", "trained_length"):
            check_int(name, getattr(self, name), minimum=0)
        if self.trained_length == 1:
            raise ValueError("trained_length=1 has a logarithm of 0: give the tokens of the training texts, or 0.")
        check_number("context_weight", self.context_weight)
        if self.segment_length and self.local_window:
            raise ValueError(
                f"segment_length={self.segment_length} and local_window={self.local_window}: a segment sees itself "
                "exactly, so leave local_window at 0."
            )
        if self.segment_length and self.trained_length:
            raise ValueError(
                f"segment_length={self.segment_length} and trained_length={self.trained_length}: a token of a segment "
                "reads the same number of tokens in a text of any length, so leave trained_length at 0."
            )

    @classmethod
    def of(cls, given: Any) -> "Settings":
        """Read what a configuration holds.

        Raises:
            TypeError: Not a dictionary, or a value of the wrong type.
            ValueError: An unknown name, or a value out of range.
        """
        if not isinstance(given, dict):
            raise TypeError(f"linformers={given!r} in the configuration must be a dictionary of settings")
        for name in given:
            check_choice("setting", name, SETTINGS)
        if isinstance(k := given.get("projected_dim"), list | tuple):
            given = {**given, "projected_dim": tuple(k)}
        return cls(**given)

    @property
    def softmax_length(self) -> int:
        """Tokens up to which an input is read by softmax attention."""
        return self.segment_length or self.exact_length

    def slots(self, module: nn.Module) -> int | None:
        """The slots of one attention module."""
        if not isinstance(self.projected_dim, tuple):
            return self.projected_dim
        layer = getattr(module, "layer_idx", None)
        if layer is None:
            raise ValueError(
                f"projected_dim={list(self.projected_dim)} names the layers, but {type(module).__name__} does not know "
                "its number: give one projected_dim for all layers."
            )
        if layer >= len(self.projected_dim):
            raise ValueError(
                f"projected_dim={list(self.projected_dim)} has no entry for layer {layer}: give one for each layer."
            )
        return self.projected_dim[layer]


SETTINGS = tuple(field.name for field in fields(Settings))


_KNOWN: dict[str, Settings] = {}  # by what configurations hold: reading that anew takes longer than a short attention


def layer_slots(config: Any) -> list[int | None]:
    """Slots of each layer of a model, ours or another's that is linear; None = softmax attention, 0 = neither."""
    if getattr(config, NAME, None) is not None:
        k = settings_of(config).projected_dim
        return list(k) if isinstance(k, tuple) else [k] * config.num_hidden_layers
    return [None if kind == "softmax" else k or 0 for kind, k in config.layer_attention]


def exact_length(config: Any) -> int:
    """Tokens up to which a model, ours or another's, reads by softmax attention though it is linear; 0 = none."""
    if getattr(config, NAME, None) is not None:
        return settings_of(config).softmax_length
    return getattr(config, "exact_length", 0)


def settings_of(config: Any) -> Settings:
    """The settings of a model's configuration; the defaults where it has none."""
    given = getattr(config, NAME, None) or {}
    if torch.compiler.is_compiling():
        return Settings.of(given)
    if (key := repr(given)) not in _KNOWN:
        _KNOWN[key] = Settings.of(given)
    return _KNOWN[key]


def attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads seq head_dim"],
    key: Float[Tensor, "batch key_heads keys head_dim"],
    value: Float[Tensor, "batch key_heads keys head_dim"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch seq heads head_dim"], None]:
    """What ``attn_implementation="linformers"`` names; called by the attention modules of transformers.

    Args:
        module: The attention module; its ``config`` holds the settings.
        query: Queries, rotated where the model does that.
        key: Keys; fewer heads than the queries have are repeated.
        value: Values.
        attention_mask: (batch, keys), True or 1 = keep; or a mask of four axes that says no more than that.
        scaling: What scores are multiplied by; None = ``head_dim ** -0.5``.
        dropout: Probability of dropping a weight.
        sliding_window: The layer is softmax attention over ``sliding_window - 1`` tokens on each side; it stays that.
        is_causal: Must not be; None = what the module says.
        kwargs: What other implementations take. Whatever would change the result is refused.

    Returns:
        What was read, zero at padding, and None for the weights.

    Raises:
        ValueError: The model asks for what linear attention does not do; the message says what, and the remedy.
    """
    for name in NOT_TAKEN:
        if kwargs.get(name) is not None:
            raise ValueError(f"{type(module).__name__} uses {name}, which linear attention does not take: {SOFTMAX}.")
    if is_causal if is_causal is not None else getattr(module, "is_causal", False):
        raise ValueError(
            f"{type(module).__name__} is causal, and linear attention is for encoders: {SOFTMAX}; of a model with an "
            'encoder and a decoder load the encoder alone, or give {"encoder": "linformers"} where it takes that.'
        )
    if kwargs.get("output_attentions") or getattr(getattr(module, "config", None), "output_attentions", False):
        refuse_weights()
    if key.shape[1] != query.shape[1]:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    size = query.shape[-1]
    if scaling is not None and scaling != size**-0.5:
        query = query * (scaling * size**0.5)
    keep = padding_of(attention_mask, key.shape[0], key.shape[2], type(module).__name__)
    settings = settings_of(getattr(module, "config", None))
    if key.shape[2] != query.shape[2] or _is_cross(module):
        return _softmax(query, key, value, keep, None, dropout), None
    read = read_tokens(query, key, value, keep, settings, settings.slots(module), dropout, sliding_window)
    return read, None


def read_tokens(
    query: Float[Tensor, "batch heads seq head_dim"],
    key: Float[Tensor, "batch heads seq head_dim"],
    value: Float[Tensor, "batch heads seq head_dim"],
    keep: Bool[Tensor, "batch seq"] | None,
    settings: Settings,
    k: int | None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    distances: Distances | None = None,
) -> Float[Tensor, "batch seq heads head_dim"]:
    """What tokens read of each other; scores are scaled by ``head_dim ** -0.5``.

    Args:
        query: Queries.
        key: Keys.
        value: Values.
        keep: Which tokens are no padding; None = all.
        settings: The model's settings.
        k: Slots of the layer; None = softmax attention.
        dropout: Probability of dropping a weight.
        sliding_window: See ``attention``.
        distances: What is added to scores for the distance of two tokens; of padding inside a text nothing is counted.
    """
    seq, exact_length = key.shape[2], settings.softmax_length if sliding_window is None else 0
    trained = settings.trained_length if sliding_window is None else 0
    # In a traced graph no length is compared: it would be tied to the answer.
    if keep is None and not torch.compiler.is_compiling() and seq <= min(exact_length, trained or exact_length):
        return _softmax(query, key, value, None, distances, dropout)
    documents = Documents(keep, seq, key.device)
    query, key, value = (documents.align(x.transpose(1, 2)) for x in (query, key, value))
    if documents.padded:
        key, value = documents.zero(key), documents.zero(value)
    if trained:
        sharper = documents.totals.clamp(min=trained).to(wide(query)).log() / math.log(trained)
        query = query * sharper.to(query.dtype)[:, None, None, None]

    def read_documents(query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
        if sliding_window is not None:
            none = Keys(key[:, :0].transpose(1, 2), value[:, :0].transpose(1, 2))
            memory = Memory(none, documents, sliding_window - 1, 0, Nearby(key, value))
        elif k is None or documents.exact:
            tokens = token_keys(key.transpose(1, 2), value.transpose(1, 2), documents)
            memory = Memory(tokens if distances is None else tokens.raised(distances.of_all(key.shape[1])), documents)
        else:
            slots = POOLING_KINDS[settings.projection_kind](None, k)
            common = {"global_tokens": settings.global_tokens, "dropout": dropout, "distances": distances}
            if settings.segment_length:
                common |= {"length": settings.segment_length, "context_weight": settings.context_weight}
                return read_in_segments(query, key, value, documents, slots, **common)
            memory = memory_of_tokens(query, key, value, documents, slots, window=settings.local_window, **common)
        return memory.read(query.transpose(1, 2), dropout=dropout)[0].transpose(1, 2)

    read = documents.grouped(exact_length).map(read_documents, query, key, value)
    return documents.restore(documents.zero(read)).contiguous()


def _softmax(
    query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None, distances: Distances | None, dropout: float
) -> Float[Tensor, "batch seq heads head_dim"]:
    """Softmax attention, (batch, heads, tokens, head_dim) of each."""
    if distances is not None:
        mask = distances.of_all(key.shape[2]).to(query.dtype)
    else:
        mask = None if keep is None else keep[:, None, None]
    read = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return read.transpose(1, 2).contiguous()


def refuse_weights() -> NoReturn:
    """Say that there are no attention weights."""
    raise ValueError(
        "linear attention has no n x n weights to give: leave out output_attentions, or set "
        'attn_implementation="eager".'
    )


def _is_cross(module: nn.Module) -> bool:
    """Whether a module reads another sequence, though it may be as long."""
    name = type(module).__name__
    return "Cross" in name or getattr(module, "is_cross_attention", False) or getattr(module, "is_decoder", False)


def padding_of(mask: Tensor | None, batch: int, keys: int, name: str) -> Bool[Tensor, "batch keys"] | None:
    """Which keys are no padding, from what the model hands over; None = all."""
    if mask is None:
        return None
    if mask.ndim == 4:
        rows, traced = mask[:, :1, :1], torch.compiler.is_compiling()
        several, additive = mask.shape[1:3] != (1, 1), mask.is_floating_point()
        more = several if traced else several and not bool((mask == rows).all())
        # What is added to scores is padding if it is 0 or removes a key; a position bias is neither.
        if more or (additive and not traced and not bool(((rows == 0) | (rows <= -1e4)).all())):
            raise ValueError(
                f"{name} has an attention mask that is more than padding, {tuple(mask.shape)}, which linear attention "
                f"does not take: {SOFTMAX}."
            )
        mask = rows[:, 0, 0] == 0 if additive else rows[:, 0, 0]
    if mask.ndim != 2 or mask.shape[1] != keys:
        raise ValueError(
            f"{name} has an attention mask of shape {tuple(mask.shape)}, not (batch, keys) = ({batch}, {keys}): give "
            "one entry for each token."
        )
    keep = (mask != 0).expand(batch, keys)
    return None if not torch.compiler.is_compiling() and bool(keep.all()) else keep


def padding_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Any = bidirectional_mask_function,
    attention_mask: Bool[Tensor, "batch keys"] | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    **kwargs: Any,
) -> Tensor | None:
    """The mask that models hand to their attention: padding alone, (batch, keys), not n x n.

    The window of a sliding layer comes to ``attention`` as a number. A mask that says more is made in full, for
    ``attention`` to see and to refuse.
    """
    if use_vmap or (local_size is None and mask_function is not bidirectional_mask_function):
        options = {"q_offset": q_offset, "kv_offset": kv_offset, "mask_function": mask_function, "use_vmap": use_vmap}
        options |= {"attention_mask": attention_mask, "local_size": local_size, **kwargs}
        return sdpa_mask(batch_size, q_length, kv_length, **{**options, "allow_is_causal_skip": False})
    if attention_mask is None:
        return None
    attention_mask = attention_mask[:, -kv_length:]
    return attention_mask if torch.compiler.is_compiling() or not bool(attention_mask.all()) else None


def configure(model: ModelT, **settings: Any) -> ModelT:
    """Make a model's attention linear, in its own class and in place.

    >>> from transformers import BertConfig, BertModel
    >>> model = BertModel(BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4))
    >>> linear = configure(model, projected_dim=64)

    The settings are kept in ``model.config.linformers`` and saved with the model; see ``Settings`` for their names.
    What is not given stays as it is.

    Args:
        model: An encoder of transformers, or what holds some, such as a ``SentenceTransformer``.
        settings: Fields of ``Settings``.

    Returns:
        The model.

    Raises:
        TypeError: No module, or a setting of the wrong type.
        ValueError: An unknown setting, one out of range, or a model whose attention cannot be set.
    """
    check_module(model)
    parts = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    if not parts:
        raise ValueError(f"{type(model).__name__} holds no model of transformers")
    for part in parts:
        check_model(type(part))
    for config in {id(part.config): part.config for part in parts}.values():
        given = {**(getattr(config, NAME, None) or {}), **settings}
        chosen = asdict(Settings.of(given))
        setattr(config, NAME, {name: list(x) if isinstance(x := chosen[name], tuple) else x for name in given})
    for part in parts:
        part.set_attn_implementation(NAME)
        number_layers(part)
    return model


def check_model(model_class: type[PreTrainedModel]) -> None:
    """Refuse a model that would go on with softmax attention.

    Raises:
        ValueError: Its attention asks no attention implementation, or is ours.
    """
    if getattr(model_class.config_class, "model_type", None) == MODEL_TYPE:
        raise ValueError(
            f"{model_class.__name__} has linear attention of its own: set projected_dim in its configuration."
        )
    if not model_class._can_set_attn_implementation():  # see mpnet.py for those that we let
        raise ValueError(
            f"{model_class.__name__} computes its attention itself and takes no attn_implementation, so it would stay "
            "as it is: to_linformer(model) converts some of these to a class of ours, and says which."
        )
    for name, classes in vars(sys.modules[model_class.__module__]).items():
        if name.endswith("ATTENTION_CLASSES") and NAME not in classes:
            raise ValueError(
                f"{model_class.__name__} takes its attention from a list of its own, {name}, in which there is no "
                f"linear one: {SOFTMAX}."
            )


def number_layers(model: nn.Module) -> None:
    """Tell attention modules their layer, where their class does not: settings may be given layer by layer."""
    for layers in layer_lists(model):
        for number, layer in enumerate(layers):
            for module in layer.modules():
                if "Attention" in type(module).__name__ and getattr(module, "layer_idx", None) is None:
                    vars(module)["layer_idx"] = number


def layer_lists(model: nn.Module) -> Iterator[nn.ModuleList]:
    """Lists of as many modules with attention as the configuration says that there are layers: one, but for some."""
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for layers in model.modules():
        if isinstance(layers, nn.ModuleList) and len(layers) == count and all(map(_attends, layers)):
            yield layers


def _attends(layer: nn.Module) -> bool:
    return any("Attention" in type(module).__name__ for module in layer.modules())


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, padding_mask)
