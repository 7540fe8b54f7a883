"""Linformer: self-attention with linear complexity, by low-rank projection of keys and values."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from linformers.attention.base import Attention
from linformers.attention.checks import check_int
from linformers.attention.functional import attend
from linformers.attention.local import attend_with_window
from linformers.attention.padding import Padding, lengths_of
from linformers.attention.projection import Projection
from linformers.attention.sharing import ProjectionBank


@dataclass(frozen=True)
class SlotMemory:
    """The k compressed keys and values of a layer; with a local window also those of all tokens."""

    keys: Float[Tensor, "batch heads slots head_dim"]
    values: Float[Tensor, "batch heads slots head_dim"]
    bias: Float[Tensor, "#batch slots"] | None
    token_keys: Float[Tensor, "batch heads source head_dim"] | None = None
    token_values: Float[Tensor, "batch heads source head_dim"] | None = None
    starts: Int[Tensor, "#batch edges"] | None = None
    lengths: Int[Tensor, "#batch"] | None = None


class LinformerAttention(Attention):
    """``softmax(Q (E K)^T / sqrt(head_dim)) F V`` (Wang et al., arXiv 2006.04768, section 4, equation 7).

    E and F compress the n keys and values to ``projected_dim`` slots, so time and memory are O(n k) where softmax
    attention takes O(n^2). Padded tokens are left out of the compression; outputs of real tokens do not depend on
    them. ``mean_pool`` with k >= n is softmax attention, exactly.

    Args:
        hidden_size: Width of inputs and outputs.
        num_attention_heads: Heads; must divide ``hidden_size``.
        max_length: The longest sequence of keys, in tokens.
        projected_dim: Slots, the paper's k.
        projection_sharing: ``none``, ``headwise``, ``key_value`` or ``layerwise`` (within one layer the last two are
            the same); see ``ProjectionBank``.
        projection_kind: ``linear`` (learned E and F), ``mean_pool``, ``max_pool`` or ``conv``.
        local_window: Exact neighbours attended on each side beside the slots, in tokens; 0 = the paper.
            Self-attention only.
        dropout: Probability of dropping an attention weight in training.
        bias: Whether the four feature projections have biases.
        projections: E and F from a stack's ``ProjectionBank``, which owns their parameters; given, the arguments
            that describe the projections must not contradict them. None = the module owns its own.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or an unknown kind or sharing.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        max_length: int,
        projected_dim: int,
        *,
        projection_sharing: str = "key_value",
        projection_kind: str = "linear",
        local_window: int = 0,
        dropout: float = 0.0,
        bias: bool = True,
        projections: tuple[Projection, Projection] | None = None,
    ) -> None:
        super().__init__(hidden_size, num_attention_heads, dropout=dropout, bias=bias)
        check_int("max_length", max_length)
        check_int("projected_dim", projected_dim)
        check_int("local_window", local_window, minimum=0)
        self.max_length = max_length
        self.projected_dim = projected_dim
        self.local_window = local_window
        if projections is None:
            self.bank = ProjectionBank(
                1, num_attention_heads, max_length, projected_dim, sharing=projection_sharing, kind=projection_kind
            )
            projections = self.bank[0]
            assert projections is not None
        # In a tuple, so that borrowed projections are not registered here a second time.
        self._projections: tuple[Projection, Projection] = projections

    @property
    def key_projection(self) -> Projection:
        """E: compresses the keys."""
        return self._projections[0]

    @property
    def value_projection(self) -> Projection:
        """F: compresses the values; the same object as E where they are shared."""
        return self._projections[1]

    def _check_source(self, source: Tensor, padding: Padding | None, is_self: bool) -> None:
        seq = source.shape[1] if padding is None else padding.document_seq
        if padding is not None and padding.first is not None:
            kind = self.key_projection.kind
            if self.local_window or kind == "max_pool":
                raise ValueError(
                    f"sequence parallelism takes no local_window (here {self.local_window}) and not projection_kind "
                    f"'max_pool' (here {kind!r}): use local_window=0 with 'linear', 'mean_pool' or 'conv'."
                )
        if self.local_window and not is_self:
            raise ValueError(
                f"local_window={self.local_window} needs queries and keys of one sequence, but a context was given: "
                "use local_window=0 for cross-attention."
            )
        if seq > self.max_length:
            raise ValueError(
                f"a sequence of {seq} tokens exceeds max_length={self.max_length}: truncate it, or build "
                "the module with a larger max_length."
            )

    def build_memory(self, source: Float[Tensor, "batch source hidden"], padding: Padding | None) -> SlotMemory:
        """Compress keys and values to k slots, in the cheaper order of multiplication.

        ``E (X W + 1 b^T) = (E X) W + (E 1) b^T``: compressing first leaves k rows to project instead of n, and with
        E = F the product ``E X`` serves both. With per-head E the other order is mostly cheaper.
        """
        e, f = self._projections
        token_keys = token_values = None
        compress_first = self._compress_first(source.shape[1] if padding is None else padding.document_seq)
        if self.local_window or not compress_first:
            token_keys = self._project_tokens(self.k_proj, source, padding)
            token_values = self._project_tokens(self.v_proj, source, padding)
        if compress_first:
            compressed = e(source, padding)
            keys = self._project_slots(self.k_proj, compressed, e, source, padding)
            compressed = compressed if f is e else f(source, padding)
            values = self._project_slots(self.v_proj, compressed, f, source, padding)
        else:
            assert token_keys is not None and token_values is not None
            keys, values = (
                self._compress_tokens(e, token_keys, padding),
                self._compress_tokens(f, token_values, padding),
            )

        bias = e.log_mass(source, padding)
        if bias is not None:
            bias = bias.to(keys.dtype)
            if padding is not None:  # no slot is left in an empty sequence; its output is dropped, but stays finite
                bias = bias.masked_fill(padding.empty[:, None], 0)
        if not self.local_window:
            return SlotMemory(keys, values, bias)
        assert token_keys is not None and token_values is not None
        lengths = lengths_of(source, padding)
        return SlotMemory(
            keys,
            values,
            bias,
            self.split_heads(token_keys),
            self.split_heads(token_values),
            e.slot_starts(lengths),
            lengths,
        )

    def read(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        memory: SlotMemory,
        start: int = 0,
        return_weights: bool = False,
    ) -> tuple[Float[Tensor, "batch seq hidden"], Tensor | None]:
        """Attend to the slots, and to the neighbours if there is a local window."""
        query = self.split_heads(self.q_proj(hidden_states))
        if memory.token_keys is None:
            bias = None if memory.bias is None else memory.bias[:, None, None]
            read, weights = attend(query, memory.keys, memory.values, bias, self.active_dropout, return_weights)
        else:
            assert memory.token_values is not None and memory.lengths is not None
            read, weights = attend_with_window(
                query,
                memory.token_keys,
                memory.token_values,
                memory.keys,
                memory.values,
                self.local_window,
                start=start,
                lengths=memory.lengths,
                slot_bias=memory.bias,
                slot_starts=memory.starts,
                dropout=self.active_dropout,
                return_weights=return_weights,
            )
        return self.merge_heads(read), weights

    def _compress_first(self, n: int) -> bool:
        """Whether compressing X before the feature projections takes fewer multiplications than after them."""
        e, f = self._projections
        if not e.is_linear:
            return False
        # A traced graph serves every length, so there the longest decides; the function is the same either way.
        n = self.max_length if torch.compiler.is_compiling() else n
        d, k = self.hidden_size, self.projected_dim
        first = (1 if f is e else 2) * e.cost_per_token * n * d + 2 * k * d * d
        second = 2 * (e.cost_per_token // (e.num_heads or 1)) * n * d
        if not self.local_window:  # else every token is projected anyway
            second += 2 * n * d * d
        return first < second

    def _project_tokens(self, linear: nn.Module, source: Tensor, padding: Padding | None) -> Tensor:
        """Keys or values of every token, zero at padding (where the feature projection leaves its bias)."""
        tokens = linear(source)
        return tokens if padding is None else padding.zero(tokens)

    def _compress_tokens(
        self, projection: Projection, tokens: Tensor, padding: Padding | None
    ) -> Float[Tensor, "batch heads slots head_dim"]:
        """``E K``: compress keys or values."""
        if projection.per_head:
            return projection(self.split_heads(tokens), padding)
        return self.split_heads(projection(tokens, padding))

    def _project_slots(
        self, linear: nn.Linear, compressed: Tensor, projection: Projection, source: Tensor, padding: Padding | None
    ) -> Float[Tensor, "batch heads slots head_dim"]:
        """``(E X) W + (E 1) b^T``: keys or values of the slots from the compressed inputs."""
        mass = None
        if linear.bias is not None:
            # What a constant, such as the bias, becomes in each slot.
            document = None if padding is None else padding.document()
            ones = source.new_ones(1, source.shape[1], 1) if document is None else document.keep[..., None].to(source)
            mass = projection(ones, document)
        if not projection.per_head:
            slots = linear(compressed)
            return self.split_heads(slots if mass is None else slots + (mass - 1) * linear.bias)
        weight = linear.weight.unflatten(0, (self.num_attention_heads, self.head_dim))
        slots = torch.einsum("bhkd,hed->bhke", compressed, weight)
        if mass is None:
            return slots
        return slots + mass * linear.bias.view(self.num_attention_heads, 1, self.head_dim)

    def extra_repr(self) -> str:
        """Shown when the module is printed."""
        return f"{super().extra_repr()}, local_window={self.local_window}"
