"""The commands as functions, for notebooks and programs: settings in, results out.

What a function returns is what its ``results.json`` holds. The same call again goes on where a run was stopped, and
returns the results of one that is finished.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from linformers.classification.settings import FinetuneSettings
from linformers.commands.adapt import AdaptSettings, run_adapt
from linformers.commands.distil import DistilSettings, run_distil
from linformers.commands.embed import run_embed
from linformers.commands.finetune import run_finetune
from linformers.commands.pretrain import run_recipe
from linformers.commands.score import run_score
from linformers.files.run_folder import RESULTS
from linformers.scoring.settings import EmbedSettings, ScoreSettings
from linformers.training.recipe import Recipe, load_recipe


def pretrain(
    recipe: Recipe | Path | str, overrides: Sequence[str] = (), console: Console | None = None
) -> dict[str, Any]:
    """Pretrain a masked language model, as ``linformers pretrain`` does.

    >>> results = pretrain("recipe.yaml", ["training.steps=4"], console=Console(quiet=True))
    >>> results["steps"]
    4

    Args:
        recipe: A recipe, or the path of its YAML file.
        overrides: Changes of a recipe that is read from a file: ``section.key=value``.
        console: Where to print; None prints to the terminal.

    Returns:
        Steps, tokens, seconds, every evaluation, and the ``best`` one, with its perplexity. The model is in the folder
        ``model`` below ``recipe.output.folder``.

    Raises:
        ValueError: Something in the recipe, its data or its folder does not do; nothing has been changed.
        KeyboardInterrupt: The run was stopped by Ctrl-C or SIGTERM; a checkpoint has been written.
    """
    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    return _results(run_recipe(loaded, console=console), loaded.output.folder)


def finetune(settings: FinetuneSettings, console: Console | None = None) -> dict[str, Any]:
    """Fine-tune an encoder on labelled texts, images or audio, as ``linformers finetune`` does.

    The columns of the file tell what is learned: ``text`` and ``label`` a classifier (or a regression); ``tokens`` and
    ``tags`` (or a CoNLL file), or ``text`` and ``entities`` (dictionaries of ``start``, ``end`` and ``label``), a
    tagger; ``question``, ``context`` and ``answers`` (a dictionary of the lists ``text`` and ``answer_start``), or
    SQuAD's JSON, a model that answers questions.

    >>> settings = FinetuneSettings(model="my-encoder", task="reviews.jsonl", output="runs/reviews", epochs=1)
    >>> results = finetune(settings, console=Console(quiet=True))
    >>> "accuracy" in results["metrics"]
    True

    Args:
        settings: Model, task, output folder, and how to train.
        console: Where to print; None prints to the terminal.

    Returns:
        The metrics of the reported rows with their intervals, every evaluation, and more. The model is in the folder
        ``model`` below ``settings.output``.

    Raises:
        ValueError: Something in the settings, the data or the folder does not do; nothing has been changed.
        KeyboardInterrupt: The run was stopped by Ctrl-C or SIGTERM; a checkpoint has been written.
    """
    return _results(run_finetune(settings, console=console), settings.output)


def distil(settings: DistilSettings, console: Console | None = None) -> dict[str, Any]:
    """Bring a converted encoder closer to its teacher on plain text, as ``linformers distil`` does.

    >>> settings = DistilSettings(
    ...     model="linear", teacher="my-encoder", texts=("corpus.txt",), output="runs/closer", length=48, steps=4
    ... )
    >>> distil(settings, console=Console(quiet=True))["steps"]
    4

    Args:
        settings: Model, teacher, texts, output folder, and how to train.
        console: Where to print; None prints to the terminal.

    Returns:
        Loss and cosine to the teacher ``before`` and at the ``best`` step, every evaluation, and more. The model is in
        the folder ``model`` below ``settings.output``.

    Raises:
        ValueError: Something in the settings, the text or the folder does not do; nothing has been changed.
        KeyboardInterrupt: The run was stopped by Ctrl-C or SIGTERM; a checkpoint has been written.
    """
    return _results(run_distil(settings, console=console), settings.output)


def adapt(settings: AdaptSettings, console: Console | None = None) -> dict[str, Any]:
    """Teach an encoder to read long texts, on plain text without labels, as ``linformers adapt`` does.

    >>> settings = AdaptSettings(
    ...     model="my-encoder", texts=("corpus.txt",), output="runs/long", segment_length=32, length=64, steps=4
    ... )
    >>> print(*sorted(adapt(settings, console=Console(quiet=True))["alone"]))
    loss passages segments

    Args:
        settings: Model, texts, output folder, and how to train.
        console: Where to print; None prints to the terminal.

    Returns:
        How well held-out segments and passages are found ``before``, at the ``best`` step, and by the encoder that
        reads each segment ``alone``; every evaluation, and more. The model is in the folder ``model`` below
        ``settings.output``.

    Raises:
        ValueError: Something in the settings, the text or the folder does not do; nothing has been changed.
        KeyboardInterrupt: The run was stopped by Ctrl-C or SIGTERM; a checkpoint has been written.
    """
    return _results(run_adapt(settings, console=console), settings.output)


def score(settings: ScoreSettings, console: Console | None = None) -> dict[str, Any]:
    """Score files of documents, each exactly once, as ``linformers score`` does.

    A classifier reads ``text`` (or the two columns it was trained on) and gives labels and probabilities; a tagger
    reads ``text`` and gives ``entities`` with their characters; a model that answers reads ``question`` and ``context``
    and gives ``answer``, ``start``, ``end``, ``score`` and ``null_score``; an encoder gives ``embedding``.

    >>> settings = ScoreSettings(model="my-classifier", input=("reviews.jsonl",), output="runs/scores")
    >>> counts = score(settings, console=Console(quiet=True))["counts"]
    >>> counts["scored"]
    40

    Args:
        settings: Model, input files, output folder, and how to read.
        console: Where to print; None prints to the terminal.

    Returns:
        The ``counts`` of rows, scored and rejected. The scores are in the folder ``scores`` below ``settings.output``.

    Raises:
        ValueError: An option, a model or an output folder that cannot be used, or an input that has changed.
        OSError: An input that is not there, or cannot be read now.
    """
    return run_score(settings, console or Console())


def embed(settings: EmbedSettings, console: Console | None = None) -> dict[str, Any]:
    """Embed files of documents, each exactly once, as ``linformers embed`` does.

    >>> settings = EmbedSettings(model="my-encoder", input=("reviews.jsonl",), output="runs/vectors")
    >>> counts = embed(settings, console=Console(quiet=True))["counts"]
    >>> counts["vectors"]
    40

    Args:
        settings: Model, input files, output folder, what has a vector, and how it is stored.
        console: Where to print; None prints to the terminal.

    Returns:
        The ``counts`` of rows, embedded and rejected, and of vectors. These are in the folder ``embeddings`` below
        ``settings.output``, in a column of fixed-size lists, ``embedding``.

    Raises:
        ValueError: An option, a model or an output folder that cannot be used, or an input that has changed.
        OSError: An input that is not there, or cannot be read now.
    """
    return run_embed(settings, console or Console())


def _results(code: int, folder: str) -> dict[str, Any]:
    """The results of a run that has ended well, by its exit code."""
    if code:
        raise KeyboardInterrupt(f"the run in {folder} was stopped; the same call goes on with it")
    return json.loads((Path(folder) / RESULTS).read_text(encoding="utf-8"))
