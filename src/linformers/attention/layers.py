"""PyTorch's ``nn.TransformerEncoderLayer`` and ``nn.TransformerEncoder`` with linear attention."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from linformers.attention.linformer import LinformerAttention
from linformers.attention.sharing import ProjectionBank, per_layer

Self = TypeVar("Self", bound="LinformerEncoderLayer")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class LinformerEncoderLayer(nn.Module):
    """``nn.TransformerEncoderLayer`` with ``LinformerAttention``; also works inside ``nn.TransformerEncoder``.

    >>> import torch
    >>> layer = LinformerEncoderLayer(32, 4, batch_first=True, max_length=512, projected_dim=64)
    >>> layer(torch.randn(2, 300, 32)).shape
    torch.Size([2, 300, 32])

    Args:
        d_model: Width of inputs and outputs.
        nhead: Heads; must divide ``d_model``.
        dim_feedforward: Width of the feed-forward network.
        dropout: Probability of dropping a value or an attention weight in training.
        activation: ``relu``, ``gelu``, or a function.
        layer_norm_eps: What the norms add to the variance.
        batch_first: Whether inputs are (batch, seq, d_model); else they are (seq, batch, d_model), as in PyTorch.
        norm_first: Whether norms come before attention and feed-forward, or after.
        bias: Whether linear layers and norms have biases.
        max_length: The longest sequence; None = any, for kinds that learn nothing.
        projected_dim: Slots, the paper's k.
        attention: What else ``LinformerAttention`` takes: ``projection_kind``, ``projection_sharing``,
            ``projections``, ``local_window``, ``global_tokens``, ``exact_length``.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or an unknown activation.
    """

    dropout: nn.Dropout
    dropout1: nn.Dropout
    dropout2: nn.Dropout
    activation: Callable[[Tensor], Tensor]
    batch_first: bool
    norm_first: bool

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        max_length: int | None,
        projected_dim: int,
        **attention: Any,
    ) -> None:
        super().__init__()
        if isinstance(activation, str):
            if activation not in ACTIVATIONS:
                raise ValueError(f"activation={activation!r} must be relu, gelu or a function")
            activation = ACTIVATIONS[activation]
        self.self_attn: LinformerAttention = LinformerAttention(
            d_model, nhead, max_length, projected_dim, dropout=dropout, bias=bias, **attention
        )
        vars(self.self_attn)["batch_first"] = batch_first  # nn.TransformerEncoder asks it
        self.linear1: nn.Linear = nn.Linear(d_model, dim_feedforward, bias=bias)
        self.linear2: nn.Linear = nn.Linear(dim_feedforward, d_model, bias=bias)
        self.norm1: nn.LayerNorm = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias)
        self.norm2: nn.LayerNorm = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias)
        self.dropout, self.dropout1, self.dropout2 = (nn.Dropout(dropout) for _ in range(3))
        self.activation, self.batch_first, self.norm_first = activation, batch_first, norm_first

    @classmethod
    def from_transformer(
        cls: type[Self],
        layer: nn.TransformerEncoderLayer,
        *,
        max_length: int | None,
        projected_dim: int,
        **attention: Any,
    ) -> Self:
        """The same with the weights of a layer of PyTorch's; the arguments are those of this class.

        With a kind whose slots stand for tokens (``cluster``) and as many slots as tokens it computes what that does.
        """
        theirs, first = layer.self_attn, layer.linear1
        made = cls(
            theirs.embed_dim,
            theirs.num_heads,
            first.out_features,
            layer.dropout.p,
            layer.activation,
            layer.norm1.eps,
            theirs.batch_first,
            layer.norm_first,
            first.bias is not None,
            max_length=max_length,
            projected_dim=projected_dim,
            **attention,
        ).to(first.weight)
        weights = {name: x for name, x in layer.state_dict().items() if not name.startswith("self_attn.")}
        for part in ("weight", "bias"):
            if (joined := getattr(theirs, f"in_proj_{part}")) is not None:
                for name, x in zip("qkv", joined.chunk(3), strict=True):
                    weights[f"self_attn.{name}_proj.{part}"] = x
                weights[f"self_attn.o_proj.{part}"] = getattr(theirs.out_proj, part)
        made.load_state_dict(weights, strict=False)
        return made.train(layer.training)

    def forward(
        self,
        src: Float[Tensor, "first second d_model"],
        src_mask: Tensor | None = None,
        src_key_padding_mask: Shaped[Tensor, "batch seq"] | None = None,
        is_causal: bool = False,
    ) -> Float[Tensor, "first second d_model"]:
        """Read a batch of sequences.

        Args:
            src: Inputs, (batch, seq, d_model) or (seq, batch, d_model); see ``batch_first``.
            src_mask: Must be None: which tokens see which cannot be chosen.
            src_key_padding_mask: (batch, seq), **True = padding**, as PyTorch has it; or floats, 0 = keep and -inf =
                padding.
            is_causal: Must be False.

        Raises:
            ValueError: A mask that says which tokens see which.
        """
        if src_mask is not None or is_causal:
            raise ValueError(
                "src_mask and is_causal choose which tokens see which, and slots stand for tokens of the whole text: "
                "give src_key_padding_mask alone, or use nn.TransformerEncoderLayer"
            )
        keep = None
        if src_key_padding_mask is not None:
            mask = src_key_padding_mask
            keep = mask == 0 if mask.is_floating_point() else ~mask.bool()
        x = src if self.batch_first else src.transpose(0, 1)
        if self.norm_first:
            x = x + self.dropout1(self.self_attn(self.norm1(x), attention_mask=keep))
            x = x + self._feed_forward(self.norm2(x))
        else:
            x = self.norm1(x + self.dropout1(self.self_attn(x, attention_mask=keep)))
            x = self.norm2(x + self._feed_forward(x))
        return x if self.batch_first else x.transpose(0, 1)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class LinformerEncoder(nn.Module):
    """A stack of ``LinformerEncoderLayer`` that share E and F as the paper says (section 4, "parameter sharing").

    >>> encoder = LinformerEncoder(6, 32, 4, batch_first=True, max_length=512, projected_dim=64)
    >>> sum(x.numel() for x in encoder.bank.parameters())  # one E for all layers
    32768

    Args:
        num_layers: Layers.
        d_model: Width of inputs and outputs.
        nhead: Heads of each layer.
        layer: What else ``LinformerEncoderLayer`` takes.
        max_length: The longest sequence; None = any, for kinds that learn nothing.
        projected_dim: Slots of all layers, or a list with those of each.
        projection_sharing: ``none``, ``headwise``, ``key_value`` or ``layerwise``; see ``ProjectionBank``.
        projection_kind: See ``LinformerAttention``.
        norm: A last norm, as in ``nn.TransformerEncoder``.
    """

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        nhead: int,
        *layer: Any,
        max_length: int | None,
        projected_dim: int | list[int],
        projection_sharing: str = "layerwise",
        projection_kind: str = "linear",
        norm: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        dims = per_layer("projected_dim", projected_dim, num_layers)
        self.bank: ProjectionBank = ProjectionBank(
            num_layers, nhead, max_length, dims, sharing=projection_sharing, kind=projection_kind
        )
        self.layers: nn.ModuleList = nn.ModuleList(
            LinformerEncoderLayer(
                d_model, nhead, *layer, max_length=max_length, projected_dim=k, projections=self.bank[i], **options
            )
            for i, k in enumerate(dims)
        )
        self.norm = norm

    def forward(
        self,
        src: Float[Tensor, "first second d_model"],
        mask: Tensor | None = None,
        src_key_padding_mask: Shaped[Tensor, "batch seq"] | None = None,
        is_causal: bool = False,
    ) -> Float[Tensor, "first second d_model"]:
        """Read a batch of sequences; see ``LinformerEncoderLayer.forward``."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, is_causal)
        return src if self.norm is None else self.norm(src)
