"""Plain softmax attention, O(n^2): the baseline, and the exact layers of hybrid stacks."""

from jaxtyping import Float
from torch import Tensor

from linformers.attention.base import Attention
from linformers.attention.documents import Documents
from linformers.attention.keys import Keys, Through, attend, token_keys


def softmax_of(attention: Attention) -> "SoftmaxAttention":
    """Softmax attention over the parameters of another mechanism, which stay its own; in evaluation mode."""
    exact = SoftmaxAttention(attention.hidden_size, attention.num_attention_heads)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        setattr(exact, name, getattr(attention, name))
    return exact.eval()


class SoftmaxAttention(Attention):
    """``softmax(Q K^T / sqrt(head_dim)) V`` (Vaswani et al. 2017), with the interface of ``LinformerAttention``.

    Arguments, inputs and errors are those of ``Attention``. Time O(n^2); memory O(n) with the fused kernel.
    """

    def build_memory(
        self,
        source: Float[Tensor, "batch source hidden"],
        documents: Documents,
        readers: Float[Tensor, "batch readers hidden"] | None = None,
        return_weights: bool = False,
    ) -> Keys:
        """Project every token."""
        keys, values = (self.split_heads(linear(source)) for linear in (self.k_proj, self.v_proj))
        return token_keys(keys, values, documents)

    def read(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        memory: Keys,
        start: int = 0,
        return_weights: bool | Through = False,
    ) -> tuple[Float[Tensor, "batch seq hidden"], Tensor | None]:
        """Attend to every token."""
        query = self.split_heads(self.q_proj(hidden_states))
        read, weights = attend(query, memory, self.active_dropout, return_weights)
        return self.merge_heads(read), weights

    def restore_weights(
        self, weights: Float[Tensor, "batch heads seq source"], documents: Documents, queries: bool = True
    ) -> Float[Tensor, "batch heads seq source"]:
        """Here the keys are tokens too."""
        weights = super().restore_weights(weights, documents, queries)
        if not documents.reordered:
            return weights
        return documents.restore_view(weights.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def align_weights(
        self, weights: Float[Tensor, "batch heads seq source"], documents: Documents, queries: bool = True
    ) -> Float[Tensor, "batch heads seq source"]:
        """Here the keys are tokens too."""
        if documents.reordered:
            weights = documents.align_view(weights.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return super().align_weights(weights, documents, queries)
