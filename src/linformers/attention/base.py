"""What all attention modules share: checks, feature projections, heads, padding, and the walk over the queries."""

import abc
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linformers.attention.documents import Documents, read_mask
from linformers.attention.keys import Through
from linformers.checks import check_heads, check_int, check_probability

# Tokens read at a time where no gradient is needed: on a CPU their queries and scores stay in cache, and no n x d
# temporary is allocated. 768 measured best at hidden size 768; on a GPU, starting kernels decides (see docs/log.md).
READ_CHUNK_TOKENS, GPU_CHUNK_TOKENS = 768, 65536


def read_chunk(x: Float[Tensor, "batch seq hidden"]) -> int:
    """So many tokens of each sequence to read at a time without gradients."""
    tokens = READ_CHUNK_TOKENS if x.device.type == "cpu" else GPU_CHUNK_TOKENS
    return max(tokens // x.shape[0], 1)


class Attention(nn.Module, abc.ABC):
    """Multi-head attention in two steps: build a memory from the keys' side, read it token by token.

    ``y = o_proj(read(x, build_memory(source)))``. A subclass supplies the two methods. In Linformer and k-free
    attention the memory is small and *reading is per token*, which is what makes them linear and lets long inputs
    be read in chunks.

    Args:
        hidden_size: Width of inputs and outputs.
        num_attention_heads: Heads; must divide ``hidden_size``.
        exact_length: Documents of up to so many tokens are read by softmax attention itself.
        dropout: Probability of dropping an attention weight in training.
        bias: Whether the four feature projections have biases.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        *,
        exact_length: int = 0,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_heads(hidden_size, num_attention_heads)
        check_int("exact_length", exact_length, minimum=0)
        check_probability("dropout", dropout)
        self.exact_length = exact_length
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.head_dim: int = hidden_size // num_attention_heads
        self.dropout = dropout
        self.q_proj: nn.Linear = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.k_proj: nn.Linear = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.v_proj: nn.Linear = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.o_proj: nn.Linear = nn.Linear(hidden_size, hidden_size, bias=bias)

    @abc.abstractmethod
    def build_memory(
        self,
        source: Float[Tensor, "batch source hidden"],
        documents: Documents,
        readers: Float[Tensor, "batch readers hidden"] | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Summarise ``source`` (aligned, padded rows zero) into what ``read`` needs.

        ``readers``: where the queries come from, if not from ``source``. ``return_weights``: the memory will be read
        for weights, so their columns must be those that are promised.
        """

    @abc.abstractmethod
    def read(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        memory: Any,
        start: int = 0,
        return_weights: bool | Through = False,
    ) -> tuple[Float[Tensor, "batch seq hidden"], Tensor | None]:
        """Attend from tokens ``start, start + 1, ...`` to the memory; heads concatenated, before ``o_proj``.

        ``return_weights`` may be a function that weights go through before they are used.
        """

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        attention_mask: Tensor | Documents | None = None,
        context: Float[Tensor, "batch source hidden"] | None = None,
        return_weights: bool | Documents = False,
    ) -> Any:
        """Attend within ``hidden_states``, or from them to ``context``.

        Args:
            hidden_states: Where the queries come from.
            attention_mask: (batch, source), True or 1 = keep. It belongs to ``context`` if there is
                one. A padded token gives nothing and gets zeros, so outputs of real tokens do not depend on where
                padding lies or what it holds. ``Documents`` say that the inputs are already aligned.
            context: Where keys and values come from; None = self-attention.
            return_weights: Also return the attention weights, (batch, heads, seq, keys); keys are slots in
                compressed attention. The output is made of them, so that its gradients reach them. ``Documents`` say
                in whose order to return them.

        Returns:
            (batch, seq, hidden), with ``return_weights`` a pair of that and the weights. A sequence without any kept
            key gives zeros.

        Raises:
            TypeError: An input or mask of the wrong type.
            ValueError: An input or mask of the wrong shape, or a sequence longer than the module allows.
        """
        self._check_input("hidden_states", hidden_states)
        if context is not None:
            self._check_input("context", context)
            if context.shape[0] != hidden_states.shape[0]:
                raise ValueError(
                    f"context has a batch of {context.shape[0]}, hidden_states of {hidden_states.shape[0]}: "
                    "they must be equal."
                )
        is_self = context is None
        source = hidden_states if context is None else context
        if isinstance(attention_mask, Documents):
            documents = attention_mask
        else:
            documents = Documents(read_mask(attention_mask, source), source.shape[1], source.device)
        self._check_source(documents, is_self)
        source = documents.zero(documents.align(source))
        wanted = return_weights is not False
        order = return_weights if isinstance(return_weights, Documents) else documents
        inside = documents.aligned() if wanted or not is_self else documents.grouped(self.exact_length)
        given: list[Tensor] = []

        def through(weights: Tensor) -> Tensor:
            if inside.padded:
                dropped = ~inside.keep if is_self else inside.empty[:, None]
                weights = weights.masked_fill(dropped[:, None, :, None], 0)
            given.append(self.restore_weights(weights, order, queries=is_self))
            return self.align_weights(given[0], order, queries=is_self)

        asked = through if wanted else False
        if not is_self:  # queries are not told apart by length
            memory = self.build_memory(source, inside, hidden_states, wanted)
            output, weights = self._read_all(hidden_states, memory, asked)
            output = output.masked_fill(inside.empty[:, None, None], 0) if inside.padded else output
        elif wanted:
            output, weights = self._attend(source, inside, asked)
        else:
            output, weights = inside.map(lambda x, group: self._attend(x, group)[0], source), None
        if is_self:
            output = documents.restore(output)
        if weights is None:
            return output
        if not given:  # by a mechanism that uses them piece by piece
            through(weights)
        return output, given[0]

    def _attend(
        self, source: Tensor, documents: Documents, return_weights: bool | Through = False
    ) -> tuple[Tensor, Any]:
        memory = self.build_memory(source, documents, return_weights=return_weights is not False)
        output, weights = self._read_all(source, memory, return_weights)
        return documents.zero(output), weights

    def _read_all(
        self, hidden_states: Float[Tensor, "batch seq hidden"], memory: Any, return_weights: bool | Through
    ) -> tuple[Float[Tensor, "batch seq hidden"], Tensor | None]:
        """Read for every token: at once while gradients are recorded, else chunk by chunk into one output."""
        batch, seq = hidden_states.shape[:2]
        whole = torch.is_grad_enabled() or return_weights is not False or torch.compiler.is_compiling()
        chunk = read_chunk(hidden_states)
        if whole or seq <= 2 * chunk:
            read, weights = self.read(hidden_states, memory, return_weights=return_weights)
            return self.o_proj(read), weights
        output = None
        for rows in (slice(start, start + chunk) for start in range(0, seq, chunk)):
            part = self.o_proj(self.read(hidden_states[:, rows], memory, rows.start)[0])
            if output is None:  # now the dtype is known, under autocast too
                output = part.new_empty(batch, seq, part.shape[-1])
            output[:, rows] = part
        assert output is not None
        return output, None

    def restore_weights(
        self, weights: Float[Tensor, "batch heads seq keys"], documents: Documents, queries: bool = True
    ) -> Float[Tensor, "batch heads seq keys"]:
        """Bring attention weights from the aligned order to the caller's."""
        if not (queries and documents.reordered):  # the weights themselves, so that gradients reach what is returned
            return weights
        return documents.restore_view(weights.transpose(1, 2)).transpose(1, 2)

    def align_weights(
        self, weights: Float[Tensor, "batch heads seq keys"], documents: Documents, queries: bool = True
    ) -> Float[Tensor, "batch heads seq keys"]:
        """Undo ``restore_weights``."""
        if not (queries and documents.reordered):
            return weights
        return documents.align_view(weights.transpose(1, 2)).transpose(1, 2)

    def split_heads(self, x: Float[Tensor, "batch seq hidden"]) -> Float[Tensor, "batch heads seq head_dim"]:
        """Cut the feature axis into heads (a view)."""
        return x.unflatten(-1, (self.num_attention_heads, self.head_dim)).transpose(1, 2)

    def merge_heads(self, x: Float[Tensor, "batch heads seq head_dim"]) -> Float[Tensor, "batch seq hidden"]:
        """Undo ``split_heads``."""
        return x.transpose(1, 2).flatten(2)

    @property
    def active_dropout(self) -> float:
        """The dropout in force: 0 outside training."""
        return self.dropout if self.training else 0.0

    def _check_input(self, field: str, x: Any) -> None:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{field} must be a floating-point tensor, got {kind}: embed token ids first.")
        if x.ndim != 3 or x.shape[-1] != self.hidden_size:
            raise ValueError(
                f"{field} must have shape (batch, seq, hidden_size={self.hidden_size}), got {tuple(x.shape)}: "
                "add the missing axis, or build the module with that hidden_size."
            )
        if x.shape[1] == 0:
            raise ValueError(f"{field} has no tokens, shape {tuple(x.shape)}: give sequences of at least one token.")

    def _check_source(self, documents: Documents, is_self: bool) -> None:
        """Refuse sources the mechanism cannot take."""
        if not documents.whole:
            raise ValueError(
                f"{type(self).__name__} cannot work on one stretch of a sequence: use LinformerAttention or "
                "KFreeAttention, or give each process whole sequences."
            )

    def extra_repr(self) -> str:
        """Shown when the module is printed."""
        return f"hidden_size={self.hidden_size}, num_attention_heads={self.num_attention_heads}, dropout={self.dropout}"
