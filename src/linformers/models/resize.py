"""Make a model take longer (or shorter) sequences: positions and projections at another length."""

import math
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from linformers._registration import ATTENTION
from linformers.attention import Projection
from linformers.attention.projection import ConvProjection, LinearProjection
from linformers.checks import check_choice, check_int

Positions = Literal["tile", "interpolate"]
ModelT = TypeVar("ModelT", bound=nn.Module)


@torch.no_grad()
def resize_max_length(model: PreTrainedModel, max_length: int, positions: str = "tile") -> None:
    """Change the longest sequence of a model, in place; see ``LinformerPreTrainedModel.resize_max_length``."""
    check_int("max_length", max_length)
    check_choice("positions", positions, get_args(Positions))
    table = model.base_model.get_submodule("embeddings.position_embeddings")
    assert isinstance(table, nn.Embedding)
    resize_table(table, max_length, positions)
    for module in model.modules():
        if isinstance(module, Projection):
            resize_projection(module, max_length)
    model.config.max_position_embeddings = max_length
    _forget_trained_length(model.config)


def extend_positions(
    model: ModelT, max_length: int | None, positions: str = "tile", *, tile_length: int | None = None
) -> ModelT:
    """Make room for longer inputs in a model with learned positions, in its own class and in place.

    >>> from transformers import BertConfig, BertModel
    >>> model = BertModel(BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4))
    >>> extend_positions(model, 4096).config.max_position_embeddings
    4096

    The table is tiled: position 512 of a model of 512 starts as its position 0. Models that rotate queries and keys
    (RoPE) have no table; they read what their configuration says.

    Args:
        model: A BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, ELECTRA or ALBERT, with any head, or what embeds
            its tokens as these do; of a ``SentenceTransformer`` or ``CrossEncoder`` also ``max_seq_length`` is raised.
        max_length: Tokens to make room for; None = as many as before.
        positions: ``tile``, or ``interpolate`` between the positions that it has.
        tile_length: Positions that are tiled; None = those of a segment where the model reads in segments, else all
            that it has.

    Returns:
        The model; its configuration says what it now reads.

    Raises:
        TypeError: No module, or ``max_length`` is no integer.
        ValueError: A model that has no such table and reads less, or one that reads more already; positions that
            would not repeat with the segments.
    """
    check_module(model)
    if max_length is not None:
        check_int("max_length", max_length)
    check_choice("positions", positions, get_args(Positions))
    if tile_length is None:
        tile_length = segment_length_of(model) or None
    else:
        check_int("tile_length", tile_length)
    if tile_length is not None and positions != "tile":
        raise ValueError(f"positions={positions!r}: those of segments repeat every {tile_length} tokens: leave it out")
    found = _position_tables(model)
    if not found and max_length is not None and max_length > (longest := _longest_without_table(model)):
        raise ValueError(
            f"{type(model).__name__} has no table of learned positions beside its words, and reads {longest:,} tokens, "
            f"not {max_length:,}; if it rotates queries and keys, its configuration says how far (rope_parameters, "
            "max_position_embeddings)."
        )
    others = [name for name, module in model.named_modules() if "position" in name and isinstance(module, nn.Embedding)]
    if tile_length is not None and not found and others:
        raise ValueError(
            f"{type(model).__name__} has learned positions that cannot be tiled here ({others[0]}), so segments of "
            f"{tile_length} tokens would have positions that no text had: leave segment_length out"
        )
    for _, table in found:
        length = table.num_embeddings - reserved_positions(table)
        if max_length is not None and max_length < length:
            raise ValueError(f"max_length={max_length} is less than the {length} positions that the model has")
        if tile_length is not None and tile_length > length:
            raise ValueError(f"segments of {tile_length} tokens are longer than the {length} positions of the model")
    for embeddings, table in found:
        length = table.num_embeddings - reserved_positions(table) if max_length is None else max_length
        resize_table(table, length, positions, tile_length)
        for name in ("position_ids", "token_type_ids"):
            if isinstance(ids := getattr(embeddings, name, None), Tensor):
                fresh = torch.arange(table.num_embeddings, device=ids.device)[None]
                embeddings.register_buffer(name, fresh if name == "position_ids" else fresh * 0, persistent=False)
        for part in model.modules():  # of a model with several encoders only those that hold these embeddings
            if not isinstance(part, PreTrainedModel) or all(module is not embeddings for module in part.modules()):
                continue
            if hasattr(part.config, "max_position_embeddings"):
                part.config.max_position_embeddings = table.num_embeddings
    if max_length is not None:
        for part in model.modules():
            if isinstance(part, PreTrainedModel):
                _forget_trained_length(part.config)
        if hasattr(model, "max_seq_length"):
            model.max_seq_length = max_length  # pyright: ignore[reportArgumentType]
    return model


def _forget_trained_length(config: Any) -> None:
    """Who asks for a length means to read it, though a head of ours was trained on shorter texts."""
    if trained := getattr(config, "trained_inputs", None):
        config.trained_inputs = {name: value for name, value in trained.items() if name != "max_length"}


