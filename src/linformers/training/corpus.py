"""From a recipe's data section to a tokenizer and data sets."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch.utils.data import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from linformers.data.books import load_books
from linformers.data.masking import Masking
from linformers.data.packing import pack
from linformers.data.regions import split_regions
from linformers.data.streams import Curriculum, MaskedBlocks, collate
from linformers.data.tokenise import TextEncoder, forget_limits, special_id
from linformers.data.tokenizer import train_tokenizer
from linformers.files.folders import write_folder
from linformers.files.run_folder import warn
from linformers.files.sources import check_apart, in_both
from linformers.training.processes import Layout, split_batch
from linformers.training.recipe import DataRecipe, Recipe, Stage, TrainingRecipe

EVALUATION_SEED = 0  # the same masks for every run, whatever its seed
MakeBlocks = Callable[[int, int, int], Dataset[Any]]  # length, total items, seed -> training sequences


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What a run trains on.

    Args:
        train: items in the order of training.
        evaluation: held-out items, always masked alike.
        collate: makes a batch of items.
        fingerprint: changes when the text or its tokens change.
        facts: for the model card.
    """

    train: Dataset[Any]
    evaluation: Dataset[Any]
    collate: Callable[[Sequence[Any]], dict[str, Any]]
    fingerprint: str
    facts: dict[str, Any]


def cache_folder(named: str | None = None) -> Path:
    """Where tokenised text is kept: a folder that is named, or the user's cache."""
    if named is not None:
        return Path(named).expanduser()
    base = os.environ.get("LINFORMERS_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "linformers"
    )
    return Path(base) / "tokens"


def prepare_tokenizer(recipe: Recipe, folder: Path, layout: Layout) -> PreTrainedTokenizerFast:
    """Train the tokenizer, or copy it, into ``folder`` (unless it is there), and load it; all processes must call.

    Raises:
        ValueError: the tokenizer cannot be loaded, or has no mask token.
    """

    def make() -> None:
        if folder.exists():
            return
        if recipe.tokenizer.path is not None:
            tokenizer = _load_tokenizer(recipe.tokenizer.path)
            tokenizer.model_max_length = recipe.model["max_position_embeddings"]
        else:
            tokenizer = train_tokenizer(
                _sample(recipe),
                vocab_size=recipe.tokenizer.vocab_size,
                min_frequency=recipe.tokenizer.min_frequency,
                model_max_length=recipe.model["max_position_embeddings"],
            )

        forget_limits(tokenizer)

        def write(target: Path) -> None:
            tokenizer.save_pretrained(target)

        write_folder(folder, write)

    layout.from_first(make)
    return _load_tokenizer(str(folder))


def _load_tokenizer(path: str) -> PreTrainedTokenizerFast:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"tokenizer.path={path!r} cannot be loaded; give a folder that save_pretrained wrote, a hub id that the "
            "network reaches, or leave it out to train one"
        ) from error
    if tokenizer.mask_token_id is None:
        raise ValueError(f"tokenizer.path={path!r} has no mask token, so it cannot be used for masked LM")
    return tokenizer


def _sample(recipe: Recipe) -> Iterator[str]:
    """Training text, up to ``sample_characters``."""
    left = recipe.tokenizer.sample_characters
    for text in _texts(recipe.data):
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def _texts(data: DataRecipe) -> Iterator[str]:
    if data.train == "books":
        yield from (region for book in load_books() for region in split_regions(book.text)[0])
        return
    from linformers.data.documents import read_texts
    from linformers.files.rejects import Rejects

    # Only counted here; tokenising names them in a file.
    yield from read_texts("data.train", data.sources("train"), Rejects(max_share=data.max_reject_share))


def prepare_corpus(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, layout: Layout, console: Console) -> Corpus:
    """Tokenise (or find in the cache), cut and mask.

    Raises:
        ValueError: unreadable sources, too many bad records, or too little text.
    """
    data = recipe.data
    masking = Masking.for_tokenizer(tokenizer, share=data.mask_share, whole_words=data.whole_words)
    if data.train == "books":
        return _books(recipe, tokenizer, masking)
    return _sources(recipe, tokenizer, masking, layout, console)


def _books(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, masking: Masking) -> Corpus:
    data, books = recipe.data, load_books()
    parts = [split_regions(book.text) for book in books]
    encoder = TextEncoder(tokenizer)
    train = encoder.ids([region for regions, _ in parts for region in regions])
    held_out = encoder.ids([region for _, regions in parts for region in regions])
    ends = {"bos_token_id": encoder.bos_token_id, "eos_token_id": encoder.eos_token_id}

    def blocks(length: int, total: int, seed: int) -> Dataset[Any]:
        return MaskedBlocks(pack(train, length=length, **ends), masking, seed=seed, total=total)

    chosen = pack(held_out, length=data.length, **ends)
    chosen = chosen[_spread(len(chosen), data.evaluation_sequences)]
    digest = hashlib.sha256()
    for document in (*train, *held_out):
        digest.update(document.tobytes())
    return Corpus(
        train=curriculum(data.stages, recipe.training, data.length, blocks),
        evaluation=MaskedBlocks(chosen, masking, seed=EVALUATION_SEED),
        collate=collate,
        fingerprint=digest.hexdigest()[:16],
        facts={
            "train": f"{len(books)} public-domain books that ship with Linformers",
            "evaluation": "regions of the same books, apart from the training text",
            "train_tokens": sum(map(len, train)),
            "evaluation_tokens": int(chosen.size),
        },
    )


