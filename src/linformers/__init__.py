"""Linformers: Transformer encoders whose attention is linear in sequence length.

``import linformers`` loads neither torch nor transformers: each public name is imported when it is first used
(PEP 562). It also makes transformers' Auto classes and pipelines know the model type ``linformer``, and every encoder
that takes an attention implementation, and MPNet, ``attn_implementation="linformers"``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from linformers._registration import register_with_transformers
from linformers._version import __version__

if TYPE_CHECKING:
    from linformers.analysis.advise import advise_projected_dims
    from linformers.analysis.spectrum import spectrum
    from linformers.attention import (
        CausalLinformerAttention,
        KFreeAttention,
        LinformerAttention,
        LinformerEncoder,
        LinformerEncoderLayer,
        ProjectionBank,
        SoftmaxAttention,
    )
    from linformers.classification.settings import FinetuneSettings
    from linformers.commands.adapt import AdaptSettings
    from linformers.commands.distil import DistilSettings
    from linformers.commands.export import export_onnx
    from linformers.commands.functions import adapt, distil, embed, finetune, pretrain, score
    from linformers.convert.interface import configure
    from linformers.convert.linearise import linearise
    from linformers.convert.linformer import to_linformer
    from linformers.models import (
        LinformerAudioModel,
        LinformerConfig,
        LinformerForAudioClassification,
        LinformerForImageClassification,
        LinformerForMaskedLM,
        LinformerForMultipleChoice,
        LinformerForQuestionAnswering,
        LinformerForSequenceClassification,
        LinformerForTokenClassification,
        LinformerImageModel,
        LinformerModel,
    )
    from linformers.models.resize import extend_positions
    from linformers.scoring.embedder import Embedder, Vectors
    from linformers.scoring.settings import EmbedSettings, ScoreSettings, VectorSettings
    from linformers.training.recipe import Recipe, load_recipe

__all__ = [
    "AdaptSettings",
    "CausalLinformerAttention",
    "DistilSettings",
    "EmbedSettings",
    "Embedder",
    "FinetuneSettings",
    "KFreeAttention",
    "LinformerAttention",
    "LinformerAudioModel",
    "LinformerConfig",
    "LinformerEncoder",
    "LinformerEncoderLayer",
    "LinformerForAudioClassification",
    "LinformerForImageClassification",
    "LinformerForMaskedLM",
    "LinformerForMultipleChoice",
    "LinformerForQuestionAnswering",
    "LinformerForSequenceClassification",
    "LinformerForTokenClassification",
    "LinformerImageModel",
    "LinformerModel",
    "ProjectionBank",
    "Recipe",
    "ScoreSettings",
    "SoftmaxAttention",
    "VectorSettings",
    "Vectors",
    "__version__",
    "adapt",
    "advise_projected_dims",
    "configure",
    "distil",
    "embed",
    "export_onnx",
    "extend_positions",
    "finetune",
    "linearise",
    "load_recipe",
    "pretrain",
    "score",
    "spectrum",
    "to_linformer",
]

_ATTENTION = {
    "CausalLinformerAttention",
    "KFreeAttention",
    "LinformerAttention",
    "LinformerEncoder",
    "LinformerEncoderLayer",
    "ProjectionBank",
    "SoftmaxAttention",
}
_ELSEWHERE = {
    "AdaptSettings": "linformers.commands.adapt",
    "adapt": "linformers.commands.functions",
    "advise_projected_dims": "linformers.analysis.advise",
    "DistilSettings": "linformers.commands.distil",
    "EmbedSettings": "linformers.scoring.settings",
    "Embedder": "linformers.scoring.embedder",
    "FinetuneSettings": "linformers.classification.settings",
    "Recipe": "linformers.training.recipe",
    "ScoreSettings": "linformers.scoring.settings",
    "VectorSettings": "linformers.scoring.settings",
    "Vectors": "linformers.scoring.embedder",
    "configure": "linformers.convert.interface",
    "distil": "linformers.commands.functions",
    "embed": "linformers.commands.functions",
    "extend_positions": "linformers.models.resize",
    "export_onnx": "linformers.commands.export",
    "finetune": "linformers.commands.functions",
    "linearise": "linformers.convert.linearise",
    "load_recipe": "linformers.training.recipe",
    "pretrain": "linformers.commands.functions",
    "score": "linformers.commands.functions",
    "spectrum": "linformers.analysis.spectrum",
    "to_linformer": "linformers.convert.linformer",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        # With `name` and `obj` set, Python adds "Did you mean ...?" to the message of a misspelling.
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}", name=name, obj=importlib.import_module(__name__)
        )
    module = "linformers.attention" if name in _ATTENTION else _ELSEWHERE.get(name, "linformers.models")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_transformers()
