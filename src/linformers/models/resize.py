"""Make a model take longer (or shorter) sequences: positions and projections at another length."""

import math
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from linformers.attention import Projection
from linformers.attention.checks import check_choice, check_int
from linformers.attention.projection import ConvProjection, LinearProjection

Positions = Literal["tile", "interpolate"]


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


def reserved_positions(table: Any) -> int:
    """Rows that a table of positions does not give to tokens: RoBERTa and its kin count from behind the padding."""
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


@torch.no_grad()
def resize_table(table: nn.Embedding, length: int, positions: str = "tile") -> None:
    """Make a table of positions one for so many tokens, in place; reserved rows stay."""
    kept, rows = table.weight.split([reserved := reserved_positions(table), table.num_embeddings - reserved])
    if positions == "interpolate":
        rows = _interpolate(rows, length)
    else:
        rows = rows[torch.arange(length, device=rows.device) % len(rows)]
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
