"""Convert a model into a folder: weights, tokenizer, how far it is from its teacher, and a card that says so."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel
from transformers.utils import logging

from linformers.analysis.conversion_card import conversion_card
from linformers.analysis.fidelity import Fidelity, measure_fidelity
from linformers.data.documents import read_documents
from linformers.data.folders import write_folder
from linformers.data.progress import ReadProgress
from linformers.data.rejects import Rejects
from linformers.data.sources import Source
from linformers.models.convert import linearise
from linformers.models.convert_fairseq import convert_fairseq_linformer
from linformers.models.convert_load import load_teacher, load_tokenizer, name_of
from linformers.report.environment import describe_environment

CONVERSION, FIDELITY = "conversion.json", "fidelity.json"


def convert_to_folder(
    model: str,
    output: Path,
    options: Mapping[str, Any],
    *,
    sources: Sequence[Source] = (),
    fit_sources: Sequence[Source] = (),
    max_texts: int = 64,
    console: Console,
) -> None:
    """Write the converted model; the folder appears whole or not at all.

    Args:
        model: folder or hub id of what is converted, or a safetensors file of fairseq's Linformer-RoBERTa.
        output: new folder, or one of an earlier conversion, which is replaced.
        options: of ``linearise``; for a file, ``max_length`` and ``positions`` alone.
        sources: texts on which to measure how far the result is from its teacher.
        fit_sources: texts to fit projections to.
        max_texts: how many of the texts are used, from the first on.
        console: where to print.

    Raises:
        ValueError: a model or option that cannot be used, or an output folder of something else.
        OSError: a file that is not there.
    """
    _check_output(output)
    logging.disable_progress_bar()
    texts, fit_texts = (read_texts(given, max_texts) for given in (sources, fit_sources))
    started = time.perf_counter()
    teacher, tokenizer = None, None
    if Path(model).is_file():
        student: PreTrainedModel = convert_fairseq_linformer(model)
        if options.get("max_length"):
            student.resize_max_length(options["max_length"], options.get("positions", "tile"))
    else:
        teacher, tokenizer = load_teacher(model), load_tokenizer(model)
        if texts and tokenizer is None:
            raise ValueError(
                f"{model} has no tokenizer, and texts={sources[0].path} needs one: copy it beside the weights"
            )
        with ReadProgress(console, "fitting", unit="steps") as progress:
            student = linearise(
                teacher, **options, texts=fit_texts, tokenizer=tokenizer, on_progress=_shown_by(progress)
            )
    longest = student.config.max_position_embeddings
    seconds = time.perf_counter() - started
    console.print(
        f"{student.config.converted_from} -> {type(student).__name__}, {student.num_parameters():,} parameters, up to "
        f"{longest:,} tokens, in {seconds:.1f} s"
    )
    fidelity = None
    if texts and teacher is not None:
        with ReadProgress(console, "measuring", unit="texts") as progress:
            fidelity = measure_fidelity(student, teacher, tokenizer, texts, on_progress=_shown_by(progress))
        console.print(fidelity_table(fidelity))
    facts = {
        "converted_from": student.config.converted_from,
        "command": " ".join(["linformers", *map(_name, sys.argv[1:])]),
        "options": dict(options),
        "texts": [_name(source.path) for source in sources],
        "fit_texts": [_name(source.path) for source in fit_sources],
        "seconds": round(seconds, 2),
        "environment": describe_environment(student.device),
    }

    def write(folder: Path) -> None:
        student.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.model_max_length = longest
            if (
                tokenizer.is_fast
            ):  # what the teacher's tokenizer.json sets would cut texts where a program reads it alone
                tokenizer.backend_tokenizer.no_truncation()
                tokenizer.backend_tokenizer.no_padding()
            tokenizer.save_pretrained(str(folder))
        (folder / CONVERSION).write_text(json.dumps(facts, indent=2), encoding="utf-8")
        if fidelity is not None:
            (folder / FIDELITY).write_text(json.dumps(fidelity.to_dict(), indent=2), encoding="utf-8")
        (folder / "README.md").write_text(conversion_card(student, facts, fidelity), encoding="utf-8")

    write_folder(output, write)
    console.print(f"model in {output}; what it is, and its limits: {output / 'README.md'}")
    if tokenizer is None:
        console.print(f"{model} has no tokenizer: copy one of the same vocabulary to {output}")
    if teacher is None:
        console.print(f"next: linformers finetune --model {output} --task imdb --output runs/imdb")
    else:
        console.print(f"next: linformers finetune --model {output} --teacher {model} --task imdb --output runs/imdb")


def _name(argument: str) -> str:
    """An argument without the folders of this machine, as the result may be published."""
    return name_of(argument) if Path(argument).is_absolute() else argument


def _shown_by(progress: ReadProgress) -> Callable[[int, int], None]:
    def show(done: int, whole: int) -> None:
        progress.reached(done / whole)
        progress.add(done - progress.count)

    return show


def read_texts(sources: Sequence[Source], count: int) -> list[str]:
    """The first texts of some files; unusable records are passed over."""
    if not sources:
        return []
    documents = read_documents(sources, Rejects(max_share=1.0))
    texts = [document.text for document in islice(documents, count)]
    if not texts:
        raise ValueError(f"texts={sources[0].path} holds no text that can be used; give another file")
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


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise ValueError(f"output={output} is a file; name a folder")
    if output.is_dir() and any(output.iterdir()) and not (output / CONVERSION).is_file():
        raise ValueError(f"output={output} holds other files; name a new folder")
