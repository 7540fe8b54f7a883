"""The command ``advise``: slots for each layer, what they gain on this machine, and how to convert with them."""

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from linformers._registration import ATTENTION
from linformers.analysis.advise import Advice, advise_projected_dims
from linformers.convert.load import find_tokenizer, load_teacher, longest_input, name_of
from linformers.data.documents import read_texts
from linformers.files.environment import describe_environment
from linformers.files.folders import check_output, write_folder
from linformers.files.progress import ReadProgress
from linformers.files.rejects import Rejects
from linformers.files.settings import Count, Natural, StrictModel
from linformers.files.sources import DocumentUnit, Source
from linformers.report import words

ADVICE, OPTIONS = "advice.json", "linearise.json"
_ERRORS = {
    "mass": "share of the spectrum left out",
    "error": "relative error of attention",
    "mean_dim": "error of the last hidden states",
}


class AdviseSettings(StrictModel):
    """Options of the command; see ``linformers.advise_projected_dims``."""

    model: str
    texts: tuple[str, ...]
    output: str
    target_mass: float | None = None
    target_error: float | None = None
    mean_dim: int | None = None
    length: Count = 512
    max_texts: Count = 8
    windows_per_text: Count = 1
    local_window: Natural = 0
    global_tokens: Natural = 1
    timing: bool = True
    text_column: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    documents: DocumentUnit = "file"
    max_reject_share: Annotated[float, Field(ge=0, le=1)] = 0.01


