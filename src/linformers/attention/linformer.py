"""Linformer: self-attention with linear complexity, by low-rank projection of keys and values."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from linformers.attention.base import Attention
from linformers.attention.checks import check_int
from linformers.attention.functional import attend
from linformers.attention.local import attend_with_window
from linformers.attention.padding import Padding, first_rows, lengths_of
from linformers.attention.projection import Projection
from linformers.attention.sharing import ProjectionBank


@dataclass(frozen=True)
class SlotMemory:
    """What every query sees: the k compressed keys and values, then those of the global tokens.

    With a local window also the keys and values of all tokens at hand, after those of ``before`` more. ``global_reads``
    is what the global tokens read; ``offset`` the index in its document of the first token at hand, None = 0.
    """

    keys: Float[Tensor, "batch heads slots head_dim"]
    values: Float[Tensor, "batch heads slots head_dim"]
    bias: Float[Tensor, "#batch slots"] | None
    global_reads: Float[Tensor, "batch heads globals head_dim"] | None = None
    token_keys: Float[Tensor, "batch heads source head_dim"] | None = None
    token_values: Float[Tensor, "batch heads source head_dim"] | None = None
    starts: Int[Tensor, "#batch edges"] | None = None
    lengths: Int[Tensor, "#batch"] | None = None
    before: int = 0
    offset: Int[Tensor, " batch"] | None = None


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
        global_tokens: So many tokens at the start are exact keys for all, and attend to all tokens themselves (as in
            Longformer, Beltagy et al., arXiv 2004.05150); the slots compress the others. Self-attention only.
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
        global_tokens: int = 0,
        dropout: float = 0.0,
        bias: bool = True,
        projections: tuple[Projection, Projection] | None = None,
    ) -> None:
        super().__init__(hidden_size, num_attention_heads, dropout=dropout, bias=bias)
        check_int("max_length", max_length)
        check_int("projected_dim", projected_dim)
        check_int("local_window", local_window, minimum=0)
        check_int("global_tokens", global_tokens, minimum=0)
        self.max_length = max_length
        self.projected_dim = projected_dim
        self.local_window = local_window
        self.global_tokens = global_tokens
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
            if kind == "max_pool":
                raise ValueError(
                    f"sequence parallelism does not take projection_kind {kind!r}, as a maximum is no sum over the "
                    "tokens: use 'linear', 'mean_pool' or 'conv'."
                )
        for name in ("local_window", "global_tokens"):
            if getattr(self, name) and not is_self:
                raise ValueError(
                    f"{name}={getattr(self, name)} needs queries and keys of one sequence, but a context was given: "
                    f"use {name}=0 for cross-attention."
                )
        if seq > self.max_length:
            raise ValueError(
                f"a sequence of {seq} tokens exceeds max_length={self.max_length}: truncate it, or build "
                "the module with a larger max_length."
            )

    def build_memory(
        self, source: Float[Tensor, "batch source hidden"], padding: Padding | None, return_weights: bool = False
    ) -> SlotMemory:
        """Compress keys and values to k slots, in the cheaper order of multiplication.

        ``E (X W + 1 b^T) = (E X) W + (E 1) b^T``: compressing first leaves k rows to project instead of n, and with
        E = F the product ``E X`` serves both. With per-head E the other order is mostly cheaper. Where pooling gives
        each token a slot of its own, the tokens themselves are the slots.
        """
        e, f = self._projections
        if not return_weights and self._is_exact(source, padding):
            bias = None
            if padding is not None:
                usable = padding.keep | padding.empty[:, None]
                bias = torch.zeros_like(usable, dtype=source.dtype).masked_fill(~usable, -torch.inf)
            keys, values = self.split_heads(self.k_proj(source)), self.split_heads(self.v_proj(source))
            return SlotMemory(keys, values, None if bias is None else bias.to(keys.dtype))
        token_keys = token_values = None
        compress_first = self._compress_first(source.shape[1] if padding is None else padding.document_seq)
        before = 0
        if self.local_window or not compress_first:
            tokens = source
            if self.local_window and padding is not None:
                tokens, before = padding.with_neighbours(source, self.local_window)
            token_keys, token_values = self.k_proj(tokens), self.v_proj(tokens)
        rest, rest_padding = self._without_globals(source, padding)
        if compress_first:
            compressed = e(rest, rest_padding)
            keys = self._project_slots(self.k_proj, compressed, e, rest, rest_padding)
            compressed = compressed if f is e else f(rest, rest_padding)
            values = self._project_slots(self.v_proj, compressed, f, rest, rest_padding)
        else:
            assert token_keys is not None and token_values is not None
            own = slice(before, before + source.shape[1])
            # A feature projection leaves its bias at padding; that must not be compressed.
            rest_keys, rest_values = (
                self._without_globals(x[:, own] if padding is None else padding.zero(x[:, own]), padding)[0]
                for x in (token_keys, token_values)
            )
            keys = self._compress_tokens(e, rest_keys, rest_padding)
            values = self._compress_tokens(f, rest_values, rest_padding)

        bias = e.log_mass(rest, rest_padding)
        bias = None if bias is None else bias.to(keys.dtype)
        lengths = lengths_of(source, padding)
        global_reads = None
        if self.global_tokens:
            keys, values, bias, global_reads = self._add_globals(keys, values, bias, source, padding)
        if bias is not None and padding is not None:
            # no slot is left in an empty sequence; its output is dropped, but stays finite
            bias = bias.masked_fill(padding.empty[:, None], 0)
        offset = None if padding is None else padding.first
        if not self.local_window:
            return SlotMemory(keys, values, bias, global_reads, offset=offset)
        assert token_keys is not None and token_values is not None
        starts = e.slot_starts(lengths_of(rest, rest_padding))
        return SlotMemory(
            keys,
            values,
            bias,
            global_reads,
            self.split_heads(token_keys),
            self.split_heads(token_values),
            None if starts is None else starts + self.global_tokens,
            lengths,
            before,
            offset,
        )

    def _is_exact(self, source: Tensor, padding: Padding | None) -> bool:
        """Whether this is softmax attention: pooling, with a slot for each token."""
        if torch.compiler.is_compiling() or (padding is not None and padding.first is not None):
            return False  # a traced graph must serve every length
        return source.shape[1] <= self.projected_dim + self.global_tokens and self.key_projection.is_pooling

    def _without_globals(self, x: Tensor, padding: Padding | None) -> tuple[Tensor, Padding | None]:
        """The tokens that the slots compress: all after the global ones."""
        first = self.global_tokens
        if not first:
            return x, padding
        if padding is not None and padding.first is not None:
            is_global = padding.first[:, None] + torch.arange(x.shape[1], device=x.device) < first
            return x.masked_fill(is_global[..., None], 0), padding.after(first)
        if torch.compiler.is_compiling() or x.shape[1] <= first:  # a traced graph must serve short sequences too
            if padding is None:
                padding = Padding(torch.ones(1, x.shape[1], dtype=torch.bool, device=x.device))
            x, padding = F.pad(x, (0, 0, 0, first)), padding.widened(first)
        return x[:, first:], None if padding is None else padding.after(first)

    def _add_globals(
        self, keys: Tensor, values: Tensor, bias: Tensor | None, source: Tensor, padding: Padding | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Global tokens behind the slots, as keys and values with a bias; and what they read themselves.

        They read all n tokens by ``q (X W)^T = (q W^T) X^T``, so that only they pay for it: O(n) each.
        """
        count = self.global_tokens
        x = first_rows(source, count) if padding is None else padding.heads_of_documents(source, count)
        lengths = lengths_of(source, padding)[:, None]
        if bias is None:  # slots without a single token to compress are none
            bias = keys.new_zeros(lengths.shape[0], keys.shape[2]).masked_fill(
                lengths <= self.global_tokens, -torch.inf
            )
        present = torch.arange(x.shape[1], device=x.device) < lengths
        keys = torch.cat([keys, self.split_heads(self.k_proj(x))], dim=2)
        values = torch.cat([values, self.split_heads(self.v_proj(x))], dim=2)
        extra = torch.zeros_like(present, dtype=bias.dtype).masked_fill(~present, -torch.inf)
        rows = torch.broadcast_shapes(bias.shape[:1], extra.shape[:1])[0]
        bias = torch.cat([bias.expand(rows, -1), extra.expand(rows, -1)], dim=1)

        query = self.split_heads(self.q_proj(x))
        heads = (self.num_attention_heads, self.head_dim)
        key_weight, value_weight = (linear.weight.unflatten(0, heads) for linear in (self.k_proj, self.v_proj))
        wide = torch.promote_types(source.dtype, torch.float32)  # float16 cannot hold large scores
        query = torch.einsum("bhgd,hdm->bhgm", query.to(wide), key_weight.to(wide)) * self.head_dim**-0.5
        scores = query.flatten(1, 2) @ source.to(wide).transpose(1, 2)  # a bias of the keys is the same for all of them
        if padding is not None:
            scores = scores.masked_fill(~(padding.keep | padding.empty[:, None])[:, None], -torch.inf)
        # A softmax over all tokens of the documents, of which only a stretch may be at hand.
        scores = scores.to(wide)  # under autocast they are not
        largest = scores.amax(-1, keepdim=True).detach()
        weights = (scores - (largest if padding is None else padding.largest(largest))).exp()
        total = weights.sum(-1, keepdim=True)
        weights = F.dropout(weights / (total if padding is None else padding.reduce(total)), self.active_dropout)
        sums = torch.cat([weights.to(source.dtype) @ source, weights.sum(-1, keepdim=True)], dim=-1)
        sums = (sums if padding is None else padding.reduce(sums)).unflatten(1, (self.num_attention_heads, -1))
        read, mass = sums[..., :-1].to(source.dtype), sums[..., -1:].to(source.dtype)  # 1, but for dropout
        read = torch.einsum("bhgm,hdm->bhgd", read, value_weight)
        if self.v_proj.bias is not None:
            read = read + mass * self.v_proj.bias.view(self.num_attention_heads, 1, self.head_dim)
        return keys, values, bias, read

    def read(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        memory: SlotMemory,
        start: int = 0,
        return_weights: bool = False,
    ) -> tuple[Float[Tensor, "batch seq hidden"], Tensor | None]:
        """Attend to the slots and global tokens, and to the neighbours if there is a local window.

        The weights of global tokens are zero: they attend to tokens, for which there are no columns.
        """
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
                before=memory.before,
                offset=memory.offset,
                first=self.global_tokens,
                lengths=memory.lengths,
                slot_bias=memory.bias,
                slot_starts=memory.starts,
                dropout=self.active_dropout,
                return_weights=return_weights,
            )
        if memory.global_reads is not None and memory.offset is None and start == 0 and weights is None:
            rest = F.pad(read, (0, 0, 0, self.global_tokens))[:, :, self.global_tokens :]  # none, of a short sequence
            read = torch.cat([memory.global_reads.to(read.dtype), rest], dim=2)[:, :, : hidden_states.shape[1]]
        elif memory.global_reads is not None and (start < self.global_tokens or memory.offset is not None):
            index = torch.arange(start, start + hidden_states.shape[1], device=read.device)[None]
            index = index if memory.offset is None else index + memory.offset[:, None]
            is_global = (index < self.global_tokens)[:, None, :, None]
            index = index.clamp(max=self.global_tokens - 1)[:, None, :, None].expand(read.shape)
            read = torch.where(is_global, memory.global_reads.to(read.dtype).gather(2, index), read)
            weights = None if weights is None else weights.masked_fill(is_global, 0)
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
        return f"{super().extra_repr()}, local_window={self.local_window}, global_tokens={self.global_tokens}"
