"""The command ``spectrum``: measure, go on where it was stopped, write figures, plots and tables."""

import csv
import io
import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError
from safetensors.numpy import load, save
from transformers import PreTrainedModel

from linformers.analysis.spectrum import (
    Spectrum,
    SpectrumSums,
    check_lengths,
    cut_windows,
    fingerprint,
    measure_windows,
)
from linformers.analysis.spectrum_projection import LearnedProjection, learned_projections
from linformers.convert.load import name_of
from linformers.data.documents import read_texts
from linformers.files.environment import describe_environment
from linformers.files.folders import write_file
from linformers.files.progress import ReadProgress
from linformers.files.rejects import Rejects
from linformers.files.run_folder import RESULTS, Folder, warn
from linformers.files.settings import Count, RunSettings
from linformers.files.sources import DocumentUnit, Source
from linformers.training.loading import load_encoder, load_tokenizer

PLAN, STATE = "spectrum.json", "state.safetensors"
SAVE_EVERY = 10.0  # seconds


class SpectrumSettings(RunSettings):
    """Options of the command; see ``linformers.spectrum``."""

    model: str
    texts: tuple[str, ...]
    length: Count = 512
    max_texts: Count = 200
    windows_per_text: Count = 1
    index: Count | None = None
    exact: bool = False
    text_column: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    documents: DocumentUnit = "file"
    max_reject_share: Annotated[float, Field(ge=0, le=1)] = 0.01

    @property
    def shares_of(self) -> int:
        """Singular values whose share the heat map shows; in a short text the first 128 would be all."""
        return self.index or (128 if self.length > 128 else max(1, self.length // 4))


def run_spectrum(settings: SpectrumSettings, console: Console) -> None:
    """Measure a model's attention on text and write what was found to a folder.

    The same settings again go on where a run was stopped.

    Raises:
        ValueError: a model or option that cannot be used, text that is too short, or a folder of something else.
        OSError: a file that is not there.
    """
    folder = Folder(Path(settings.output), option="output", plan=PLAN, before=())
    folder.check(settings.differences)
    if folder.results is not None:
        console.print(f"{folder.path} is finished; to measure again, name another output")
        _say_where(settings, folder.path, console)
        return
    with folder.locked():
        model = load_encoder("model", settings.model)
        tokenizer = load_tokenizer("model", settings.model)
        index = settings.shares_of
        check_lengths(model, settings.length, index)
        rejects = Rejects(max_share=settings.max_reject_share)
        with ReadProgress(console, "reading", unit="texts") as progress:
            windows = cut_windows(
                _texts(settings, rejects, progress),
                tokenizer,
                settings.length,
                settings.max_texts,
                settings.windows_per_text,
                f"texts={settings.texts[0]}",
            )
            rejects.finish()
        prints = fingerprint(windows.ids, model.state_dict())
        folder.begin_or_continue("spectrum", settings.as_json(), prints, texts=len(windows.ids))
        sums = _state(folder.path, index, console)
        if len(sums):
            console.print(f"Going on after {len(sums):,} of {len(windows.ids):,} texts.")
        started = time.perf_counter()
        _measure(model, windows.ids, sums, settings.exact, folder.path, console)
        seconds = time.perf_counter() - started
        found = sums.spectrum()
        bank = getattr(getattr(model, "encoder", None), "projections", None)
        learned = learned_projections(bank) if model.config.model_type == "linformer" else []  # type: ignore[arg-type]
        facts = {
            "options": {
                **settings.model_dump(exclude={"output"}),
                "index": index,
                "model": name_of(settings.model),
                "texts": [name_of(path) for path in settings.texts],
            },
            "texts_read": windows.read,
            "texts_too_short": windows.short,
            "records_unusable": rejects.rejected,
            "files_not_read": rejects.passed_over,
            "seconds_since_last_start": round(seconds, 1),
            "environment": describe_environment(model.device),
        }
        _write(folder, found, learned, facts)
        (folder.path / STATE).unlink(missing_ok=True)
    console.print(spectrum_table(found))
    console.print(describe_trend(found))
    console.print(f"{windows.read:,} texts read, {windows.short:,} shorter than {settings.length} tokens")
    for line in rejects.unused():
        console.print(line)
    _say_where(settings, folder.path, console)


def _texts(settings: SpectrumSettings, rejects: Rejects, progress: ReadProgress) -> Iterator[str]:
    names = ("text_column", "documents", "delimiter", "encoding")
    given = {name: getattr(settings, name) for name in names}
    sources = [Source(path=path, **given) for path in settings.texts]
    for text in read_texts("texts", sources, rejects, progress.reached, progress.say):
        progress.add(1)
        yield text


def _measure(
    model: PreTrainedModel, ids: np.ndarray, sums: SpectrumSums, exact: bool, folder: Path, console: Console
) -> None:
    """Measure, and save what is done now and then."""
    saved = time.perf_counter()
    before = len(sums)
    with ReadProgress(console, "measuring", unit="maps") as progress:

        def on_text(done: int, whole: int) -> None:
            nonlocal saved
            if time.perf_counter() - saved >= SAVE_EVERY:
                _save(folder, sums)
                saved = time.perf_counter()
            progress.reached((done - before) / (whole - before))  # what an earlier run did took none of this time
            progress.add(sums.shares[-1].size)

        try:
            measure_windows(model, ids, sums, exact=exact, on_text=on_text)
        finally:
            if len(sums) > before:
                _save(folder, sums)


def _save(folder: Path, sums: SpectrumSums) -> None:
    write_file(folder / STATE, save(sums.to_arrays()))


def _state(folder: Path, index: int, console: Console) -> SpectrumSums:
    path = folder / STATE
    if not path.is_file():
        return SpectrumSums(index)
    try:
        return SpectrumSums.from_arrays(index, load(path.read_bytes()))
    except (SafetensorError, KeyError) as error:
        warn(console, f"{path} is damaged ({error}); measuring from the start")
        return SpectrumSums(index)


def _write(folder: Folder, found: Spectrum, learned: list[LearnedProjection], facts: dict[str, Any]) -> None:
    """Tables and plots, and last, as it says that the run is finished, the results."""
    from linformers.report.plots import plot_projections, plot_shares_by_head, plot_spectrum, save_png

    names = [f"layer {layer}" for layer in found.layers]
    save_png(plot_spectrum(found.curves.mean(1), names, found.index), folder.path / "curves.png")
    shares = found.shares.mean(0)
    save_png(plot_shares_by_head(shares, found.layers, found.index), folder.path / "heads.png")
    if learned:
        matrices = {one.name: one.matrix.numpy() for one in learned}
        save_png(plot_projections(matrices), folder.path / "projections.png")
    ranks = found.effective_ranks.mean(0)
    heads = [
        (layer, head, f"{shares[row, head]:.6f}", f"{ranks[row, head]:.4f}")
        for row, layer in enumerate(found.layers)
        for head in range(shares.shape[1])
    ]
    folder.write("heads.csv", _csv(("layer", "head", f"share_of_first_{found.index}", "effective_rank"), heads))
    curves = [(i + 1, *(f"{share:.6f}" for share in row)) for i, row in enumerate(found.curves.mean(1).T)]
    folder.write("curves.csv", _csv(("singular_values", *(name.replace(" ", "_") for name in names)), curves))
    results = {**facts, "spectrum": found.to_dict(), "projections": [one.to_dict() for one in learned]}
    folder.write(RESULTS, json.dumps(results, indent=1) + "\n")


def _csv(header: tuple[Any, ...], rows: list[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def spectrum_table(found: Spectrum) -> Table:
    """What each layer's heads have in common and how they differ."""
    table = Table(
        title=f"Singular values of attention: {found.texts:,} texts of {found.length:,} tokens",
        caption=f"a share may be off by {found.error:.1g} (mean) to {found.largest_error:.1g} (largest)",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("layer", f"share of the first {found.index}", "lowest head", "effective rank", "k for 90 %"):
        table.add_column(name, justify="right")
    shares, ranks, dims = found.shares.mean(0), found.effective_ranks.mean(0), found.smallest_dims(0.9)
    for row, layer in enumerate(found.layers):
        figures = (f"{shares[row].mean():.3f}", f"{shares[row].min():.3f}", f"{ranks[row].mean():.1f}", str(dims[row]))
        table.add_row(str(layer), *figures)
    return table


def describe_trend(found: Spectrum) -> str:
    """Whether higher layers have lower rank, in a sentence."""
    trend = found.trend()
    sure = trend.p_value < 0.05 and (trend.high < 0 or trend.low > 0)
    says = ("yes" if trend.correlation < 0 else "no, higher") if sure else "not to be told from chance"
    interval = f"95% interval over texts {trend.low:.2f} to {trend.high:.2f}"
    return (
        f"higher layers have lower rank: {says} (Spearman's correlation of a head's effective rank with its layer "
        f"{trend.correlation:.2f}, {interval}; p = {trend.p_value:.2g} over assignments of heads to layers)"
    )


def _say_where(settings: SpectrumSettings, folder: Path, console: Console) -> None:
    console.print(f"results in {folder}: curves.png, heads.png, heads.csv, curves.csv, {RESULTS}")
    advise = ["--model", settings.model, "--texts", settings.texts[0], "--length", str(settings.length)]
    advise += ["--mean-dim", str(settings.length // 4), "--output", f"{folder}-advice"]
    console.print(f"next: {shlex.join(['linformers', 'advise', *advise])}")
