"""The one configuration class of all Linformer models."""

from typing import Any, Literal, no_type_check

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from linformers.attention.linformer import check_exact_length
from linformers.attention.sharing import PROJECTION_KINDS, SHARING_MODES, per_layer
from linformers.checks import check_choice, check_heads, check_int, check_probability, closest
from linformers.models.grid import PatchGrid, patch_grid

# In tokens: the default of what reads through slots that stand for tokens. Softmax attention and 128 slots take the
# same time on a CPU a little above it (results/conversion-speed.csv).
EXACT_LENGTH = 1024
ATTENTION_TYPES = ("linformer", "kfree", "softmax", "none")

# What transformers itself passes or stores beside the declared fields.
_TRANSFORMERS_KEYS = {
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "_name_or_path",
    "_output_attentions",
    "attn_implementation",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "torch_dtype",
    "transformers_version",
    "use_cache",  # Trainer sets it on every model, and so it is saved
}


# What other parts of transformers, and of the libraries around it, read from config.json themselves.
_READ_ELSEWHERE = {
    "auto_map",
    "quantization_config",
    "task_specific_params",
    "sentence_transformers",
    "trained_inputs",
}

logger: Any = logging.get_logger(__name__)


@no_type_check  # @strict checks the fields; the shape-checking test hook must leave __init__ alone
@strict
class LinformerConfig(PreTrainedConfig):
    """Configuration of a Linformer encoder; defaults have the shape of RoBERTa-base.

    Unknown keys raise, with the closest valid name; those of a saved file are kept, with a warning. Sizes are in
    features, lengths in tokens.

    Args:
        vocab_size: Tokens of the vocabulary.
        hidden_size: Width of the encoder.
        num_hidden_layers: Layers.
        num_attention_heads: Heads per layer; must divide ``hidden_size``.
        intermediate_size: Width of the feed-forward layers.
        hidden_act: Activation of the feed-forward layers, by transformers' name.
        hidden_dropout_prob: Dropout on embeddings and on the output of each sublayer.
        attention_probs_dropout_prob: Dropout on attention weights.
        max_position_embeddings: The longest sequence, in tokens (no reserved rows, unlike RoBERTa's 514), also the
            n of learned projections.
        type_vocab_size: Token types (segments).
        initializer_range: Standard deviation of fresh weights.
        layer_norm_eps: Epsilon of the layer norms.
        classifier_dropout: Dropout before classifiers; None = ``hidden_dropout_prob``.
        classifier_activation: Activation inside sequence classifiers, by transformers' name.
        classifier_pooling: What sequence classifiers read: ``cls`` (the first token), ``mean`` (of kept tokens), or of
            images ``prefix`` (all prefix tokens, side by side).
        norm_position: ``post`` (RoBERTa) or ``pre`` (with a final norm).
        attention_type: ``linformer``, ``kfree``, ``softmax``, or ``none`` (no attention sublayer: the control of
            experiments); one for all layers or one per layer.
        projected_dim: Slots, the paper's k; one for all layers or one per layer; None = softmax attention there.
        projection_sharing: ``none``, ``headwise``, ``key_value`` or ``layerwise``; see ``ProjectionBank``.
        projection_kind: The paper's ``linear``, ``mean_pool``, ``max_pool`` or ``conv``; ``attention_pool`` or
            ``cluster``, whose weights come from the keys; see ``LinformerAttention``.
        local_window: Exact neighbours on each side that Linformer layers attend beside the slots; 0 = the paper.
        global_tokens: So many tokens at the start that all others see exactly and that see all others, in Linformer
            layers; see ``LinformerAttention``.
        exact_length: Linformer layers read documents of up to so many tokens by softmax attention itself; 0 = none.
        stream_chunk_size: Run all of a layer but the compression chunk by chunk, this many tokens at a time. The
            function is the same. In training a chunk's activations are computed again on the way back, so that a layer
            keeps little more than its input; without gradients layers work in place. None = at once, but for inference
            on a CPU, where chunks that stay in cache are faster and always used.
        image_size: Height and width of an image in pixels, or one number where they are equal; other sizes work too.
        num_channels: Channels of an image.
        patch_size: What one token is made of: pixels (height, width), mel bins and frames, or samples. 1 makes an image
            a sequence of pixels.
        patch_stride: From one patch to the next; None = ``patch_size``, so that patches do not overlap.
        audio_length: The longest input of an audio model, in frames, or in samples of the waveform.
        num_mel_bins: Mel bins of an audio model that reads log-mel frames; None = it reads the waveform.
        num_prefix_tokens: Learned tokens before the patches; classifiers that pool ``cls`` read the first (images) or
            their mean (audio).
        converted_from: Name of the model that this one was converted from; None = trained from scratch.

    Raises:
        ValueError: An unknown key, a value out of range, or fields that contradict each other.
        StrictDataclassFieldValidationError: A field of the wrong type.
    """

    model_type = "linformer"

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2
    tie_word_embeddings: bool = True
    classifier_dropout: float | int | None = None
    classifier_activation: str = "tanh"
    classifier_pooling: Literal["cls", "mean", "prefix"] = "cls"
    norm_position: Literal["post", "pre"] = "post"
    attention_type: str | list[str] | tuple[str, ...] = "linformer"
    projected_dim: int | None | list[int | None] | tuple[int | None, ...] = 256
    projection_sharing: str = "key_value"
    projection_kind: str = "linear"
    local_window: int = 0
    global_tokens: int = 0
    exact_length: int = 0
    stream_chunk_size: int | None = None
    image_size: int | list[int] | tuple[int, ...] | None = None
    num_channels: int = 3
    patch_size: int | list[int] | tuple[int, ...] = 16
    patch_stride: int | list[int] | tuple[int, ...] | None = None
    audio_length: int | None = None
    num_mel_bins: int | None = None
    num_prefix_tokens: int = 1
    converted_from: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse what transformers would silently keep: keys that no field reads."""
        fields = set(self.__dataclass_fields__)
        for key in kwargs:
            if key not in _TRANSFORMERS_KEYS:
                raise ValueError(f"{key}={kwargs[key]!r} is no field of LinformerConfig.{closest(key, fields)}")
        super().__post_init__(**kwargs)
        # AutoModel reads it to choose between words, images and audio.
        self.architectures: list[str] | None = self.architectures or []
        grid = self.patch_grid
        if grid is not None:
            tokens = self.num_prefix_tokens + grid.tokens
            if self.max_position_embeddings not in (tokens, 512):  # 512 = not given
                raise ValueError(
                    f"max_position_embeddings={self.max_position_embeddings} contradicts the {tokens} tokens that "
                    "the input is cut into: leave it out."
                )
            self.max_position_embeddings = tokens
        if self.classifier_pooling == "prefix" and self.image_size is None:
            raise ValueError("classifier_pooling='prefix' is for images (image_size): use 'cls' or 'mean'.")
        self._check_fields()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read what a file holds; keys that no field reads, such as a user's note, are kept as they are.

        Raises:
            ValueError: A value out of range, or fields that contradict each other.
            StrictDataclassFieldValidationError: A field of the wrong type.
        """
        fields = {*cls.__dataclass_fields__, *_TRANSFORMERS_KEYS}
        others = {key: value for key, value in config_dict.items() if key not in fields}
        found = super().from_dict({key: value for key, value in config_dict.items() if key in fields}, **kwargs)
        config = found[0] if isinstance(found, tuple) else found
        for key, value in others.items():
            setattr(config, key, value)
        if unread := sorted(set(others) - _READ_ELSEWHERE):
            hints = "".join(closest(key, cls.__dataclass_fields__) for key in unread)
            logger.warning(f"config.json: {', '.join(unread)} is kept, but no field of LinformerConfig.{hints}")
        return found

    def _check_fields(self) -> None:
        """Check ranges and combinations."""
        check_heads(self.hidden_size, self.num_attention_heads)
        for name in ("vocab_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings"):
            check_int(name, getattr(self, name))
        check_int("type_vocab_size", self.type_vocab_size)
        for name in ("local_window", "global_tokens", "exact_length"):
            check_int(name, getattr(self, name), minimum=0)
        for name in ("hidden_act", "classifier_activation"):
            check_choice(name, getattr(self, name), ACT2FN)
        if self.stream_chunk_size is not None:
            check_int("stream_chunk_size", self.stream_chunk_size)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            check_probability(name, getattr(self, name))
        if self.classifier_dropout is not None:
            check_probability("classifier_dropout", self.classifier_dropout)
        check_choice("projection_sharing", self.projection_sharing, SHARING_MODES)
        check_choice("projection_kind", self.projection_kind, PROJECTION_KINDS)
        types = per_layer("attention_type", self.attention_type, self.num_hidden_layers)
        for layer_type in types:
            check_choice("attention_type", layer_type, ATTENTION_TYPES)
        dims = per_layer("projected_dim", self.projected_dim, self.num_hidden_layers)
        for k in dims:
            if k is not None:
                check_int("projected_dim", k)
        if "linformer" in types:
            check_exact_length(self.exact_length, self.projection_kind)
        for name in ("local_window", "global_tokens", "exact_length"):
            if getattr(self, name) and "linformer" not in types:
                raise ValueError(
                    f"{name}={getattr(self, name)} has no effect: no layer has attention_type 'linformer'. Set it to 0."
                )
        linear = {k for k, layer_type in zip(dims, types, strict=True) if k is not None and layer_type == "linformer"}
        if self.projection_sharing == "layerwise" and len(linear) > 1:
            raise ValueError(
                f"projected_dim={list(dims)} differs between layers, but projection_sharing='layerwise' has one E for "
                "all: use one projected_dim, or share by 'key_value'."
            )

    @property
    def patch_grid(self) -> PatchGrid | None:
        """How images or recordings are cut into patches; None in models of text."""
        return patch_grid(self)

    @property
    def layer_attention(self) -> list[tuple[str, int | None]]:
        """Attention type and projected_dim of each layer, as built: a Linformer layer without k is softmax."""
        types = per_layer("attention_type", self.attention_type, self.num_hidden_layers)
        dims = per_layer("projected_dim", self.projected_dim, self.num_hidden_layers)
        layers: list[tuple[str, int | None]] = []
        for layer_type, k in zip(types, dims, strict=True):
            if layer_type == "linformer" and k is None:
                layer_type = "softmax"
            layers.append((layer_type, k if layer_type == "linformer" else None))
        return layers