def run_advise(settings: AdviseSettings, console: Console) -> None:
    """Find slots for each layer; the folder with the advice appears whole or not at all.

    Raises:
        ValueError: a model, option or text that cannot be used, or an output folder of something else.
        OSError: a file that is not there.
    """
    output = Path(settings.output)
    check_output(output, ADVICE)
    model, tokenizer = load_teacher(settings.model), find_tokenizer(settings.model)
    rejects = Rejects(max_share=settings.max_reject_share)
    with ReadProgress(console, "measuring", unit="layers of a text") as progress:

        def show(done: int, whole: int) -> None:
            rejects.finish()  # all texts are read before the first is measured
            progress.reached(done / whole)
            progress.add(done - progress.count)

        advice = advise_projected_dims(
            model,
            _texts(settings, rejects, console.print),
            target_mass=settings.target_mass,
            target_error=settings.target_error,
            mean_dim=settings.mean_dim,
            tokenizer=tokenizer,
            length=settings.length,
            max_texts=settings.max_texts,
            windows_per_text=settings.windows_per_text,
            local_window=settings.local_window,
            global_tokens=settings.global_tokens,
            on_progress=show,
        )
    console.print(advice_table(advice))
    for line in rejects.unused():
        console.print(line)
    costs = measure_costs(model, advice, console) if settings.timing else []
    facts = {
        "model": name_of(settings.model),
        "texts": [name_of(path) for path in settings.texts],
        "records_unusable": rejects.rejected,
        "files_not_read": rejects.passed_over,
        "target": {advice.target: advice.value},
        "length": advice.length,
        **advice.options,
        "grid": list(advice.grid),
        "layers": list(advice.layers),
        "errors_are": _ERRORS[advice.target],
        "errors": np.round(advice.errors, 6).tolist(),
        "hidden_error": advice.hidden_error,
        "uniform_error": advice.uniform_error,
        "costs": costs,
        "environment": describe_environment(model.device),
    }

    def write(folder: Path) -> None:
        from linformers.report.plots import plot_layer_errors, save_png

        dims = {layer: advice.projected_dim[layer] for layer in advice.layers}
        figure = plot_layer_errors(advice.grid, advice.errors, dims, _ERRORS[advice.target])
        save_png(figure, folder / "errors.png")
        (folder / OPTIONS).write_text(json.dumps(advice.options, indent=1) + "\n", encoding="utf-8")
        (folder / ADVICE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    write_folder(output, write)
    console.print(f"advice in {output}: {ADVICE}, errors.png, and {OPTIONS}, the arguments of linformers.linearise")
    console.print(f"next: {convert_command(settings.model, advice, f'{output}-converted')}")


def _texts(settings: AdviseSettings, rejects: Rejects, say: Callable[[str], None]) -> Iterator[str]:
    names = ("text_column", "documents", "delimiter", "encoding")
    given = {name: getattr(settings, name) for name in names}
    sources = [Source(path=path, **given) for path in settings.texts]
    return read_texts("texts", sources, rejects, say=say)


def convert_command(model: str, advice: Advice, output: str) -> str:
    """The command that converts the model as advised."""
    dims = ",".join("softmax" if k is None else str(k) for k in advice.projected_dim)
    options = {"model": model, "output": output, "projected-dim": dims, "local-window": advice.local_window}
    options["global-tokens"] = advice.global_tokens
    if all(k is None for k in advice.projected_dim):
        return "none: every layer should keep softmax attention, so there is nothing to convert"
    return shlex.join(["linformers", "convert", *(str(x) for name, x in options.items() for x in (f"--{name}", x))])


def advice_table(advice: Advice) -> Table:
    """Slots for each layer, with what was measured about it."""
    caption = f"last hidden states of the whole model: relative error {advice.hidden_error:.3f}"
    if advice.uniform_error is not None:
        caption += f"; with the mean k in every layer {advice.uniform_error:.3f}"
    table = Table(title=f"Slots for each layer, at {advice.length:,} tokens", caption=caption, title_justify="left")
    few, many = advice.grid[0], advice.grid[-1]
    for name in ("layer", "k", f"{_ERRORS[advice.target]}, k = {few}", f"k = {many}"):
        table.add_column(name, justify="right")
    rows = dict(zip(advice.layers, advice.errors, strict=True))
    for layer, k in enumerate(advice.projected_dim):
        if layer in rows:
            costs = (f"{rows[layer][0]:.3f}", f"{rows[layer][-1]:.3f}")
            table.add_row(str(layer), "softmax" if k is None else str(k), *costs)
        else:
            table.add_row(str(layer), "as it is, a window", "", "")
    return table


def measure_costs(model: PreTrainedModel, advice: Advice, console: Console) -> list[dict[str, Any]]:
    """Time and peak memory of slots and of softmax attention in the encoder, here, at its length and at four times it.

    Random weights of the model's class and shape, and no more of a vocabulary than it needs: neither depends on them.
    Slots read short texts too (``exact_length=0``).
    """
    from linformers.measure.sweep import measure

    config: Any = model.config
    lengths = [advice.length, 4 * advice.length]
    given = config.to_diff_dict()
    for name in (ATTENTION, "architectures", "dtype", "quantization_config"):
        given.pop(name, None)
    tokens = [x for name in given if name.endswith("_token_id") and isinstance(x := getattr(config, name), int)]
    shape = given | {"model_type": config.model_type, "vocab_size": max([1000, *(x + 1 for x in tokens)])}
    if (positions := getattr(config, "max_position_embeddings", None)) is not None:
        reserved = positions - longest_input(model)
        shape["max_position_embeddings"] = max(positions, lengths[-1] + reserved)
    models = {"advised": shape | {ATTENTION: advice.options | {"exact_length": 0}}, "softmax": shape}
    table = Table(title="A text on this machine", title_justify="left")
    for name in ("tokens", "attention", "seconds", "peak memory"):
        table.add_column(name, justify="right")
    cells = measure(models, lengths)
    for cell in cells:
        table.add_row(f"{cell.length:,}", cell.name, f"{cell.seconds:.3f}", words.memory(cell.peak_bytes))
    console.print(table)
    return [
        {"attention": cell.name, "length": cell.length, "seconds": cell.seconds, "peak_bytes": cell.peak_bytes}
        for cell in cells
    ]
