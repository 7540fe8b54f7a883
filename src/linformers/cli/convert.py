"""``linformers convert``: a trained encoder with linear attention, in its own class or as a Linformer."""

import json
import shlex
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from linformers.cli.reading import Delimiter, Encoding, MaxRejectShare
from linformers.files.sources import DocumentUnit

_OF_LINFORMER = (
    "projected_dim",
    "max_length",
    "projection_kind",
    "projection_sharing",
    "projection_init",
    "local_window",
    "global_tokens",
    "exact_length",
    "softmax_layers",
    "positions",
    "attention_type",
)
_OF_OWN = (
    "projected_dim",
    "max_length",
    "projection_kind",
    "local_window",
    "global_tokens",
    "exact_length",
    "segment_length",
    "context_weight",
    "trained_length",
    "softmax_layers",
    "positions",
)
# What a Linformer-RoBERTa of fairseq leaves a choice about, and what its weights do not say.
_OF_FAIRSEQ = ("max_length", "positions", "num_attention_heads", "classification_head")
_ALWAYS = {"model", "output", "architecture", "push_to_hub"}
_MEASURING = {"texts", "text_column", "delimiter", "encoding", "documents", "max_reject_share", "max_texts"}


def _dims(text: Any) -> Any:
    """One number, or one for each layer with ``softmax`` for None."""
    parts = str(text).split(",")
    if not all(part == "softmax" or part.removeprefix("-").isdecimal() for part in parts):
        raise ValueError("must be a whole number, or numbers and 'softmax' with commas between them")
    dims = [None if part == "softmax" else int(part) for part in parts]
    return dims[0] if len(dims) == 1 else dims


