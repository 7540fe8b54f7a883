"""A run that embeds files of documents, and what is said in the end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from linformers.files.run_folder import RESULTS
from linformers.scoring.networks import hash_model
from linformers.scoring.runs import Outcome, check_totals, describe_output, describe_totals, run_job
from linformers.scoring.settings import EmbedSettings
from linformers.scoring.vectors import EmbedJob


def run_embed(settings: EmbedSettings, console: Console) -> dict[str, Any]:
    """Embed everything that is new, or what an earlier start has left; returns what ``results.json`` holds.

    Raises:
        ValueError: an option, a model or an output folder that cannot be used, an option that has changed, or (with
            all vectors written) no row was embedded, or too many were rejected.
        OSError: an input that is not there, or cannot be read now.
    """
    digest = hash_model(Path(settings.model), vectors=True)
    outcome = run_job(EmbedJob, settings, digest, console)
    for line in _conclude(settings, outcome):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    check_totals(outcome)
    return outcome.results


def _conclude(settings: EmbedSettings, outcome: Outcome) -> Iterator[str]:
    results, counts = outcome.results, outcome.new.more
    vectors = results["model"]["vectors"]
    yield from describe_totals(outcome)
    length = "of length 1" if vectors["normalized"] else "not normalised"
    yield (
        f"{counts['vectors']:,} vectors of {vectors['dim']:,} numbers ({vectors['dtype']}), "
        f"pooled by {' and '.join(vectors['pooling'])}, {length}"
    )
    if settings.chunks is not None and 1 < outcome.new.done >= counts["vectors"]:
        other = ": no blank line parts them, so take --chunks sentence or tokens:256"
        yield f"each document is a single chunk{other if settings.chunks == 'paragraph' else ''}"
    if vectors["pooling_from"] == "default":
        yield (
            "the model's folder is none of sentence-transformers and does not say how to pool: by mean, without "
            "normalising, unless --pooling and --normalize say otherwise"
        )
    if "ranges" in results.get("measured", {}):
        yield f"int8: the ranges of {results['measured']['ranges_of']} are in {settings.output}/{RESULTS}"
    if counts["long"]:
        what = "chunks" if settings.chunks is not None and not settings.in_context else "documents"
        how = "cut off" if settings.reading == "truncate" else "read in pieces, which are pooled together"
        yield f"{counts['long']:,} {what} were longer than the model reads at once, and {how}"
    if counts["chunks_unread"]:
        unread = f"{counts['chunks_unread']:,} chunks lie behind what was read, and have no vector"
        yield f"{unread}: --long windows reads all"
    if counts["chunks_without_token"]:
        yield f"{counts['chunks_without_token']:,} chunks have no token, and so no vector"
    yield from describe_output(outcome)
    shards = f"{settings.output}/{EmbedJob.SHARDS}"
    yield (
        f"next: python -c \"import pyarrow.parquet as pq; print(pq.read_table('{shards}').slice(0, 10).to_pandas())\""
    )
