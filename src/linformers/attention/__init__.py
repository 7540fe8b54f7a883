"""The attention mechanisms. Needs torch only."""

from linformers.attention.base import Attention
from linformers.attention.causal import CausalLinformerAttention
from linformers.attention.documents import Documents
from linformers.attention.kfree import KFreeAttention
from linformers.attention.layers import LinformerEncoder, LinformerEncoderLayer
from linformers.attention.linformer import LinformerAttention
from linformers.attention.projection import Projection
from linformers.attention.sharing import PROJECTION_KINDS, SHARING_MODES, ProjectionBank
from linformers.attention.softmax import SoftmaxAttention

__all__ = [
    "PROJECTION_KINDS",
    "SHARING_MODES",
    "Attention",
    "CausalLinformerAttention",
    "Documents",
    "KFreeAttention",
    "LinformerAttention",
    "LinformerEncoder",
    "LinformerEncoderLayer",
    "Projection",
    "ProjectionBank",
    "SoftmaxAttention",
]
