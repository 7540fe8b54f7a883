"""Everything that decides a fine-tuning run."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from linformers.checks import check_choice, check_int
from linformers.data.examples import Columns
from linformers.data.tasks_rules import Kind
from linformers.files.settings import differences

PLAN = "finetune.json"


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """A fine-tuning run.

    Args:
        model: folder or hub id of an encoder that transformers loads; weights as safetensors.
        output: folder of the run.
        task: ``sst2``, ``imdb``, ``qnli``, ``qqp``, or a file of training rows (JSONL, CSV, TSV, Parquet); of images or
            recordings a folder with a subfolder for each class, or a Parquet file.
        modality: what the rows are: ``text``, ``image`` or ``audio``.
        data: folder with a named task's files; None = the Hugging Face hub.
        extra_train: files with more training rows.
        validation: file of the rows that choose the step; None = set aside from the training rows.
        test: file of the rows that results are reported on; None = a named task's own, else the validation rows.
        text: column of the text, image or recording; None = found by itself, as for the next two.
        pair: column of the second text.
        label: column of the label.
        kind: ``single_label``, ``multi_label`` or ``regression``; None = told by the labels.
        train_size: rows to train on, a subset that keeps the shares of the labels; None = all.
        validation_size: likewise; where rows are set aside, None = a tenth, at most 1,000.
        test_size: likewise.
        split_seed: of the subsets and of the rows set aside.
        max_reject_share: stop when more of the rows are unusable.
        teacher: a classifier for the same classes, with the same tokenizer, layers and width, to imitate; None = none.
        hidden_weight: of the distance to the teacher's hidden states in the loss.
        logits_weight: of the distance to its predictions.
        class_weights: ``balanced`` counts an error on a rare class as much as one on a frequent class.
        max_length: tokens of the longest input, which is cut there; None = what the model can, at most 512.
        epochs: passes over the training rows.
        batch_size: rows a step.
        evaluation_batch_size: rows at once without gradients.
        learning_rate: the peak of AdamW's rate; then a line to 0.
        warmup_share: share of the steps in which the rate rises.
        weight_decay: of AdamW, on matrices only.
        max_grad_norm: gradients are clipped to this norm.
        evaluate_every: steps between evaluations; None = an epoch.
        early_stopping: stop after so many evaluations without a better one; None = never.
        save_every: steps between checkpoints; a crash loses at most this.
        seed: of everything random in training.
        dtype: of the weights while they are trained, whatever they were stored in; ``bfloat16`` halves the memory and
            learns less well.
        device: ``auto`` takes a GPU where there is one.
    """

    model: str
    output: str
    task: str
    modality: Literal["text", "image", "audio"] = "text"
    data: str | None = None
    extra_train: tuple[str, ...] = ()
    validation: str | None = None
    test: str | None = None
    text: str | None = None
    pair: str | None = None
    label: str | None = None
    kind: Kind | None = None
    train_size: int | None = None
    validation_size: int | None = None
    test_size: int | None = None
    split_seed: int = 0
    max_reject_share: float = 0.01
    teacher: str | None = None
    hidden_weight: float = 1.0
    logits_weight: float = 1.0
    class_weights: Literal["none", "balanced"] = "none"
    max_length: int | None = None
    epochs: float = 3.0
    batch_size: int = 32
    evaluation_batch_size: int = 32
    learning_rate: float = 5e-5
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    evaluate_every: int | None = None
    early_stopping: int | None = None
    save_every: int = 250
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, ("float32", "bfloat16"))
        for name in ("batch_size", "evaluation_batch_size", "save_every"):
            check_int(name, getattr(self, name))
        for name in ("train_size", "validation_size", "test_size", "evaluate_every", "early_stopping"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name))
        if self.max_length is not None:
            check_int("max_length", self.max_length, minimum=8)
        for name in ("seed", "split_seed"):
            check_int(name, getattr(self, name), minimum=0)
        for name in ("epochs", "learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        for name in ("hidden_weight", "logits_weight", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"warmup_share={self.warmup_share} must be at least 0 and below 1")
        check_choice("modality", self.modality, ("text", "image", "audio"))
        for name in ("data", "pair", "max_length", "teacher") if self.modality != "text" else ():
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is for text, not modality={self.modality!r}: leave it out"
                )
        check_choice("class_weights", self.class_weights, ("none", "balanced"))
        check_choice("device", self.device, ("auto", "cpu"))
        if self.kind is not None:
            check_choice("kind", self.kind, ("single_label", "multi_label", "regression"))
        if self.teacher is not None and self.hidden_weight == self.logits_weight == 0:
            raise ValueError(
                f"teacher={self.teacher!r} has no effect: hidden_weight and logits_weight are 0; raise one"
            )

    @property
    def columns(self) -> Columns:
        """The columns asked for."""
        return Columns(text=self.text, pair=self.pair, label=self.label)

    def as_json(self) -> str:
        """What a run's folder keeps."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def differences(self, plan: Path) -> list[str]:
        """What the settings of another run, at this path, have that is different; its folder is none."""
        before: Any = json.loads(plan.read_text(encoding="utf-8"))
        now: Any = json.loads(self.as_json())
        return differences({"modality": "text", "dtype": "float32", **before, "output": ""}, {**now, "output": ""})
