"""The attention mechanisms. Needs torch only."""

from linformers.attention.base import Attention
from linformers.attention.kfree import KFreeAttention
from linformers.attention.linformer import LinformerAttention
from linformers.attention.padding import Padding
from linformers.attention.projection import PROJECTION_KINDS, Projection, build_projection
from linformers.attention.sharing import SHARING_MODES, ProjectionBank
from linformers.attention.softmax import SoftmaxAttention

__all__ = [
    "PROJECTION_KINDS",
    "SHARING_MODES",
    "Attention",
    "KFreeAttention",
    "LinformerAttention",
    "Padding",
    "Projection",
    "ProjectionBank",
    "SoftmaxAttention",
    "build_projection",
]
