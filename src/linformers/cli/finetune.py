"""``linformers finetune``: a classifier or a regression from any encoder, with or without a teacher."""

from typing import Annotated

import typer

from linformers.cli.reading import Delimiter, Encoding, columns
from linformers.cli.training import calm_threads, leave_with


def finetune(
    model: Annotated[str, typer.Option(help="Folder or hub id of an encoder.", show_default=False)],
    task: Annotated[
        str,
        typer.Option(
            help="sst2, imdb, qnli, qqp, or a JSONL, CSV, TSV, Parquet or CoNLL file; of images and audio (WAV) a "
            "folder with a subfolder for each class, or a Parquet file."
        ),
    ],
    output: Annotated[str, typer.Option(help="Folder for the run.", show_default=False)],
    modality: Annotated[str, typer.Option(help="text, image or audio.")] = "text",
    data: Annotated[str | None, typer.Option(help="Folder with a named task's files.", show_default="the hub")] = None,
    extra_train: Annotated[list[str] | None, typer.Option(help="File with more training rows. Repeatable.")] = None,
    validation: Annotated[
        str | None, typer.Option(help="File of the rows that choose the step.", show_default="set aside")
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="File of the rows to report on.", show_default="the task's, or validation")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of the text, image or recording; of texts several are joined by a blank line. Repeatable.",
            show_default="found",
        ),
    ] = None,
    pair: Annotated[
        str | None, typer.Option(help="Column of the second text, or of the context.", show_default="found")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of the label, tags, entities or answers.", show_default="found")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Columns of 0 and 1, as toxic,insult,threat; of tags that are numbers their names.",
            show_default="none",
        ),
    ] = None,
    id: Annotated[
        list[str] | None, typer.Option(help="Column to carry over. Repeatable.", show_default="file and row")
    ] = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    kind: Annotated[
        str | None,
        typer.Option(help="single_label, multi_label, regression, tags or answers.", show_default="told by the file"),
    ] = None,
    train_size: Annotated[int | None, typer.Option(help="Rows to train on.", show_default="all")] = None,
    validation_size: Annotated[
        float | None,
        typer.Option(
            help="Rows, or below 1 their share, that choose the step.",
            show_default="a tenth, at most 1,000, or the file",
        ),
    ] = None,
    test_size: Annotated[
        float | None,
        typer.Option(
            help="Rows, or below 1 their share, to report on; without a test file set aside.", show_default="all of it"
        ),
    ] = None,
    split_seed: Annotated[int, typer.Option(help="Seed of subsets and of the rows set aside.")] = 0,
    max_reject_share: Annotated[float, typer.Option(help="Stop when more of the rows are unusable.")] = 0.01,
    teacher: Annotated[
        str | None, typer.Option(help="Classifier to imitate, of the same shape.", show_default="none")
    ] = None,
    hidden_weight: Annotated[float, typer.Option(help="Of the teacher's hidden states in the loss.")] = 1.0,
    logits_weight: Annotated[float, typer.Option(help="Of the teacher's predictions in the loss.")] = 1.0,
    class_weights: Annotated[str, typer.Option(help="none or balanced.")] = "none",
    select_by: Annotated[
        str | None,
        typer.Option(help="Metric that chooses the step, as f1, auroc or loss.", show_default="accuracy, F1 or RMSE"),
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="Class that F1 is of, where there are two.", show_default="the rarer")
    ] = None,
    baseline: Annotated[
        bool, typer.Option(help="Measure logistic regression on bags of words on the same rows, too.")
    ] = True,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Tokens where inputs are cut.", show_default="the model's; labels of whole texts: at most 512"
        ),
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the training rows.")] = 3.0,
    batch_size: Annotated[int, typer.Option(help="Rows a step.")] = 32,
    evaluation_batch_size: Annotated[int, typer.Option(help="Rows at once without gradients.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak of the rate.")] = 5e-5,
    evaluate_every: Annotated[
        int | None, typer.Option(help="Steps between evaluations.", show_default="an epoch")
    ] = None,
    early_stopping: Annotated[
        int | None, typer.Option(help="Stop after so many evaluations without a better one.", show_default="never")
    ] = None,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 250,
    seed: Annotated[int, typer.Option(help="Seed of everything random in training.")] = 0,
    dtype: Annotated[
        str,
        typer.Option(help="float32 or bfloat16: the weights in training, whatever they are stored in."),
    ] = "float32",
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
) -> None:
    """Fine-tune an encoder on labelled texts (whole documents up to --max-length), images or audio, and measure it.

    The columns tell what is learned: text and label; tokens and tags, or text and entities (start, end, label): a
    tagger; question, context and answers, or SQuAD's JSON: a model that answers.

    The same command again goes on where the run stopped, from the newest checkpoint that is whole. SIGTERM and Ctrl-C
    write a checkpoint first; exit codes: 0 done, 1 failed, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    options = dict(locals())
    options |= {"extra_train": tuple(extra_train or ()), "id": tuple(id or ()), "text": columns(text)}
    options["labels"] = tuple(name.strip() for name in (labels or "").split(",") if name.strip())
    for name, size in (("validation_size", validation_size), ("test_size", test_size)):
        options[name] = int(size) if size is not None and size >= 1 and size.is_integer() else size
    calm_threads()

    from linformers.classification.settings import FinetuneSettings
    from linformers.commands.finetune import run_finetune

    leave_with(run_finetune(FinetuneSettings(**options)))
