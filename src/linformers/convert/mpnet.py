"""MPNet takes ``attn_implementation="linformers"`` too, though its attention asks for no implementation.

Its encoder works out a bias for every pair of tokens, n x n, and its attention adds it to the scores. Of a model that
is linear the encoder gives a table of distances in its place, and attention that is given a table is linear; with any
other implementation, and without this package, both are what transformers wrote.
"""

from dataclasses import dataclass
from functools import wraps
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from linformers._registration import ATTENTION
from linformers.attention.distances import Distances
from linformers.attention.documents import wide
from linformers.convert.interface import padding_of, read_tokens, refuse_weights, settings_of

REACH = 128  # tokens: MPNet has one bias for all that are further away on a side (relative_position_bucket)


@dataclass(frozen=True)
class PositionBias:
    """What a linear encoder hands to the attention of its layers."""

    distances: Distances
    config: Any


def take_implementation(modeling_mpnet: ModuleType) -> None:
    """Let the classes of MPNet take our implementation."""
    encoder, attention = modeling_mpnet.MPNetEncoder, modeling_mpnet.MPNetSelfAttention
    bias_of_pairs, softmax = encoder.compute_position_bias, attention.forward

    @wraps(bias_of_pairs)
    def compute_position_bias(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor | PositionBias:
        if self.config._attn_implementation != ATTENTION:
            return bias_of_pairs(self, x, *args, **kwargs)
        some = bias_of_pairs(self, x.new_empty(1, REACH + 1), *args, **kwargs)[0]
        table = torch.cat([some[:, :, 0].flip(1), some[:, 0, 1:]], dim=1)
        return PositionBias(Distances(table.to(wide(table))), self.config)

    @wraps(softmax)
    def forward(
        self: Any,
        hidden_states: Float[Tensor, "batch seq hidden"],
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, ...]:
        bias = next((x for x in (*args, *kwargs.values()) if isinstance(x, PositionBias)), None)
        if bias is None:
            return softmax(self, hidden_states, attention_mask, *args, **kwargs)
        if kwargs.get("output_attentions"):
            refuse_weights()
        heads = (self.num_attention_heads, self.attention_head_size)
        query, key, value = (
            linear(hidden_states).unflatten(-1, heads).transpose(1, 2) for linear in (self.q, self.k, self.v)
        )
        batch, seq = hidden_states.shape[:2]
        keep = padding_of(attention_mask, batch, seq, type(self).__name__)
        settings, dropout = settings_of(bias.config), self.dropout.p if self.training else 0.0
        read = read_tokens(query, key, value, keep, settings, settings.slots(self), dropout, distances=bias.distances)
        return (self.o(read.flatten(2)),)

    encoder.compute_position_bias, attention.forward = compute_position_bias, forward
    # By the method, as earlier versions of transformers 5 keep no answer of it.
    modeling_mpnet.MPNetPreTrainedModel._can_set_attn_implementation = classmethod(lambda cls: True)
