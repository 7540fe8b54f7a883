"""How learned projections differ from pooling: E as a matrix, beside that of a mean over windows."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from linformers.attention import Documents
from linformers.attention.projection import MeanPoolProjection, Projection
from linformers.attention.sharing import ProjectionBank


@dataclass(frozen=True)
class LearnedProjection:
    """One E, and how near it is to mean pooling with as many slots.

    Args:
        name: in the model's ``ProjectionBank``.
        matrix: E as in the paper, a row for each slot; of the first head where each has its own.
        cosine: Cosine of a row and the same row of pooling, as a mean over rows (and heads).
        nearest_cosine: Cosine of a row and whichever row of pooling is nearest.
        pooling_share: Share of the squared norm of E that lies in the span of the rows of pooling; 1 = it weighs the
            tokens of a window alike, k / n = as much as a random matrix has.
        effective_rank: exp of the entropy of the singular values' shares; k at most.
    """

    name: str
    matrix: Float[Tensor, "slots n"]
    cosine: float
    nearest_cosine: float
    pooling_share: float
    effective_rank: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the matrix."""
        figures = {name: round(value, 6) for name, value in vars(self).items() if isinstance(value, float)}
        return {"name": self.name, "slots": self.matrix.shape[0], "length": self.matrix.shape[1], **figures}


@torch.inference_mode()
def learned_projections(bank: ProjectionBank) -> list[LearnedProjection]:
    """Compare every projection of a bank that has parameters."""
    found = []
    for name, projection in bank.projections.named_children():
        assert isinstance(projection, Projection)
        if not projection.has_parameters:
            continue
        assert projection.max_length is not None
        weight = next(projection.parameters())
        documents = Documents(None, projection.max_length, weight.device)
        found.append(_compare(name, matrix_of(projection, documents, weight.dtype).float().cpu()))
    return found


def matrix_of(projection: Projection, documents: Documents, dtype: torch.dtype) -> Float[Tensor, "heads slots n"]:
    """E as a matrix, for a document without padding; of one head where all share it."""
    tokens = torch.eye(documents.keep.shape[1], dtype=dtype, device=documents.keep.device)[None]
    if projection.num_heads is None:
        return projection(tokens, documents)
    return projection(tokens[:, :, None].expand(-1, -1, projection.num_heads, -1), documents)[0]


def _compare(name: str, matrix: Float[Tensor, "heads slots n"]) -> LearnedProjection:
    slots, n = matrix.shape[-2:]
    documents = Documents(None, n, matrix.device)
    pooling = matrix_of(MeanPoolProjection(None, slots), documents, matrix.dtype)[0]
    unit = torch.nn.functional.normalize(pooling, dim=-1)  # of windows that do not overlap: orthonormal
    inside = matrix @ unit.T
    cosines = inside / matrix.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    values = torch.linalg.svdvals(matrix.double())
    shares = values / values.sum(-1, keepdim=True)
    entropy = -(shares * shares.clamp(min=1e-300).log()).sum(-1)
    return LearnedProjection(
        name=name,
        matrix=matrix[0],
        cosine=float(cosines.diagonal(dim1=-2, dim2=-1).mean()),
        nearest_cosine=float(cosines.amax(-1).mean()),
        pooling_share=float(inside.square().sum() / matrix.square().sum().clamp(min=1e-12)),
        effective_rank=float(entropy.exp().mean()),
    )
