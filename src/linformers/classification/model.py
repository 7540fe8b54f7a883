"""Encoders with a classifier on top, ours or transformers'."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from linformers.convert.agreement import check_loaded
from linformers.convert.load import longest_input
from linformers.convert.surroundings import encoder_folder
from linformers.data.tasks import Task
from linformers.data.tasks_annotated import AnnotatedTask
from linformers.data.tasks_rules import PROBLEM_TYPES
from linformers.models.heads import LinformerClassificationHead
from linformers.training.loading import LOCAL, REPORTED, check_pair, reported

DEFAULT_MAX_LENGTH = 512


def load_model(
    option: str,
    name: str,
    task: Task | AnnotatedTask,
    auto: Any = AutoModelForSequenceClassification,
    dtype: str = "float32",
) -> tuple[PreTrainedModel, bool]:
    """A model for the classes of a task, and whether its classifier is new.

    A saved classifier is kept where it has the classes of the task in their order (or none of its own); else a new one
    takes its place. ``auto`` loads it, in ``dtype``, which need not be that of its file.

    Raises:
        ValueError: transformers cannot load it, or it holds no weights for the encoder.
    """
    with reported(option, name):
        folder = encoder_folder(name)
        config: Any = AutoConfig.from_pretrained(folder, **LOCAL)
        saved = [config.id2label[index] for index in sorted(config.id2label)]
        keep = saved == task.classes or saved == [f"LABEL_{index}" for index in range(len(task.classes))]
        config.id2label = dict(enumerate(task.classes))
        config.label2id = {label: index for index, label in enumerate(task.classes)}
        config.problem_type = PROBLEM_TYPES[task.kind] if isinstance(task, Task) else None
        fresh = auto.from_config(config, **LOCAL)
        model, info = auto.from_pretrained(
            folder, config=config, use_safetensors=True, dtype=getattr(torch, dtype), **REPORTED, **LOCAL
        )
    base = model.base_model_prefix + "."
    absent = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    lost = sorted(key for key in absent if key.startswith(base) and ".pooler." not in key)
    if lost:
        raise ValueError(
            f"{option}={name!r} holds no weights that fit {lost[0]} (one of {len(lost)}); give a whole encoder"
        )
    if keep and not absent:
        return model, False
    head = {key: value for key, value in fresh.state_dict().items() if key in absent or not key.startswith(base)}
    model.load_state_dict(head, strict=False)
    if isinstance(task, Task) and task.kind == "regression":  # start from the mean, which may be far from 0
        last = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 1][-1]
        nn.init.constant_(last.bias, float(task.train.labels.mean()))
    return model, True


def load_teacher(name: str, student: PreTrainedModel, tokenizer: Tokenizer, max_length: int) -> PreTrainedModel:
    """A trained classifier that fits the student, in its dtype and without gradients.

    Raises:
        ValueError: it cannot be loaded, or has other classes, tokens, layers or width.
    """
    with reported("teacher", name):
        teacher, info = AutoModelForSequenceClassification.from_pretrained(
            encoder_folder(name), use_safetensors=True, dtype=student.dtype, **REPORTED, **LOCAL
        )
    ours: Any = student.config
    theirs: Any = teacher.config
    if info["missing_keys"]:
        raise ValueError(f"teacher={name!r} has no trained classifier; fine-tune it on the task first")
    check_loaded(f"teacher={name!r}", teacher, info)
    if theirs.id2label != ours.id2label:
        raise ValueError(
            f"teacher={name!r} tells apart {list(theirs.id2label.values())}, but the task has "
            f"{list(ours.id2label.values())}; fine-tune the teacher on this task"
        )
    check_pair(name, teacher, student, tokenizer, "max_length", max_length)
    return teacher.eval().requires_grad_(False)


def choose_max_length(
    asked: int | None, model: PreTrainedModel, tokenizer: Tokenizer, usual: int | None = DEFAULT_MAX_LENGTH
) -> int:
    """The longest input of a run; unasked at most ``usual`` tokens, or (None) all that the model reads.

    Raises:
        ValueError: more than the model can read.
    """
    most = longest_input(model)
    if asked is None:
        return min(most, tokenizer.model_max_length, most if usual is None else usual)
    if asked > most:
        raise ValueError(
            f"max_length={asked} is more than the {most:,} tokens the model can read; lower it, or make a longer model "
            f"of it: linformers convert --max-length {asked}, or model.resize_max_length({asked}) of a Linformer"
        )
    return asked


@torch.no_grad()
def start_head(model: PreTrainedModel, sequences: Int[np.ndarray, "examples seq"]) -> None:
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
            for part in np.array_split(sequences, max(len(sequences) // 16, 1))
        ]
    )
    values, vectors = torch.linalg.eigh(torch.cov(pooled.T))
    whitening = (vectors * (values + 0.01 * values.mean()).rsqrt()) @ vectors.T
    head.dense.weight.copy_(whitening)
    head.dense.bias.copy_(-whitening @ pooled.mean(0))