def tie_positions(model: nn.Module) -> list[RemovableHandle]:
    """Train the positions of segments as what they are, copies of one: each gets what all of them learn.

    Without this, copies grow apart, and those behind the longest text of the training learn nothing. The gradient of a
    copy is the sum over all copies, divided by the root of their number: so its norm is that of one.

    Args:
        model: In its own class; where it reads texts as a whole, nothing changes. A table that FSDP shards afterwards
            is another parameter, and its copies learn apart.

    Returns:
        What takes each tie away again; tied twice, the norm would grow.
    """
    period, handles = segment_length_of(model), []
    for _, table in _position_tables(model) if period else ():
        if not table.weight.requires_grad:
            continue
        reserved = reserved_positions(table)
        place = torch.arange(table.num_embeddings - reserved) % period
        copies = place.bincount()[:, None].to(table.weight)

        def share(gradient: Tensor, reserved: int = reserved, place: Tensor = place, copies: Tensor = copies) -> Tensor:
            kept, own = gradient[:reserved], gradient[reserved:]
            place, copies = place.to(own.device), copies.to(own)
            total = own.new_zeros(len(copies), own.shape[1]).index_add_(0, place, own)
            return torch.cat([kept, (total / copies.sqrt())[place]])

        handles.append(table.weight.register_hook(share))
    return handles


def _position_tables(model: nn.Module) -> list[tuple[nn.Module, nn.Embedding]]:
    """Tables of learned positions, each with the module that adds it to the words."""
    pairs = ((module, getattr(module, "position_embeddings", None)) for module in model.modules())
    return [
        (module, table)
        for module, table in pairs
        if isinstance(table, nn.Embedding) and hasattr(module, "word_embeddings")
    ]


def segment_length_of(model: nn.Module) -> int:
    """Tokens of the segments that a model in its own class reads; 0 = it reads texts as a whole."""
    parts = [part.config for part in model.modules() if isinstance(part, PreTrainedModel)]
    return max(((getattr(config, ATTENTION, None) or {}).get("segment_length") or 0 for config in parts), default=0)


def _longest_without_table(model: nn.Module) -> int:
    parts = [part.config for part in model.modules() if isinstance(part, PreTrainedModel)]
    return min((getattr(config, "max_position_embeddings", None) or 0 for config in parts), default=0)


def check_module(model: Any) -> None:
    """Refuse a name in place of a model.

    Raises:
        TypeError: no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a module, got {type(model).__name__}: load it first, by AutoModel.from_pretrained."
        )


def reserved_positions(table: Any) -> int:
    """Rows that a table of positions does not give to tokens: RoBERTa and its kin count from behind the padding."""
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


@torch.no_grad()
def resize_table(table: nn.Embedding, length: int, positions: str = "tile", tile_length: int | None = None) -> None:
    """Make a table of positions one for so many tokens, in place; reserved rows stay."""
    kept, rows = table.weight.split([reserved := reserved_positions(table), table.num_embeddings - reserved])
    if positions == "interpolate":
        rows = _interpolate(rows, length)
    else:
        rows = rows[torch.arange(length, device=rows.device) % (tile_length or len(rows))]
    table.weight = like(table.weight, torch.cat([kept, rows.to(kept.dtype)]))
    table.num_embeddings = reserved + length


def _interpolate(rows: Float[Tensor, "*heads old columns"], length: int) -> Float[Tensor, "*heads length columns"]:
    """Other rows at equal distances from the first to the last, each between its two neighbours; float64."""
    x = rows.double().transpose(-1, -2)
    new = nn.functional.interpolate(x.reshape(1, -1, x.shape[-1]), length, mode="linear", align_corners=True)
    return new.reshape(*x.shape[:-1], length).transpose(-1, -2)


def resize_projection(projection: Projection, length: int) -> None:
    """Make a projection one of another greatest length, in place."""
    if isinstance(projection, LinearProjection):
        projection.weight = like(projection.weight, resample(projection.weight, length))
    elif isinstance(projection, ConvProjection):
        projection.stride = math.ceil(length / projection.projected_dim)
        kernel = resample(projection.weight[..., None], projection.stride)[..., 0]
        projection.weight = like(projection.weight, kernel)
    projection.max_length = length


def resample(weight: Float[Tensor, "*heads old columns"], length: int) -> Float[Tensor, "*heads length columns"]:
    """Spread rows over another number of rows, each new one taking the share of the old ones that it covers.

    Sums over the rows are kept, so that a constant sequence is compressed to the same slots at every length, and a
    pooling matrix stays a pooling matrix.
    """
    sums = nn.functional.pad(weight.double().cumsum(-2), (0, 0, 1, 0))
    return _interpolate(sums, length + 1).diff(dim=-2)


def like(parameter: Tensor, values: Tensor) -> nn.Parameter:
    """A parameter of other values that is otherwise the same."""
    return nn.Parameter(values.to(parameter.dtype).contiguous(), requires_grad=parameter.requires_grad)
