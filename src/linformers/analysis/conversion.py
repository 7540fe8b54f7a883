"""Convert a model into a folder: weights, tokenizer, how far it is from its teacher, and a card that says so."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers.utils import FEATURE_EXTRACTOR_NAME

from linformers.analysis.conversion_card import conversion_card
from linformers.analysis.fidelity import Fidelity, measure_fidelity
from linformers.attention.sharing import PROJECTION_KINDS
from linformers.data.documents import read_documents
from linformers.data.folders import check_output, write_folder
from linformers.data.progress import ReadProgress
from linformers.data.rejects import Rejects
from linformers.data.sources import Source
from linformers.models.config import LinformerConfig
from linformers.models.convert import linearise
from linformers.models.convert_fairseq import convert_fairseq_linformer
from linformers.models.convert_load import load_processor, load_teacher, load_tokenizer, longest_input, name_of
from linformers.models.convert_patches import ALL_FAMILIES
from linformers.report.environment import describe_environment

CONVERSION, FIDELITY = "conversion.json", "fidelity.json"
INPUTS = {"text": "texts", "image": "images", "audio": "recordings"}


def convert_to_folder(
    model: str,
    output: Path,
    options: Mapping[str, Any],
    *,
    sources: Sequence[Source] = (),
    fit_sources: Sequence[Source] = (),
    max_texts: int = 64,
    console: Console,
) -> dict[str, Any]:
    """Write the converted model; the folder appears whole or not at all.

    Args:
        model: folder or hub id of what is converted, or a safetensors file of fairseq's Linformer-RoBERTa.
        output: new folder, or one of an earlier conversion, which is replaced.
        options: of ``linearise``, with ``max_length``, ``positions`` and ``projection_kind`` among them; for a file the
            first two alone.
        sources: texts on which to measure how far the result is from its teacher.
        fit_sources: texts to fit projections to.
        max_texts: how many of the texts are used, from the first on.
        console: where to print.

    Returns:
        What ``conversion.json`` in the folder holds.

    Raises:
        ValueError: a model or option that cannot be used, or an output folder of something else.
        OSError: a file that is not there.
    """
    check_output(output, CONVERSION)
    texts, fit_texts = read_texts("texts", sources, max_texts), read_texts("fit_texts", fit_sources, max_texts)
    started = time.perf_counter()
    teacher, tokenizer, processor, modality = None, None, None, "text"
    if Path(model).is_file():
        student = convert_fairseq_linformer(model)
        teacher_length = student.config.max_position_embeddings
        if options["max_length"] is not None:
            student.resize_max_length(**options)
    else:
        teacher = load_teacher(model, ALL_FAMILIES)
        modality = ALL_FAMILIES[teacher.config.model_type].modality
        teacher_length = longest_input(teacher)
        if modality == "text":
            tokenizer = load_tokenizer(model)
            _check_length(options, teacher_length)
        else:
            processor = load_processor(model)
            for name, given in (("texts", texts), ("fit_texts", fit_texts)):
                if given:
                    raise ValueError(f"{name} has no effect on {model}, which reads {INPUTS[modality]}: leave it out")
        if texts and tokenizer is None:
            raise ValueError(
                f"{model} has no tokenizer, and texts={sources[0].path} needs one: copy it beside the weights"
            )
        with ReadProgress(console if fit_texts else None, "fitting", unit="steps") as progress:
            student = linearise(
                teacher, **options, texts=fit_texts, tokenizer=tokenizer, on_progress=_shown_by(progress)
            )
    config, seconds = student.config, time.perf_counter() - started
    console.print(
        f"{config.converted_from} -> {type(student).__name__}, {student.num_parameters():,} parameters, up to "
        f"{config.max_position_embeddings:,} tokens, in {seconds:.1f} s"
    )
    if config.max_position_embeddings <= config.exact_length:
        console.print(
            f"it takes no text of more than exact_length={config.exact_length:,} tokens, so it is softmax attention "
            "throughout: give a greater --max-length (text), or --exact-length 0"
        )
    fidelity = None
    if texts and teacher is not None:
        with ReadProgress(console, "measuring", unit="texts") as progress:
            fidelity = measure_fidelity(student, teacher, tokenizer, texts, on_progress=_shown_by(progress))
        console.print(fidelity_table(fidelity))
        if fidelity.longest <= config.exact_length:
            console.print(
                f"softmax attention itself read all texts, as exact_length={config.exact_length:,} is no shorter; with "
                "--exact-length 0 the slots are measured"
            )
    facts = {
        "converted_from": config.converted_from,
        "architecture": type(student).__name__,
        "command": shlex.join(["linformers", *map(_public, sys.argv[1:])]),
        "options": dict(options),
        "inputs": INPUTS[modality],
        "has_teacher": teacher is not None,
        "teacher_length": teacher_length,
        "max_length": config.max_position_embeddings,
        "exact_length": config.exact_length,
        "exact_up_to": _exact_up_to(config, teacher_length, options["positions"], fairseq=teacher is None),
        "texts": [_public(source.path) for source in sources],
        "fit_texts": [_public(source.path) for source in fit_sources],
        "seconds": round(seconds, 2),
        "environment": describe_environment(student.device),
    }

    def write(folder: Path) -> None:
        student.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.model_max_length = config.max_position_embeddings
            if tokenizer.is_fast:  # what is set there would cut texts where a program reads tokenizer.json alone
                tokenizer.backend_tokenizer.no_truncation()
                tokenizer.backend_tokenizer.no_padding()
            tokenizer.save_pretrained(str(folder))
        if processor is not None:
            (folder / FEATURE_EXTRACTOR_NAME).write_text(json.dumps(processor, indent=2), encoding="utf-8")
        (folder / CONVERSION).write_text(json.dumps(facts, indent=2), encoding="utf-8")
        if fidelity is not None:
            (folder / FIDELITY).write_text(json.dumps(fidelity.to_dict(), indent=2), encoding="utf-8")
        (folder / "README.md").write_text(conversion_card(config, facts, fidelity), encoding="utf-8")

    write_folder(output, write)
    console.print(f"model in {output}; what it is, and its limits: {output / 'README.md'}")
    if modality != "text":
        if processor is None:
            console.print(
                f"{model} has no {FEATURE_EXTRACTOR_NAME}: pipelines need one, so save a processor to {output}"
            )
    elif tokenizer is None:
        folders = output if teacher is None else f"{model} and to {output}"
        console.print(f"{model} has no tokenizer: copy one of the same vocabulary to {folders}")
    return facts


def _check_length(options: Mapping[str, Any], teacher_length: int) -> None:
    asked, kind = options["max_length"], options["projection_kind"]
    fits = kind in PROJECTION_KINDS and not PROJECTION_KINDS[kind].has_parameters
    if asked is not None and 0 < asked < teacher_length and fits:
        raise ValueError(
            f"max_length={asked} is below the {teacher_length:,} tokens of the teacher, and gains nothing with "
            f"projection_kind={kind!r}, which fits slots to each text: leave it out"
        )


def _exact_up_to(config: LinformerConfig, teacher_length: int, positions: str, *, fairseq: bool) -> int:
    """Tokens of the longest texts for which a converted model computes what its teacher computes."""
    both = min(config.max_position_embeddings, teacher_length)
    resized = config.max_position_embeddings != teacher_length
    if fairseq:
        return 0 if resized else both
    slots = [k for kind, k in config.layer_attention if kind == "linformer" and k is not None]
    softmax = config.layer_attention.count(("softmax", None))
    k_free = len(slots) + softmax < config.num_hidden_layers
    mixed = slots and not PROJECTION_KINDS[config.projection_kind].stands_for_tokens
    if k_free or mixed or (resized and positions == "interpolate"):
        return 0
    # Where each token has a slot, or all are within the window, no token is read through a slot that holds two.
    near = max(config.exact_length, config.local_window + 1 + config.global_tokens)
    return min([both, *(max(k + config.global_tokens, near) for k in slots)])


def _public(argument: str) -> str:
    """An argument without the folders of this machine, as the result may be published."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + (name_of(value) if Path(value).is_absolute() else value)


def _shown_by(progress: ReadProgress) -> Callable[[int, int], None]:
    def show(done: int, whole: int) -> None:
        progress.reached(done / whole)
        progress.add(done - progress.count)

    return show


def read_texts(option: str, sources: Sequence[Source], count: int) -> list[str]:
    """The first texts of the files that an option names; unusable records are passed over."""
    if not sources:
        return []
    documents = read_documents(sources, Rejects(max_share=1.0))
    texts = [document.text for document in islice(documents, count)]
    if not texts:
        raise ValueError(f"{option}={sources[0].path} holds no text that can be used; give another file")
    return texts


def fidelity_table(fidelity: Fidelity) -> Table:
    """The distance to the teacher, layer by layer."""
    table = Table(
        title=f"Distance to the teacher: {fidelity.texts:,} texts, {fidelity.tokens:,} tokens, the longest "
        f"{fidelity.longest:,}",
        caption=f"cosine of the mean embedding of a text: {fidelity.embedding_cosine:.4f}",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("layer", "cosine", "relative error"):
        table.add_column(name, justify="right")
    for i, layer in enumerate(fidelity.layers):
        table.add_row(str(i or "embeddings"), f"{layer.cosine:.4f}", f"{layer.relative_error:.4f}")
    return table
