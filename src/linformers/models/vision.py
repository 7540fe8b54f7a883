"""Image models: the encoder over patches or pixels, and a classifier (the interfaces of transformers)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from linformers.attention import Projection
from linformers.models.config import LinformerConfig
from linformers.models.grid import patch_grid
from linformers.models.patches import (
    LinformerPatchEncoder,
    LinformerPatchModel,
    check_input,
    classifier_dropout,
)
from linformers.models.resize import like, resize_projection


class LinformerImageModel(LinformerPatchEncoder):
    """The bare encoder: images to hidden states of the prefix tokens and the patches, row by row."""

    main_input_name = "pixel_values"

    def __init__(self, config: LinformerConfig) -> None:
        grid = config.patch_grid
        if grid is None or config.image_size is None:
            raise ValueError("a model of images needs image_size in its configuration: set it (height and width).")
        super().__init__(config, config.num_channels, grid)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels height width"],
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = True,
    ) -> BaseModelOutput:
        """Encode images; of another size than ``config.image_size`` with positions between the learned ones.

        Raises:
            TypeError: no floating-point tensor.
            ValueError: images of another number of channels, whose sides are no multiples of the patch's, of more
                patches than Linformer layers were made for, or of another size without ``interpolate_pos_encoding``.
        """
        check_input("pixel_values", pixel_values, "batch, channels, height, width")
        channels, *size = pixel_values.shape[1:]
        patch = self.grid.patch
        if channels != self.config.num_channels:
            raise ValueError(f"pixel_values have {channels} channels, not num_channels={self.config.num_channels}.")
        if not self.grid.overlaps and any(side % part for side, part in zip(size, patch, strict=True)):
            raise ValueError(f"images of {tuple(size)} pixels are no multiple of patch_size={patch}: resize them.")
        if not interpolate_pos_encoding and tuple(size) != self.grid.size:
            raise ValueError(
                f"images of {tuple(size)} pixels are not of image_size={self.grid.size}: resize them, or let "
                "interpolate_pos_encoding=True make positions for them."
            )
        positions = self.embeddings.position_embeddings.interpolated(self.grid.shape_of(size))
        embedded = self.embeddings(pixel_values, positions)
        remedy = f"call resize_image_size({tuple(size)}) once, before training, or resize the images"
        return self.encode(embedded, None, output_attentions, output_hidden_states, remedy)


class LinformerForImageClassification(LinformerPatchModel):
    """Encoder with a linear classifier over images."""

    main_input_name = "pixel_values"

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        self.linformer: LinformerImageModel = LinformerImageModel(config)
        self.dropout: nn.Dropout = classifier_dropout(config)
        read = config.num_prefix_tokens if config.classifier_pooling == "prefix" else 1
        self.classifier: nn.Linear = nn.Linear(read * config.hidden_size, config.num_labels or 1)
        self.post_init()

    @torch.no_grad()
    def resize_image_size(self, image_size: int | Sequence[int]) -> None:
        """Make the model one of images of another size, in place; do it before an optimiser is made.

        Positions are interpolated, learned projections are stretched so that their sums stay.
        """
        config, model = self.config, self.linformer
        before = config.image_size
        config.image_size = image_size if isinstance(image_size, int) else tuple(image_size)
        try:
            grid = patch_grid(config)
        except (TypeError, ValueError):
            config.image_size = before
            raise
        assert grid is not None
        table = model.embeddings.position_embeddings
        table.weight = like(table.weight, table.interpolated(grid.shape))
        table.num_embeddings, table.shape = len(table.weight), grid.shape
        for module in self.modules():
            if isinstance(module, Projection):
                resize_projection(module, len(table.weight))
        model.grid, config.max_position_embeddings = grid, len(table.weight)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels height width"],
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = True,
    ) -> ImageClassifierOutput:
        """Classify images; for ``labels`` see ``LinformerForSequenceClassification``."""
        outputs = self.linformer(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            interpolate_pos_encoding=interpolate_pos_encoding,
            return_dict=True,
        )
        x = outputs.last_hidden_state
        if self.config.classifier_pooling == "mean":
            pooled = x.mean(1)
        else:
            pooled = x[:, : self.classifier.in_features // x.shape[2]].flatten(1)
        logits = self.classifier(self.dropout(pooled))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                labels=labels, pooled_logits=logits, config=self.config, num_items_in_batch=num_items_in_batch
            )
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
