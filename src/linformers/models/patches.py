"""What models of images and of audio share: patches as tokens, on a grid of positions."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from linformers.attention import PROJECTION_KINDS, Documents
from linformers.models.config import LinformerConfig
from linformers.models.encoder import LinformerStack
from linformers.models.grid import PatchGrid, Size
from linformers.models.text import LinformerPreTrainedModel, PositionEmbedding, sinusoids


class GridPositionEmbedding(PositionEmbedding):
    """Learned positions of the prefix tokens and of a grid, row by row; they start as sinusoids in two dimensions."""

    prefix: int
    shape: Size

    def __init__(self, prefix: int, shape: Size, hidden_size: int) -> None:
        super().__init__(prefix + shape[0] * shape[1], hidden_size)
        self.prefix, self.shape = prefix, shape

    def start_as_sinusoids(self, std: float) -> None:
        """Half of the features tell the row, half the column; of a single row, all tell the column. Prefix: zero."""
        (rows, columns), width = self.shape, self.embedding_dim
        of_rows = 0 if rows == 1 else width // 2
        waves = torch.cat(
            [
                sinusoids(rows, of_rows).repeat_interleave(columns, 0),
                sinusoids(columns, width - of_rows).repeat(rows, 1),
            ],
            dim=1,
        )
        init.copy_(self.weight, F.pad(waves * (std * math.sqrt(2)), (0, 0, self.prefix, 0)))

    def interpolated(self, shape: Size) -> Float[Tensor, "tokens hidden"]:
        """Positions of a grid of another shape that covers the same field (bicubic, as ViT's)."""
        if shape == self.shape:
            return self.weight
        field = self.weight[self.prefix :].T.unflatten(1, self.shape)[None]
        field = F.interpolate(field.float(), shape, mode="bicubic", align_corners=False)[0].to(field.dtype)
        return torch.cat([self.weight[: self.prefix], field.flatten(1).T])

    def first_columns(self, columns: int) -> Float[Tensor, "tokens hidden"]:
        """Positions of a field that ends earlier."""
        if columns == self.shape[1]:
            return self.weight
        field = self.weight[self.prefix :].unflatten(0, self.shape)[:, :columns]
        return torch.cat([self.weight[: self.prefix], field.flatten(0, 1)])


class PatchEmbeddings(nn.Module):
    """Learned tokens, then the patches, each a linear function of its pixels or samples; positions are added."""

    def __init__(self, config: LinformerConfig, channels: int, grid: PatchGrid) -> None:
        super().__init__()
        self.projection: nn.Conv2d = nn.Conv2d(channels, config.hidden_size, grid.patch, grid.stride)
        self.prefix_tokens: nn.Parameter = nn.Parameter(torch.zeros(config.num_prefix_tokens, config.hidden_size))
        self.position_embeddings: GridPositionEmbedding = GridPositionEmbedding(
            config.num_prefix_tokens, grid.shape, config.hidden_size
        )
        # As in text, where the layers themselves do not begin with a norm.
        after = config.norm_position == "post"
        self.norm: nn.LayerNorm | nn.Identity = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if after else nn.Identity()
        )
        self.dropout: nn.Dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, field: Float[Tensor, "batch channels rows columns"], positions: Float[Tensor, "tokens hidden"]
    ) -> Float[Tensor, "batch tokens hidden"]:
        """Embed whole patches."""
        patches = self.projection(field.to(self.projection.weight.dtype)).flatten(2).transpose(1, 2)
        x = torch.cat([self.prefix_tokens.to(patches.dtype).expand(len(patches), -1, -1), patches], dim=1)
        return self.dropout(self.norm(x + positions))


class LinformerPatchModel(LinformerPreTrainedModel):
    """Weights of a model of images or audio."""

    _no_split_modules = ["LinformerLayer", "PatchEmbeddings"]

    def resize_max_length(self, max_length: int, positions: str = "tile") -> None:
        """Refused: a length says nothing of a grid."""
        raise ValueError(
            "resize_max_length is for text: images of other sizes go as they are or after resize_image_size, audio "
            "needs a model built with a larger audio_length."
        )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PatchEmbeddings):
            init.zeros_(module.prefix_tokens)
        elif isinstance(module, nn.Conv2d):  # inputs of variance one become as large as the positions
            init.normal_(module.weight, std=self.config.initializer_range / math.sqrt(module.weight[0].numel()))
            assert module.bias is not None
            init.zeros_(module.bias)


class LinformerPatchEncoder(LinformerPatchModel):
    """The bare encoder over patches."""

    def __init__(self, config: LinformerConfig, channels: int, grid: PatchGrid) -> None:
        super().__init__(config)
        self.grid = grid
        self.embeddings: PatchEmbeddings = PatchEmbeddings(config, channels, grid)
        self.encoder: LinformerStack = LinformerStack(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """What makes tokens of patches."""
        return self.embeddings.projection

    def encode(
        self,
        embedded: Float[Tensor, "batch tokens hidden"],
        documents: Documents | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
        remedy: str,
    ) -> BaseModelOutput:
        """Run the layers; ``remedy`` says what to do where there are more tokens than learned projections have rows."""
        longest, tokens = self.config.max_position_embeddings, embedded.shape[1]
        learned = PROJECTION_KINDS[self.config.projection_kind].has_parameters
        if tokens > longest and learned and any(kind == "linformer" for kind, _ in self.config.layer_attention):
            raise ValueError(f"{tokens} tokens exceed the {longest} that the Linformer layers were made for: {remedy}.")
        if output_attentions is None:
            output_attentions = bool(self.config.output_attentions)
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        eager = self.config._attn_implementation == "eager"
        last, states, weights = self.encoder(embedded, documents, output_attentions or eager, output_hidden_states)
        return BaseModelOutput(
            last_hidden_state=last,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(weights) if output_attentions else None,
        )


def classifier_dropout(config: LinformerConfig) -> nn.Dropout:
    """Dropout before the classifier."""
    return nn.Dropout(config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout)


def check_input(name: str, x: Any, axes: str) -> None:
    """Refuse what is no batch of the kind.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: another number of axes.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(
            f"{name} must be a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}: prepare raw data "
            "with the model's image processor or feature extractor."
        )
    if x.ndim != len(axes.split(", ")):
        raise ValueError(f"{name} must have shape ({axes}), got {tuple(x.shape)}: unsqueeze(0) makes a batch of one.")
