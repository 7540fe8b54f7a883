"""Folders of sentence-transformers of a few thousand weights."""

from pathlib import Path
from typing import Any

from finetune_helpers import make_model


def make_sentences(
    folder: Path, kind: str = "bert", pooling: Any = "mean", dense: int = 0, prompts: dict[str, str] | None = None
) -> Path:
    """An encoder with random weights that tell texts apart, its pooling, and vectors of length 1.

    Args:
        folder: Where to write it.
        kind: ``linformer`` (our class), ``bert``, or ``linear`` (BERT with linear attention, in its own class).
        pooling: Mode, or modes, of sentence-transformers.
        dense: Numbers of a dense layer on top; 0 = none.
        prompts: Prompts by name; one that is called ``default`` is put before every text.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    import linformers

    encoder = folder.with_name(f"{folder.name}-encoder")
    make_model(encoder, "linformer" if kind == "linformer" else "bert", initializer_range=0.3)
    modules: list[Any] = [Transformer(str(encoder)), Pooling(32, pooling_mode=pooling)]
    if dense:
        modules.append(Dense(32 * (1 if isinstance(pooling, str) else len(pooling)), dense))
    model = SentenceTransformer(
        modules=[*modules, Normalize()],
        prompts=prompts,
        default_prompt_name="default" if prompts and "default" in prompts else None,
        device="cpu",
    )
    if kind == "linear":
        linformers.configure(model, projected_dim=8, exact_length=16, local_window=4)
    model.save_pretrained(str(folder))
    return folder


def theirs(folder: Path, texts: list[str], **options: Any) -> Any:
    """What sentence-transformers makes of texts."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(texts, show_progress_bar=False, **options)
