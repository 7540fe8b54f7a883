"""Everything that decides a fine-tuning run."""

from typing import Annotated, Literal

from pydantic import Field

from linformers.data.examples import Columns
from linformers.data.tasks_annotated import AnnotatedKind
from linformers.data.tasks_rules import Kind
from linformers.files.forms import Form
from linformers.files.settings import Count, Natural, NonNegative, Positive, RunSettings, Share

PLAN = "finetune.json"


class FinetuneSettings(RunSettings):
    """A fine-tuning run.

    Layouts of the rows, told by their columns: a label for a text, a pair, an image or a recording (``text`` and
    ``label``); tags of words (``tokens`` and ``tags``, or CoNLL); entities by their characters (``text`` and
    ``entities``, each with ``start``, ``end`` and ``label``); answers (``question``, ``context`` and ``answers``, or
    SQuAD's JSON).

    Args:
        model: Path or hub id of an encoder that transformers loads; weights as safetensors.
        task: The task: ``sst2``, ``imdb``, ``qnli``, ``qqp``, or a file of training rows (JSONL, CSV, TSV, Parquet); of
            images or recordings a folder with a subfolder for each class, or a Parquet file. Tags come as CoNLL, too.
        modality: The kind of input: ``text``, ``image`` or ``audio``.
        data: Path of the folder with a named task's files; None = the Hugging Face hub.
        extra_train: Paths of files with more training rows.
        validation: Path of the file of the rows that choose the step; None = set aside from the training rows.
        test: Path of the file of the rows that results are reported on; None = a named task's own, else the validation
            rows.
        text: The column of the text, image or recording, or columns of text that are joined by a blank line; of tagged
            words that of the lists of words, of answers that of the question. None = found by itself, as for the next
            two.
        pair: The column of the second text; of answers that of the context.
        label: The column of the label, of the lists of tags or entities, or of the answers.
        labels: In its place columns of 0 and 1, each named like its class: a task with several labels. Of tags that
            are numbers their names, in order.
        id: Columns to carry over to predictions and rejects.
        delimiter: What stands between the fields of CSV; None = found, as for the next.
        encoding: The encoding of CSV and JSON.
        kind: The kind of labels: of texts ``single_label``, ``multi_label`` or ``regression``; in texts ``tags`` or
            ``answers``. None = told by the columns and the labels.
        train_size: Rows to train on, a subset that keeps the shares of the labels; None = all.
        validation_size: Rows to validate on, or (below 1) their share; None = all of the file, or where rows are set
            aside a tenth, at most 1,000. Labels keep their shares.
        test_size: Likewise rows to test on; None = all of the file. Without one they are set aside.
        split_seed: The seed of the subsets and of the rows set aside.
        max_reject_share: The largest share of unusable rows; with more the run stops.
        teacher: A classifier for the same classes, with the same tokenizer, layers and width, to imitate; None = none.
        hidden_weight: The weight of the distance to the teacher's hidden states in the loss.
        logits_weight: The weight of the distance to its predictions.
        class_weights: The weights of classes: ``balanced`` counts an error on a rare class as much as one on a
            frequent class.
        select_by: The metric on the validation rows that chooses the step: of one class for each row ``accuracy``,
            ``f1_macro``, ``f1`` (of the positive class of two), ``matthews``, ``auroc`` or ``loss``; of several labels
            ``f1_macro``, ``f1_micro``, ``accuracy``, ``auroc`` or ``loss``; of numbers ``rmse``, ``pearson``,
            ``spearman`` or ``loss``; of tags ``f1`` (of entities), ``f1_macro``, ``precision``, ``recall``,
            ``accuracy`` or ``loss``; of answers ``f1``, ``exact_match`` or ``loss``. None = the first; with balanced
            classes ``f1_macro``.
        positive: The class that F1 is of, where there are two; None = that of the
            name 1, true or yes, else the rarer one in training.
        baseline: Whether logistic regression on bags of words (TF-IDF) is measured on the same rows.
        max_length: Tokens of the longest input, which is cut there; None = what the model can, of labels of whole texts
            at most 512.
        epochs: Passes over the training rows.
        batch_size: Rows a step.
        evaluation_batch_size: Rows at once without gradients.
        learning_rate: The peak of AdamW's rate; then a line to 0.
        warmup_share: The share of the steps in which the rate rises.
        weight_decay: AdamW's weight decay, on matrices only.
        max_grad_norm: The norm to which gradients are clipped.
        evaluate_every: Steps between evaluations; None = an epoch.
        early_stopping: Evaluations without a better one after which the run stops; None = never.
        save_every: Steps between checkpoints; a crash loses at most this.
        seed: The seed of everything random in training.
        dtype: The type of the weights while they are trained, whatever they were stored in; ``bfloat16`` halves the
            memory and learns less well.
        device: The device: ``auto`` takes a GPU where there is one.
    """

    model: str
    task: str
    modality: Literal["text", "image", "audio"] = "text"
    data: str | None = None
    extra_train: tuple[str, ...] = ()
    validation: str | None = None
    test: str | None = None
    text: str | tuple[str, ...] | None = None
    pair: str | None = None
    label: str | None = None
    labels: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    delimiter: str | None = None
    encoding: str | None = None
    kind: Kind | AnnotatedKind | None = None
    train_size: Count | None = None
    validation_size: int | float | None = None
    test_size: int | float | None = None
    split_seed: Natural = 0
    max_reject_share: Share = 0.01
    teacher: str | None = None
    hidden_weight: NonNegative = 1.0
    logits_weight: NonNegative = 1.0
    class_weights: Literal["none", "balanced"] = "none"
    select_by: str | None = None
    positive: str | None = None
    baseline: bool = True
    max_length: Annotated[int, Field(ge=8)] | None = None
    epochs: Positive = 3.0
    batch_size: Count = 32
    evaluation_batch_size: Count = 32
    learning_rate: Positive = 5e-5
    warmup_share: Share = 0.1
    weight_decay: NonNegative = 0.01
    max_grad_norm: Positive = 1.0
    evaluate_every: Count | None = None
    early_stopping: Count | None = None
    save_every: Count = 250
    seed: Natural = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu"] = "auto"

    def _check(self) -> None:
        for name in ("data", "pair", "max_length", "teacher") if self.modality != "text" else ():
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is for text, not modality={self.modality!r}: leave it out"
                )
        if self.modality != "text":
            given = {"text": isinstance(self.text, tuple), "labels": self.labels, "id": self.id}
            for name in (name for name, value in given.items() if value):
                raise ValueError(f"{name}={getattr(self, name)!r} is for text, not modality={self.modality!r}")
        if self.labels and self.kind != "tags" and (self.label is not None or self.kind not in (None, "multi_label")):
            raise ValueError(f"labels={','.join(self.labels)} are a multi-label task: leave label and kind out")
        for name in ("validation_size", "test_size"):
            size = getattr(self, name)
            if size is not None and not (0 < size < 1 or (size >= 1 and size == int(size))):
                raise ValueError(f"{name}={size:g} must be a number of rows (1, 2, ...) or a share between 0 and 1")
        _ = self.form, self.columns  # refuse what is wrong
        if self.teacher is not None and self.hidden_weight == self.logits_weight == 0:
            raise ValueError(
                f"teacher={self.teacher!r} has no effect: hidden_weight and logits_weight are 0; raise one"
            )

    @property
    def columns(self) -> Columns:
        """The columns asked for."""
        return Columns(text=self.text, pair=self.pair, label=self.label, labels=self.labels, id=self.id)

    @property
    def form(self) -> Form:
        """What is given of the form of the files."""
        return Form(self.delimiter, self.encoding)
