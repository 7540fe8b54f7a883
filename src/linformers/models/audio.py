"""Audio models: the encoder over log-mel frames or the waveform, and a classifier (the interfaces of transformers)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from linformers.attention import Documents
from linformers.attention.documents import masked_mean, read_mask
from linformers.models.config import LinformerConfig
from linformers.models.patches import LinformerPatchEncoder, LinformerPatchModel, check_input, classifier_dropout


class LinformerAudioModel(LinformerPatchEncoder):
    """The bare encoder: recordings to hidden states of the prefix tokens and the patches, the lowest mel bins first."""

    main_input_name = "input_values"

    def __init__(self, config: LinformerConfig) -> None:
        grid = config.patch_grid
        if grid is None or config.audio_length is None:
            raise ValueError("a model of audio needs audio_length in its configuration: set it (frames or samples).")
        super().__init__(config, 1, grid)

    @can_return_tuple
    def forward(
        self,
        input_values: Float[Tensor, "batch time *mel"] | None = None,
        attention_mask: Shaped[Tensor, "batch time"] | None = None,
        input_features: Float[Tensor, "batch time mel"] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutput:
        """Encode recordings of any length up to ``config.audio_length``.

        Args:
            input_values: (batch, samples), or (batch, frames, num_mel_bins) as ASTFeatureExtractor gives them.
            attention_mask: True or 1 = keep, per sample or frame. What is padded changes nothing.
            input_features: The same as ``input_values`` under the name that other feature extractors use.
            output_attentions: Also return the attention weights.
            output_hidden_states: Also return all hidden states.

        Raises:
            TypeError: Inputs or a mask of the wrong type.
            ValueError: Inputs or a mask of the wrong shape, or recordings that are too long.
        """
        embedded, documents = self._embed(input_values, attention_mask, input_features)
        remedy = "cut the recordings"
        return self.encode(embedded, documents, output_attentions, output_hidden_states, remedy)

    def _embed(
        self, input_values: Tensor | None, attention_mask: Tensor | None, input_features: Tensor | None
    ) -> tuple[Float[Tensor, "batch tokens hidden"], Documents]:
        if (input_values is None) == (input_features is None):
            raise ValueError("give exactly one of input_values and input_features.")
        x = input_features if input_values is None else input_values
        bins = self.config.num_mel_bins
        check_input("input_values", x, "batch, samples" if bins is None else "batch, frames, num_mel_bins")
        assert x is not None
        if bins is None:
            x = x[..., None]
        elif x.shape[2] != bins:
            raise ValueError(f"input_values have {x.shape[2]} mel bins, the model num_mel_bins={bins}.")
        recordings = Documents(read_mask(attention_mask, x), x.shape[1], x.device)
        if recordings.padded:
            x = recordings.zero(recordings.align(x))
            # Trailing padding that a batch was given beyond the model's length holds nothing.
            x = x[:, : max(int(recordings.lengths.max()), 1)]
        if x.shape[1] > self.grid.size[1]:
            raise ValueError(
                f"a recording of {x.shape[1]} {'samples' if bins is None else 'frames'} exceeds audio_length="
                f"{self.grid.size[1]}: cut it, or use a model built for longer ones."
            )
        (_, length), (_, step) = self.grid.patch, self.grid.stride
        # The last patch is filled up; of patches that overlap, as AST's, an unfinished one is left out.
        missing = max(length - x.shape[1], 0) if self.grid.overlaps else -x.shape[1] % length
        field = F.pad(x, (0, 0, 0, missing)).transpose(1, 2)[:, None]
        rows, columns = self.grid.shape_of(field.shape[2:])
        embedded = self.embeddings(field, self.embeddings.position_embeddings.first_columns(columns))
        if not recordings.padded:
            return embedded, Documents(None, embedded.shape[1], embedded.device)
        # As many patches as each recording has alone.
        lengths = recordings.lengths
        whole = (lengths - length) // step + 1 if self.grid.overlaps else -(-lengths // step)
        kept = torch.arange(columns, device=x.device) < whole.clamp(min=1)[:, None]
        keep = kept[:, None].expand(-1, rows, -1).flatten(1)
        keep = F.pad(keep, (self.config.num_prefix_tokens, 0), value=True)
        return embedded, Documents(read_mask(keep, embedded), embedded.shape[1], embedded.device)


class LinformerForAudioClassification(LinformerPatchModel):
    """Encoder with a norm and a linear classifier over recordings."""

    main_input_name = "input_values"

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        self.linformer: LinformerAudioModel = LinformerAudioModel(config)
        self.dropout: nn.Dropout = classifier_dropout(config)
        self.norm: nn.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.classifier: nn.Linear = nn.Linear(config.hidden_size, config.num_labels or 1)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: Float[Tensor, "batch time *mel"] | None = None,
        attention_mask: Shaped[Tensor, "batch time"] | None = None,
        input_features: Float[Tensor, "batch time mel"] | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Classify recordings; see ``LinformerAudioModel``, for ``labels`` ``LinformerForSequenceClassification``."""
        model = self.linformer
        embedded, documents = model._embed(input_values, attention_mask, input_features)
        outputs = model.encode(embedded, documents, output_attentions, output_hidden_states, "cut the recordings")
        assert outputs.last_hidden_state is not None
        x = outputs.last_hidden_state
        if self.config.classifier_pooling == "cls":
            pooled = x[:, : self.config.num_prefix_tokens].mean(1)
        else:
            pooled = masked_mean(x, documents.restore(documents.keep))
        logits = self.classifier(self.dropout(self.norm(pooled)))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                labels=labels, pooled_logits=logits, config=self.config, num_items_in_batch=num_items_in_batch
            )
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
