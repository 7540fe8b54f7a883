"""Linformer: self-attention with linear complexity, by low-rank projection of keys and values."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from linformers.attention.base import Attention
from linformers.attention.documents import Documents, wide
from linformers.attention.keys import Keys, Through, bias_of, token_keys
from linformers.attention.memory import Gathered, Memory, Tokens, plan_slots, with_global
from linformers.attention.projection import Projection
from linformers.attention.sharing import PROJECTION_KINDS, ProjectionBank
from linformers.attention.slots import AttentionPoolProjection, SlotPlan
from linformers.checks import check_int

# Without gradients, keys and values of so many tokens are made at a time, in all sequences together; of up to
# AT_ONCE_TOKENS all are.
POOL_TOKENS, AT_ONCE_TOKENS = 1024, 4096


class LinformerAttention(Attention):
    """``softmax(Q (E K)^T / sqrt(head_dim)) F V`` (Wang et al., arXiv 2006.04768, section 4, equation 7).

    E and F compress the n keys and values to ``projected_dim`` slots, so time and memory are O(n k) where softmax
    attention takes O(n^2). Padded tokens are left out of the compression; outputs of real tokens do not depend on
    them. Slots that stand for tokens (all kinds but ``linear`` and ``conv``) are softmax attention where k >= n,
    exactly.

    >>> attention = LinformerAttention(hidden_size=32, num_attention_heads=4, max_length=512, projected_dim=64)
    >>> attention(torch.randn(2, 300, 32)).shape
    torch.Size([2, 300, 32])

    Args:
        hidden_size: Width of inputs and outputs.
        num_attention_heads: Heads; must divide ``hidden_size``.
        max_length: The longest sequence of keys, in tokens. None = any length, for kinds that learn nothing.
        projected_dim: Slots, the paper's k.
        projection_sharing: ``none``, ``headwise``, ``key_value`` (default) or ``layerwise`` (within one layer the last
            two are the same); see ``ProjectionBank``.
        projection_kind: The paper's ``linear`` (learned E and F, the default), ``mean_pool``, ``max_pool`` or ``conv``;
            or slots that weigh their tokens by attention: ``attention_pool`` (of neighbours) or ``cluster`` (of like
            keys, the closest to softmax attention; see ``slots.py``).
        local_window: So many tokens on each side of a query are exact keys beside the slots; 0 = the paper.
            Self-attention only.
        global_tokens: So many tokens at the start are exact keys for all, and attend to all tokens themselves (as in
            Longformer, Beltagy et al., arXiv 2004.05150); the slots compress the others. Self-attention only.
        exact_length: Documents of up to so many tokens are read by softmax attention itself; 0 = none. For kinds whose
            slots stand for tokens.
        dropout: Probability of dropping an attention weight in training.
        bias: Whether the four feature projections have biases.
        projections: E and F from a stack's ``ProjectionBank``, which owns their parameters; given, the arguments
            that describe the projections must not contradict them. None = the module owns its own.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, an unknown kind or sharing, or one that contradicts ``projections``.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        max_length: int | None,
        projected_dim: int,
        *,
        projection_sharing: str | None = None,
        projection_kind: str | None = None,
        local_window: int = 0,
        global_tokens: int = 0,
        exact_length: int = 0,
        dropout: float = 0.0,
        bias: bool = True,
        projections: tuple[Projection, Projection] | None = None,
    ) -> None:
        super().__init__(hidden_size, num_attention_heads, exact_length=exact_length, dropout=dropout, bias=bias)
        check_int("local_window", local_window, minimum=0)
        check_int("global_tokens", global_tokens, minimum=0)
        self.local_window = local_window
        self.global_tokens = global_tokens
        if projections is None:
            self.bank: ProjectionBank = ProjectionBank(
                1,
                num_attention_heads,
                max_length,
                projected_dim,
                sharing="key_value" if projection_sharing is None else projection_sharing,
                kind="linear" if projection_kind is None else projection_kind,
            )
            projections = self.bank[0]
            assert projections is not None
        else:
            given = {"num_attention_heads": num_attention_heads, "max_length": max_length}
            given |= {"projected_dim": projected_dim, "projection_kind": projection_kind}
            _check_borrowed(projections, given | {"projection_sharing": projection_sharing})
        # In a tuple, so that borrowed projections are not registered here a second time.
        self._projections: tuple[Projection, Projection] = projections
        check_exact_length(exact_length, self.key_projection.kind)

    @property
    def key_projection(self) -> Projection:
        """E: compresses the keys."""
        return self._projections[0]

    @property
    def value_projection(self) -> Projection:
        """F: compresses the values; the same object as E where they are shared."""
        return self._projections[1]

    @property
    def projected_dim(self) -> int:
        """Slots, k."""
        return self.key_projection.projected_dim

    def _check_source(self, documents: Documents, is_self: bool) -> None:
        e = self.key_projection
        if not documents.whole and not e.is_sum:
            raise ValueError(
                f"sequence parallelism does not take projection_kind {e.kind!r}, as a maximum is no sum over the "
                "tokens: use another kind."
            )
        for name in ("local_window", "global_tokens"):
            if getattr(self, name) and not is_self:
                raise ValueError(
                    f"{name}={getattr(self, name)} needs queries and keys of one sequence, but a context was given: "
                    f"use {name}=0 for cross-attention."
                )
        if e.has_parameters and documents.longest > (e.max_length or 0):
            raise ValueError(
                f"a sequence of {documents.longest} tokens exceeds max_length={e.max_length}: truncate it, or build "
                "the module with a larger max_length."
            )

    def build_memory(
        self,
        source: Float[Tensor, "batch source hidden"],
        documents: Documents,
        readers: Float[Tensor, "batch readers hidden"] | None = None,
        return_weights: bool = False,
    ) -> Memory:
        """Compress keys and values to k slots; beside them global tokens and, for the window, all tokens."""
        if documents.exact and not return_weights:
            source, documents = documents.gathered(source)
            keys, values = (self.split_heads(linear(source)) for linear in (self.k_proj, self.v_proj))
            return Memory(token_keys(keys, values, documents), documents)
        e, g, window = self.key_projection, self.global_tokens, self.local_window
        rest = documents.after(g)
        pools = isinstance(e, AttentionPoolProjection)
        compress_first = not pools and self._compress_first(documents.longest)
        at_once = bool(window) or not (pools or compress_first)
        if pools or g:
            few = source.shape[0] * documents.longest <= AT_ONCE_TOKENS  # the same in all processes
            at_once = at_once or few or torch.is_grad_enabled() or torch.compiler.is_compiling()
        tokens = self._keys_and_values(source) if at_once else None
        plan = self._plan(source, tokens, rest, readers) if pools else None
        heads = documents.rows(source, torch.arange(g, device=source.device)[None]) if g else source[:, :0]
        found = slope = None
        if at_once or g or pools:
            query = self.split_heads(self.q_proj(heads)) * self.head_dim**-0.5 if g else None
            parts = self._parts(source, documents) if tokens is None else [(tokens, documents)]
            found = Gathered.of(parts, documents, e, plan, query, g, self.active_dropout, slope=not window)
        if plan is not None and found is not None:
            seen, slope = found.slots(plan, window)
        elif compress_first or found is None:
            seen = self._slots_of_inputs(source, rest)
        else:
            seen = self._slots_of_tokens(found.tokens, rest)
        seen = with_global(seen, self._keys_and_values(heads) if g else None, documents)
        if found is None:
            return Memory(seen, documents)
        return Memory(seen, documents, window, g, found.nearby(e, rest, documents, window), found.global_reads, slope)

    def read(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        memory: Memory,
        start: int = 0,
        return_weights: bool | Through = False,
    ) -> tuple[Float[Tensor, "batch seq hidden"], Tensor | None]:
        """Attend to the slots and global tokens, and to the tokens near if there is a local window.

        The weights of global tokens are zero: they attend to tokens, for which there are no columns.
        """
        query = self.split_heads(self.q_proj(hidden_states))
        read, weights = memory.read(query, start, self.active_dropout, return_weights)
        return self.merge_heads(read), weights

    def _keys_and_values(self, x: Float[Tensor, "batch seq hidden"]) -> Tokens:
        keys, values = (
            linear(x).unflatten(-1, (self.num_attention_heads, -1)) for linear in (self.k_proj, self.v_proj)
        )
        return keys, values

    def _plan(self, source: Tensor, tokens: Tokens | None, rest: Documents, readers: Tensor | None) -> SlotPlan:
        """What decides about slots that follow the data, from a sample of tokens and of those that read them."""
        e = self.key_projection
        assert isinstance(e, AttentionPoolProjection)
        sample = e.sample(rest)
        if tokens is None:
            keys, _ = self._keys_and_values(rest.rows(source, sample))
        else:
            keys = rest.rows(tokens[0], sample)
        if readers is None:
            real = sample[:, ::2] >= 0 if rest.padded or torch.compiler.is_compiling() else None
            queries = rest.rows(source, sample[:, ::2])
        else:
            size, real = e.sample_tokens // 2, None
            queries = readers[:, torch.arange(size, device=source.device) * readers.shape[1] // size]
        return plan_slots(e, keys, self.split_heads(self.q_proj(queries)), sample, real)

    def _parts(self, source: Tensor, documents: Documents) -> Iterator[tuple[Tokens, Documents]]:
        """Keys and values part by part, so that none are kept."""
        size = max(POOL_TOKENS // source.shape[0], 1)
        for start in range(0, source.shape[1], size):
            x = source[:, start : start + size]
            yield self._keys_and_values(x), documents.part(start, start + x.shape[1])

    def _compress_first(self, n: int) -> bool:
        """Whether compressing X before the feature projections takes fewer multiplications than after them."""
        e, f = self._projections
        if not e.is_linear or e.per_head:
            return False
        # A traced graph serves every length, so there the longest decides; the function is the same either way.
        n = e.max_length or n if torch.compiler.is_compiling() else n
        d, k = self.hidden_size, self.projected_dim
        first = (1 if f is e else 2) * e.cost_per_token * n * d + 2 * k * d * d
        second = 2 * e.cost_per_token * n * d
        if not (self.local_window or self.global_tokens):  # else every token is projected anyway
            second += 2 * n * d * d
        return first < second

    def _slots_of_inputs(self, source: Tensor, rest: Documents) -> Keys:
        """``E (X W + 1 b^T) = (E X) W + (E 1) b^T``: k rows to project, not n; with E = F, one ``E X`` for both."""
        e, f = self._projections
        compressed = e(source, rest)
        found: list[Tensor] = []
        for projection, linear in ((e, self.k_proj), (f, self.v_proj)):
            slots = linear(compressed if projection is e else projection(source, rest))
            if projection.has_parameters:
                complete = rest.complete()  # what a constant becomes in each slot
                mass = projection(complete.keep[..., None].to(source.dtype), complete)
                slots = slots + (mass - 1) * linear(source.new_zeros(1, 1, self.hidden_size))
            found.append(self.split_heads(slots))
        return Keys(found[0], found[1], self._slot_bias(rest, wide(found[0])))

    def _slots_of_tokens(self, keys_and_values: Tokens, rest: Documents) -> Keys:
        """``E K`` and ``F V``."""
        found: list[Tensor] = []
        for projection, tokens in zip(self._projections, keys_and_values, strict=True):
            tokens = rest.zero(tokens)  # a feature projection leaves its bias at padding
            slots = projection(tokens if projection.per_head else tokens.flatten(2), rest)
            found.append(slots if projection.per_head else self.split_heads(slots))
        return Keys(found[0], found[1], self._slot_bias(rest, wide(found[0])))

    def _slot_bias(self, rest: Documents, dtype: torch.dtype) -> Float[Tensor, "#batch 1 1 slots"] | None:
        """The mass of each slot; where no token is left to compress, a slot is none."""
        bias = self.key_projection.log_mass(rest, dtype)
        if bias is None and (rest.padded or rest.skipped):
            bias = bias_of(~rest.empty[:, None].expand(-1, self.projected_dim), dtype)
        return None if bias is None else bias[:, None, None]

    def extra_repr(self) -> str:
        """Shown when the module is printed."""
        return (
            f"{super().extra_repr()}, local_window={self.local_window}, global_tokens={self.global_tokens}, "
            f"exact_length={self.exact_length}"
        )


def check_exact_length(exact_length: int, kind: str) -> None:
    """Refuse softmax attention on short documents where long ones are read by slots of another meaning.

    Raises:
        ValueError: Slots of this kind do not stand for tokens.
    """
    if exact_length and not PROJECTION_KINDS[kind].stands_for_tokens:
        kinds = ", ".join(name for name, cls in PROJECTION_KINDS.items() if cls.stands_for_tokens)
        raise ValueError(
            f"exact_length={exact_length} needs slots that stand for tokens, but projection_kind is {kind!r}: "
            f"use 0, or one of {kinds}."
        )


def _check_borrowed(projections: tuple[Projection, Projection], given: dict[str, Any]) -> None:
    """Refuse arguments that contradict the projections of a bank.

    Raises:
        ValueError: Another kind, size or sharing.
    """
    e, f = projections
    sharing = "none" if e.per_head else "headwise" if e is not f else given["projection_sharing"]
    held = {
        "max_length": e.max_length,
        "projected_dim": e.projected_dim,
        "projection_kind": e.kind,
        "num_attention_heads": e.num_heads or given["num_attention_heads"],
        "projection_sharing": sharing,
    }
    if e is f and e.has_parameters and given["projection_sharing"] in ("none", "headwise"):
        held["projection_sharing"] = "key_value"
    if not e.has_parameters:
        held["projection_sharing"] = given["projection_sharing"]  # pooling shares everything
    for name, value in given.items():
        if value is not None and value != held[name]:
            raise ValueError(
                f"{name}={value!r} contradicts the projections that were given, which have {held[name]!r}: leave it "
                "out, or take the projections of another bank."
            )
