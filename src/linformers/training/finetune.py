"""Fine-tune a pretrained encoder as a classifier."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification, PreTrainedModel, TrainerCallback, set_seed
from transformers.trainer_utils import EvalPrediction

from linformers.training.runner import History, TrainSettings, fit


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of examples whose highest logit is the right class."""
    return {"accuracy": float(np.mean(np.argmax(prediction.predictions, axis=-1) == prediction.label_ids))}


def load_classifier(pretrained: Path | str, class_names: Sequence[str], **overrides: object) -> PreTrainedModel:
    """The pretrained encoder with a new classifier on top.

    Args:
        pretrained: folder of a saved model.
        class_names: names of the classes, kept in the configuration for pipelines.
        overrides: fields of the configuration to change, for instance ``classifier_pooling="mean"``.
    """
    return AutoModelForSequenceClassification.from_pretrained(
        pretrained,
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
        **overrides,
    )


def finetune(
    pretrained: Path | str,
    class_names: Sequence[str],
    train: Dataset,
    evaluation: Dataset,
    settings: TrainSettings,
    output_dir: Path,
    callbacks: Sequence[TrainerCallback] = (),
    **overrides: object,
) -> tuple[PreTrainedModel, History]:
    """Train a classifier from a pretrained encoder; see ``load_classifier``.

    Returns:
        The trained model, and the history, whose evaluations hold ``loss`` and ``accuracy``.
    """
    set_seed(settings.seed)
    model = load_classifier(pretrained, class_names, **overrides)
    history = fit(model, train, evaluation, settings, output_dir, callbacks=callbacks, compute_metrics=accuracy)
    return model, history
