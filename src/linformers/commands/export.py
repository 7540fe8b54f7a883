"""Export a model into a folder that ONNX Runtime and tokenizers serve alone."""

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from linformers._registration import ATTENTION, MODEL_TYPE
from linformers.attention import Attention
from linformers.checks import check_choice
from linformers.convert.interface import configure, exact_length, settings_of
from linformers.convert.load import find_tokenizer, longest_input, name_of
from linformers.convert.surroundings import encoder_folder
from linformers.data.books import load_books
from linformers.data.documents import first_texts
from linformers.files.environment import describe_environment
from linformers.files.folders import check_output, write_folder
from linformers.files.progress import ReadProgress
from linformers.files.sources import Source
from linformers.models.encoder import LinformerLayer, LinformerStack
from linformers.report.cards import CARD, exported_card
from linformers.training.loading import LOCAL, load_saved, reported

Format = Literal["onnx", "onnx-int8"]
FORMATS = ("onnx", "onnx-int8")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
GRAPH, FACTS = "model.onnx", "export.json"
BOOK_CHARACTERS = 8000


def export_onnx(
    model: str | Path,
    output: str | Path,
    *,
    format: Format = "onnx",
    texts: Sequence[Source] = (),
    max_texts: int = 64,
    max_reject_share: float = 0.01,
    task: str | None = None,
    data: str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Write a model as ONNX, checked against torch, with its tokenizer; the folder appears whole or not at all.

    >>> facts = export_onnx("my-classifier", "runs/onnx")
    >>> print(*facts["outputs"])
    logits

    A graph serves every length, so short texts go through the slots too: where the model has an ``exact_length``, the
    exported one has 0, and that one is what the graph is checked against.

    Args:
        model: folder or hub id of a Linformer with a tokenizer.
        output: new folder, or one of an earlier export, which is replaced.
        format: ``onnx`` (float32), or ``onnx-int8``, whose matrix products take int8 weights.
        texts: where to measure the error of int8; none = passages of the books in the package.
        max_texts: how many of the texts are used, from the first on.
        max_reject_share: Largest share of unusable ones among the records that are read.
        task: ``sst2``, ``imdb``, ``qnli``, ``qqp`` or a file of labelled texts, to measure the accuracy of int8 on.
        data: folder with a named task's files; None = the Hugging Face hub.
        console: where to print; None prints nothing.

    Returns:
        What ``export.json`` in the folder holds.

    Raises:
        ValueError: a model or option that cannot be used, an output folder of something else, or a graph that is not
            the model.
        OSError: a file that is not there.
    """
    _check_packages()
    import onnx

    from linformers.export.check import SESSION_CONFIG, TOLERANCE, Session, check, checks_table, run
    from linformers.export.graph import check_size, input_names, random_inputs, trace, translate
    from linformers.export.int8 import SETTINGS, float_products, quantise
    from linformers.export.measure import labelled_rows, measure_accuracy, measure_distance

    output, console = Path(output), console or Console(quiet=True)
    check_choice("format", format, FORMATS)
    check_output(output, FACTS)
    if format == "onnx" and (texts or task):
        name, value = ("texts", texts[0].path) if texts else ("task", task)
        raise ValueError(f"{name}={value!r} measures int8, and format='onnx' has none: leave it out, or use onnx-int8")
    if data is not None and task is None:
        raise ValueError(f"data={data!r} is the folder of a named task: name it with task, or leave data out")
    read = _read_texts(texts, max_texts, max_reject_share, console) if format == "onnx-int8" else []
    started = time.perf_counter()
    built, tokenizer, exact = _load(str(model))
    if exact:
        console.print(
            f"texts of up to exact_length={exact:,} tokens go through the slots too: a graph serves every length"
        )
    check_size(built)
    part = None
    if task is not None:
        with ReadProgress(console, f"reading {task}", unit="rows") as progress:
            part = labelled_rows(task, data, built, progress, max_reject_share)

    with _step(console, "tracing"):
        program = trace(built)
    with _step(console, "translating to ONNX"):
        names = list(run(built, random_inputs(built, 1, 1)))
        graph = translate(program, built, names, for_int8=format == "onnx-int8")
        del program
    with _step(console, "checking against torch"):
        checks = check(graph, built)
    console.print(checks_table(checks))
    int8 = None
    if format == "onnx-int8":
        with _step(console, "quantising"):
            graph = quantise(graph)
            session = Session(graph)
        with ReadProgress(console, "measuring the error") as progress:
            distance = measure_distance(session, built, tokenizer, read, progress)
        int8 = {
            **SETTINGS,
            "left_in_float32": float_products(graph),
            "texts": [name_of(source.path) for source in texts] or "books of the package",
            "error": distance.to_dict(),
            "accuracy": None,
        }
        if part is not None:
            with ReadProgress(console, "measuring the accuracy", unit="rows") as progress:
                int8["accuracy"] = measure_accuracy(session, built, tokenizer, part, progress)
    facts = {
        "format": format,
        "model": name_of(model),
        "architecture": type(built).__name__,
        "command": shlex.join(["linformers", *(_no_folders(one) for one in sys.argv[1:])]),
        "inputs": list(input_names(built)),
        "outputs": [one.name for one in graph.graph.output],
        "max_length": longest_input(built),
        "model_exact_length": exact,
        "opset": {one.domain or "ai.onnx": one.version for one in graph.opset_import},
        "session_config": SESSION_CONFIG,
        "tolerance": TOLERANCE,
        "checks": [one.to_dict() for one in checks],
        "int8": int8,
        "seconds": round(time.perf_counter() - started, 1),
        "environment": describe_environment(torch.device("cpu")),
        "onnx_versions": {name: version(name) for name in PACKAGES},
    }

    def write(folder: Path) -> None:
        onnx.save(graph, folder / GRAPH)
        built.config.save_pretrained(folder)
        tokenizer.save_pretrained(str(folder))
        facts["bytes"] = (folder / GRAPH).stat().st_size
        (folder / FACTS).write_text(json.dumps(facts, indent=2), encoding="utf-8")
        exported_card(facts, str(model)).save(folder / CARD)

    write_folder(output, write)
    return facts


def _check_packages() -> None:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(f"export needs {', '.join(missing)}: pip install 'linformers[onnx]'")


def _no_folders(argument: str) -> str:
    """Exports are passed on: what they say of their command has no paths of this machine."""
    return name_of(argument) if Path(argument).is_absolute() else argument


def _load(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, int]:
    """The model, made ready for tracing, its tokenizer, and the ``exact_length`` that it had."""
    with reported("model", name):
        config: Any = AutoConfig.from_pretrained(encoder_folder(name), **LOCAL)
    ours = config.model_type == MODEL_TYPE
    if not ours and getattr(config, ATTENTION, None) is None:
        raise ValueError(
            f"model={name!r} is a {config.model_type} with softmax attention, and only linear models are exported: "
            f"make it one (linformers convert --model {name} --output DIR)"
        )
    tokenizer = find_tokenizer(name)
    if tokenizer is None or not tokenizer.is_fast:
        raise ValueError(f"model={name!r} has no tokenizer.json, which the export needs: copy it beside the weights")
    built: Any = load_saved("model", name).float().eval().requires_grad_(False)
    # In segments a graph too reads short texts by softmax attention.
    segments = not ours and settings_of(built.config).segment_length
    before = 0 if segments else exact_length(built.config)
    if ours:
        built.config.exact_length = 0
    else:
        configure(built, exact_length=0)
    # What a graph cannot choose, and other outputs than the head's: none of this changes the function.
    built.config.output_attentions = built.config.output_hidden_states = False
    if ours:
        built.config.stream_chunk_size = None
    for module in built.modules():
        if isinstance(module, LinformerLayer):
            module.stream_chunk_size = None
        if isinstance(module, LinformerStack | Attention):
            module.exact_length = 0
    longest = longest_input(built)
    tokenizer.model_max_length = longest
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.enable_truncation(longest)  # for programs that read tokenizer.json alone
    return built, tokenizer, before


def _read_texts(sources: Sequence[Source], count: int, max_reject_share: float, console: Console) -> list[str]:
    if not sources:
        books = (book.text for book in load_books())
        return [text[len(text) // 2 :][:BOOK_CHARACTERS] for text in islice(books, count)]
    return first_texts("texts", sources, count, max_reject_share, console.print)


@contextmanager
def _step(console: Console, title: str) -> Iterator[None]:
    """Show that something is being done, and say how long it took."""
    started = time.perf_counter()
    with console.status(f"{title} ..."):
        yield
    console.print(f"{title}: {time.perf_counter() - started:.1f} s")