def _sources(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, masking: Masking, layout: Layout, console: Console
) -> Corpus:
    from linformers.data.cache import tokenise
    from linformers.data.corpus import PackedBlocks
    from linformers.data.padding import PadBatch

    data, folder = recipe.data, cache_folder(recipe.data.cache)
    check_apart("data.train", data.sources("train"))
    check_apart("data.evaluation", data.sources("evaluation"))
    if layout.rank == 0 and (both := in_both(data.sources("train"), data.sources("evaluation"))):
        warn(console, f"{both[0]} is in data.train and in data.evaluation: what is measured on it was trained on")

    def cached(which: Any) -> list[Any]:
        return tokenise(
            data.sources(which),
            tokenizer,
            folder,
            max_reject_share=data.max_reject_share,
            verify=layout.rank == 0,
            console=console if layout.rank == 0 else None,
        )

    caches = [] if data.streaming else cached("train")
    if data.evaluation is not None:
        held_out = cached("evaluation")
        train = caches
    else:
        pairs = [cache.split(data.evaluation_share) for cache in caches]
        train, held_out = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    weights = [source.weight for source in data.sources("train")]

    def blocks(length: int, total: int, seed: int) -> Dataset[Any]:
        return PackedBlocks(
            train, length=length, masking=masking, seed=seed, total=total, weights=weights, documents=data.documents
        )

    evaluation = PackedBlocks(
        held_out, length=data.length, masking=masking, seed=EVALUATION_SEED, limit=data.evaluation_sequences
    )
    prints = [cache.fingerprint for cache in (*caches, *(held_out if data.evaluation is not None else ()))]
    facts = {
        "train": ", ".join(source.path for source in data.sources("train")),
        "evaluation": ", ".join(source.path for source in data.sources("evaluation"))
        or f"{data.evaluation_share:.0%} of the same, set aside",
        "train_tokens": sum(cache.num_tokens for cache in train) if train else None,
        "evaluation_tokens": len(evaluation) * data.length,
    }
    read = [*caches, *(held_out if data.evaluation is not None else ())]
    facts |= {
        "records_unusable": sum(cache.num_rejected for cache in read),
        "files_not_read": [file for cache in read for file in cache.files_not_read],
    }
    return Corpus(
        train=_stream(recipe, tokenizer, masking, layout)
        if data.streaming
        else curriculum(data.stages, recipe.training, data.length, blocks),
        evaluation=evaluation,
        collate=PadBatch(special_id(tokenizer, "pad", "eos", "sep")),
        fingerprint=hashlib.sha256("\n".join(prints).encode()).hexdigest()[:16],
        facts=facts,
    )


def _stream(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, masking: Masking, layout: Layout) -> Dataset[Any]:
    from linformers.data.streaming import StreamedBlocks

    data, training = recipe.data, recipe.training
    return StreamedBlocks(
        data.sources("train"),
        tokenizer,
        length=data.length,
        masking=masking,
        seed=training.seed,
        total=training.steps * training.batch_size // layout.replicas,
        batch_size=split_batch(training, layout)[0],
        rank=layout.replica,
        world_size=layout.replicas,
        documents=data.documents,
        rejects_dir=cache_folder(data.cache) / "streaming-rejects",
        max_reject_share=data.max_reject_share,
    )


def curriculum(stages: Sequence[Stage], training: TrainingRecipe, length: int, blocks: MakeBlocks) -> Curriculum:
    """Items of a whole run; each holds as many tokens as a sequence of full length.

    Args:
        stages: Lengths, each of which divides the full one, with shares that add up to 1; none is the full one alone.
        training: Steps, batch size and seed of the run.
        length: The full length, in tokens.
        blocks: Makes the sequences of a stage.
    """
    stages = stages or (Stage(length=length, share=1.0),)
    parts: list[tuple[Dataset[Any], int]] = []
    for number, (stage, steps) in enumerate(zip(stages, cut_steps(stages, training.steps), strict=True)):
        group = length // stage.length
        # Stages must not repeat each other's random numbers: the seed of each is its own.
        seed = training.seed * 1000 + number
        parts.append((blocks(stage.length, steps * training.batch_size * group, seed), group))
    return Curriculum(parts)


def cut_steps(stages: Sequence[Stage], steps: int) -> list[int]:
    """Steps of each stage; they add up to ``steps``."""
    ends = [round(share * steps) for share in accumulate(stage.share for stage in stages)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _spread(size: int, limit: int) -> np.ndarray:
    return np.arange(size) if size <= limit else np.arange(limit) * size // limit


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    """What the model's configuration takes from the tokenizer."""
    return {
        "bos_token_id": special_id(tokenizer, "bos", "cls"),
        "eos_token_id": special_id(tokenizer, "eos", "sep"),
        "pad_token_id": special_id(tokenizer, "pad") if tokenizer.pad_token is not None else None,
    }
