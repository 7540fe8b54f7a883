"""Fine-tune a pretrained encoder as a classifier."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch.optim import AdamW
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification, PreTrainedModel, TrainerCallback, set_seed
from transformers.trainer_utils import EvalPrediction

from linformers.models.heads import LinformerClassificationHead
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


@torch.no_grad()
def start_head(model: PreTrainedModel, sequences: Int[np.ndarray, "examples seq"], batch_size: int = 16) -> None:
    """Start the classifier's first layer so that it whitens the pooled features of some training sequences.

    After a short pretraining the means of long texts differ by a few hundredths of their size; a head that starts
    at random sees the same vector for all of them, and does not learn (see docs/log.md).
    """
    head, encoder = model.get_submodule("classifier"), model.base_model
    assert isinstance(head, LinformerClassificationHead)
    device = next(model.parameters()).device
    model.eval()
    pooled = torch.cat(
        [
            head.pool(encoder(torch.from_numpy(part).to(device)).last_hidden_state, None)
            for part in np.array_split(sequences, max(len(sequences) // batch_size, 1))
        ]
    )
    values, vectors = torch.linalg.eigh(torch.cov(pooled.T))
    whitening = (vectors * (values + 0.01 * values.mean()).rsqrt()) @ vectors.T
    head.dense.weight.copy_(whitening)
    head.dense.bias.copy_(-whitening @ pooled.mean(0))


def finetune(
    pretrained: Path | str,
    class_names: Sequence[str],
    train: Dataset,
    evaluation: Dataset,
    settings: TrainSettings,
    output_dir: Path,
    callbacks: Sequence[TrainerCallback] = (),
    head_learning_rate: float | None = None,
    head_examples: Int[np.ndarray, "examples seq"] | None = None,
    **overrides: object,
) -> tuple[PreTrainedModel, History]:
    """Train a classifier from a pretrained encoder; see ``load_classifier``.

    Args:
        pretrained: folder of a saved model.
        class_names: names of the classes.
        train: items in the order of training.
        evaluation: held-out items.
        settings: length and rate of the run.
        output_dir: for what Trainer writes.
        callbacks: watch the run.
        head_learning_rate: of the classifier on top; None = that of the encoder.
        head_examples: training sequences from whose features the head starts (``start_head``); None = at random.
        overrides: fields of the configuration to change.

    Returns:
        The trained model, and the history, whose evaluations hold ``loss`` and ``accuracy``.
    """
    set_seed(settings.seed)
    model = load_classifier(pretrained, class_names, **overrides)
    if head_examples is not None:
        start_head(model, head_examples)
    optimizer = None
    if head_learning_rate is not None:
        rates = [(model.base_model, settings.learning_rate), (model.get_submodule("classifier"), head_learning_rate)]
        optimizer = AdamW(
            [{"params": list(part.parameters()), "lr": rate} for part, rate in rates],
            betas=(0.9, settings.beta2),
            weight_decay=settings.weight_decay,
        )
    history = fit(
        model,
        train,
        evaluation,
        settings,
        output_dir,
        callbacks=callbacks,
        compute_metrics=accuracy,
        optimizer=optimizer,
    )
    return model, history