def convert(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Option(
            help="Folder or hub id of an encoder, of sentence-transformers too; or a safetensors file of fairseq's "
            "Linformer-RoBERTa.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the converted model.", show_default=False)],
    architecture: Annotated[
        Literal["own", "linformer"],
        typer.Option(
            help="own: the model's class, with all that is around it. linformer: a class of ours, for learned "
            "projections and streaming (BERT, RoBERTa, XLM-R, CamemBERT, DistilBERT, ELECTRA, ViT, DeiT, AST)."
        ),
    ] = "own",
    projected_dim: Annotated[
        Any,
        typer.Option(
            help="Slots that keys and values are compressed to, k; or one for each layer (64,96,softmax), as `advise` "
            "gives them.",
            parser=_dims,
            metavar="K[,K...]",
        ),
    ] = 128,
    max_length: Annotated[
        int | None, typer.Option(help="Longest input, in tokens.", show_default="the model's")
    ] = None,
    projection_kind: Annotated[
        str, typer.Option(help="cluster or attention_pool; of a linformer also mean_pool, max_pool, linear or conv.")
    ] = "cluster",
    projection_sharing: Annotated[
        str, typer.Option(help="Of a linformer: none, headwise, key_value or layerwise.")
    ] = "key_value",
    projection_init: Annotated[
        str,
        typer.Option(help="How projections of a linformer start: pooling, random (linear) or fit (needs --fit-texts)."),
    ] = "pooling",
    local_window: Annotated[
        int | None,
        typer.Option(
            help="Exact neighbours on each side, in tokens.",
            show_default="0 with cluster, else 64",
        ),
    ] = None,
    global_tokens: Annotated[int, typer.Option(help="Tokens at the start that all see and that see all.")] = 1,
    exact_length: Annotated[
        int | None,
        typer.Option(
            help="Longest text, in tokens, that softmax attention itself reads; 0 = none.",
            show_default="1024, with linear and conv 0",
        ),
    ] = None,
    segment_length: Annotated[
        int,
        typer.Option(
            help="Tokens that see each other exactly, with the rest of the text as slots that weigh less; positions "
            "are tiled at that length. 0 = the text as a whole. Of a model in its own class."
        ),
    ] = 0,
    context_weight: Annotated[
        float, typer.Option(help="The most that the rest of a text weighs, at equal scores, of what a segment weighs.")
    ] = 0.125,
    trained_length: Annotated[
        int,
        typer.Option(
            help="Tokens of the texts that the model was trained on: in longer ones queries are multiplied by "
            "log(length) / log(this), for models that must find single facts. 0 = no. Of a model in its own class; not "
            "with --segment-length."
        ),
    ] = 0,
    softmax_layers: Annotated[
        list[int] | None, typer.Option(help="Layer that keeps softmax attention; -1 is the last. Repeatable.")
    ] = None,
    positions: Annotated[str, typer.Option(help="How positions grow: tile or interpolate.")] = "tile",
    attention_type: Annotated[str, typer.Option(help="Of a linformer: linformer, kfree or softmax.")] = "linformer",
    num_attention_heads: Annotated[
        int | None, typer.Option(min=1, help="Of a fairseq Linformer.", show_default="one for 64 features")
    ] = None,
    classification_head: Annotated[
        str | None,
        typer.Option(help="Name of the classifier of a fairseq Linformer to keep, in place of its masked LM."),
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option(help="Measure the distance to the teacher on this text (a file, as of pretrain). Repeatable."),
    ] = None,
    fit_texts: Annotated[
        list[str] | None, typer.Option(help="Text to fit projections of a linformer to. Repeatable.")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option("--text", help="Column of the texts; found by itself if usual.")
    ] = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    documents: Annotated[DocumentUnit, typer.Option(help="A text of .txt files.")] = "file",
    max_reject_share: MaxRejectShare = 0.01,
    max_texts: Annotated[int, typer.Option(min=1, help="Texts that are used at most.")] = 64,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            help="Also upload the folder to this repository of the Hugging Face hub (user/name), by the token of "
            "`hf auth login` or HF_TOKEN.",
            metavar="REPO",
        ),
    ] = None,
) -> None:
    """Give an encoder linear attention and room for long inputs, with its weights, head, tokenizer and modules.

    Inputs of at most --exact-length or --projected-dim tokens give what they gave before (but not with linear and
    conv); longer ones are approximated, in time linear in their length. A model that is linear already, in its own
    class, keeps the settings that are not given.
    """
    given = {**locals(), "softmax_layers": softmax_layers or ()}
    chosen, where, remedy = _OF_LINFORMER, "a Linformer of ours", ""
    if Path(model).is_file():
        chosen, where, remedy = _OF_FAIRSEQ, "a fairseq Linformer, which has its projections", ""
    elif architecture == "own":
        chosen, where, remedy = _OF_OWN, "a model in its own class", ", or give --architecture linformer"
        if local_window is None:
            given["local_window"] = 0 if projection_kind == "cluster" or segment_length else 64
    taken = {*_ALWAYS, *chosen} | ({"fit_texts"} if chosen is _OF_LINFORMER else set())
    said = {name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    for name in sorted(said - taken - (set() if chosen is _OF_FAIRSEQ else _MEASURING)):
        raise ValueError(f"--{name.replace('_', '-')} has no effect on {where}: leave it out{remedy}")

    from rich.console import Console

    from linformers.commands.convert import convert_to_folder
    from linformers.files.sources import Source

    def sources(paths: list[str] | None) -> list[Source]:
        form: Any = {"delimiter": delimiter, "encoding": encoding}
        return [Source(path=path, text_column=text_column, documents=documents, **form) for path in paths or []]

    console = Console(highlight=False, soft_wrap=True, markup=False)
    facts = convert_to_folder(
        model,
        output,
        {name: given[name] for name in chosen if given[name] is not None or name == "max_length"},
        defaults=set(chosen) - said,
        architecture=architecture,
        sources=sources(texts),
        fit_sources=sources(fit_texts),
        max_texts=max_texts,
        max_reject_share=max_reject_share,
        push_to_hub=push_to_hub,
        console=console,
    )
    console.print(_next(facts, model, output))


def _next(facts: dict[str, Any], model: str, output: Path) -> str:
    """What to do with the result: a whole command, which runs as it is printed."""
    from linformers.report.cards import distillation_length, loader

    length = distillation_length(facts)
    if length is None:
        if facts["own_class"]:
            library = "sentence_transformers" if facts["sentence_transformers"] else "transformers"
            return f"next, in Python: import linformers, {library}; {library}.{loader(facts)}({str(output)!r})"
        return f"next, in Python: linformers.{facts['architecture']}.from_pretrained({str(output)!r})"
    both = ["--model", str(output), "--teacher", model]
    # Texts that softmax attention reads have nothing to teach.
    length = min(length, max(512, 2 * facts["exact_length"]))
    rows = _rows_of(model)
    if rows:
        command = ["finetune", *both, *rows, "--max-length", length, "--output", f"{output}-finetuned"]
        return f"next: {shlex.join(['linformers', *map(str, command)])}"
    books = resources.files("linformers.data") / "books" / "*.txt.gz"
    command = ["distil", *both, "--texts", books, "--length", length, "--output", f"{output}-distilled"]
    return f"next (on books; text of the kind to come is better): {shlex.join(['linformers', *map(str, command)])}"


def _rows_of(model: str) -> list[Any]:
    """Options of ``finetune`` for the rows that a classifier of ours has learnt from; of another model, none."""
    from linformers.classification.settings import PLAN, FinetuneSettings
    from linformers.data.examples import Columns
    from linformers.data.tasks import TaskSources

    if not (Path(model) / PLAN).is_file():
        return []
    plan = json.loads((Path(model) / PLAN).read_text(encoding="utf-8"))
    options = []
    for name in (*TaskSources.__dataclass_fields__, *Columns.__dataclass_fields__, "max_reject_share"):
        value = plan.get(name)
        if value and value != FinetuneSettings.model_fields[name].default:
            for one in value if isinstance(value, list) else [value]:
                options += [f"--{name.replace('_', '-')}", one]
    return options
