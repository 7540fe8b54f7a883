"""Masked-language-model pretraining, on sequences that grow longer on the way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from transformers import AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel, TrainerCallback, set_seed

from linformers._registration import MODEL_TYPE
from linformers.data.masking import Masking
from linformers.data.packing import pack
from linformers.data.streams import Curriculum, MaskedBlocks, collate
from linformers.training.recipe import Stage
from linformers.training.runner import History, TrainSettings, fit


def training_blocks(
    documents: Sequence[np.ndarray],
    stages: Sequence[Stage],
    settings: TrainSettings,
    masking: Masking,
    *,
    bos_token_id: int,
    eos_token_id: int,
) -> Curriculum:
    """The masked blocks of all stages; every item holds as many tokens as the longest stage's sequence.

    Args:
        documents: token ids, without special tokens.
        stages: lengths, each of which divides the longest, with shares that add up to 1.
        settings: of the run: steps, batch size (in items) and seed.
        masking: which tokens are predicted.
        bos_token_id: opens every sequence.
        eos_token_id: closes every sequence and every document.

    Raises:
        ValueError: lengths or shares that do not fit together.
    """
    longest = max(stage.length for stage in stages)
    for stage in stages:
        if longest % stage.length:
            raise ValueError(f"stage length={stage.length} must divide the longest, {longest}")
    if abs(sum(stage.share for stage in stages) - 1) > 1e-6:
        raise ValueError(f"the shares of the stages add up to {sum(stage.share for stage in stages)}; make them 1")
    parts: list[tuple[Dataset, int]] = []
    done, share = 0, 0.0
    for number, stage in enumerate(stages):
        share += stage.share
        steps, done = round(share * settings.steps) - done, round(share * settings.steps)
        group = longest // stage.length
        blocks = pack(documents, length=stage.length, bos_token_id=bos_token_id, eos_token_id=eos_token_id)
        total = steps * settings.batch_size * group
        # Stages must not repeat each other's random numbers: the seed of each is its own.
        parts.append((MaskedBlocks(blocks, masking, seed=settings.seed * 1000 + number, total=total), group))
    return Curriculum(parts)


def pretrain(
    config: PreTrainedConfig,
    train: Dataset,
    evaluation: Dataset | None,
    settings: TrainSettings,
    output_dir: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[PreTrainedModel, History]:
    """Build a model from a configuration and train it with masked language modelling.

    Initial weights come from ``settings.seed`` alone, so that models of the same shape start alike.

    Returns:
        The trained model, and the history; losses are in nats per predicted token.
    """
    set_seed(settings.seed)
    model = AutoModelForMaskedLM.from_config(config)
    ours = config.model_type == MODEL_TYPE
    batches = _without_logits if ours else collate
    history = fit(model, train, evaluation, settings, output_dir, callbacks=callbacks, collate=batches)
    return model, history


def _without_logits(items: Sequence[Any]) -> dict[str, Any]:
    """A batch that asks for the loss alone."""
    return {**collate(items), "return_logits": False}
