"""Adapt an encoder to long texts on plain text: no labels, no teacher but the encoder itself."""

import copy
import hashlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from rich.console import Console

from linformers._registration import ATTENTION, MODEL_TYPE
from linformers.convert.interface import CONTEXT_WEIGHT, settings_of
from linformers.convert.linearise import linearise
from linformers.convert.load import longest_input
from linformers.convert.surroundings import carry, with_surroundings
from linformers.data.cache import TokenCache, tokenise
from linformers.data.corpus import PackedBlocks
from linformers.data.masking import unmasked
from linformers.data.streams import Example
from linformers.data.tokenise import forget_limits
from linformers.files.run_folder import MODEL, Folder
from linformers.files.settings import Count, Natural, Positive, RunSettings, Share
from linformers.files.sources import Source
from linformers.report.cards import CARD, adapted_card
from linformers.scoring.sentence import read_sentences
from linformers.training import tensors
from linformers.training.contrast import STRETCH, Contrast, Queries, Weights, padded
from linformers.training.corpus import cache_folder
from linformers.training.engine import Batch, Batches
from linformers.training.job import Job, Prepared
from linformers.training.loading import load_saved, load_tokenizer, reported, stored_dtype
from linformers.training.processes import Layout, pick_device, refuse_launcher, step_batches
from linformers.training.recipe import TrainingRecipe

KIND, PLAN = "linformers adapt", "adapt.json"
SEGMENT_LENGTH, MAX_LENGTH = 128, 8192


class AdaptSettings(RunSettings):
    """An adaptation to long texts.

    Args:
        model: Path of a folder, or hub id, of an encoder whose vectors are means of its tokens, of
            sentence-transformers too. What is not linear yet becomes it, in its own class.
        texts: Paths of files or folders, or globs, with long text of the kind to come.
        text: The column of the texts; None = found by its usual name.
        delimiter: What stands between the fields of CSV; None = found, as for the next.
        encoding: The encoding of CSV, JSON and text.
        max_reject_share: The largest share of records that cannot be read; with more the run stops.
        segment_length: Tokens of a segment; None = as the model is read, or 128 where it is not linear yet.
        max_length: Tokens of the longest text that the result reads; of a model that is linear already, what it reads.
        projected_dim: Slots for all other segments, of a model that is not linear yet.
        context_weight: The most that all other segments weigh of what the own weighs, likewise.
        length: Tokens of a passage in training.
        steps: Steps of the optimiser.
        batch_size: Passages a step; each is told apart from the others.
        learning_rate: The peak of AdamW's rate; then a cosine to 0.
        anchor: Weight of staying near the vectors that the encoder gave before.
        evaluation_share: The share of the text that is set aside to measure on.
        evaluation_passages: The most of its passages that are read.
        evaluate_every: Steps between evaluations.
        save_every: Steps between checkpoints; a crash loses at most this.
        seed: The seed of order and queries.
        dtype: The type of the weights while they are trained, whatever they were stored in.
        device: The device: ``auto`` takes a GPU where there is one.
    """

    model: str
    texts: tuple[str, ...]
    text: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    max_reject_share: Share = 0.01
    segment_length: Annotated[int, Field(ge=32)] | None = None
    max_length: Count = MAX_LENGTH
    projected_dim: Count = 32
    context_weight: Annotated[float, Field(ge=0)] = 2 * CONTEXT_WEIGHT
    length: Annotated[int, Field(ge=64)] = 1024
    steps: Count = 200
    batch_size: Annotated[int, Field(ge=2)] = 4
    learning_rate: Positive = 2e-5
    anchor: Annotated[float, Field(ge=0)] = 1.0
    evaluation_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    evaluation_passages: Count = 64
    evaluate_every: Count = 50
    save_every: Count = 50
    seed: Natural = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu"] = "auto"

    def _check(self) -> None:
        if not self.texts:
            raise ValueError("texts names no file; give some long text of the kind to come")
        if self.length > self.max_length:
            raise ValueError(f"length={self.length} is more than max_length={self.max_length}; lower length")

    def training(self) -> TrainingRecipe:
        """What the engine goes by."""
        return TrainingRecipe(
            steps=self.steps,
            batch_size=self.batch_size,
            evaluation_batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_share=0.05,
            schedule="cosine",
            evaluate_every=self.evaluate_every,
            save_every=self.save_every,
            log_every=max(1, min(50, self.steps // 10)),
            seed=self.seed,
            device=self.device,
        )


def run_adapt(settings: AdaptSettings, *, console: Console | None = None) -> int:
    """Adapt, or go on with the run in the output folder; see ``Job.run``."""
    refuse_launcher(KIND)
    return AdaptJob(settings, console).run()


class AdaptJob(Job):
    """An adaptation run."""

    kind, title = KIND, "adapting"

    def __init__(self, settings: AdaptSettings, console: Console | None) -> None:
        folder = Folder(Path(settings.output), option="output", plan=PLAN, before=())
        layout = Layout(device=pick_device(settings.device))
        super().__init__(folder, settings.as_json(), settings.differences, layout, console)
        self.settings = settings

    def prepare(self) -> Prepared:
        """Load the encoder and tokenise the text."""
        settings, training = self.settings, self.settings.training()
        with reported("model", settings.model):
            self.source = Path(with_surroundings(settings.model))
        self._check_vectors()
        self.model = self._linear(load_saved("model", settings.model, settings.dtype))
        self.stored = stored_dtype("model", settings.model, settings.dtype, self.console)
        self.tokenizer: Any = load_tokenizer("model", settings.model)
        self.encoder: Any = self.model.base_model
        segment_length = settings_of(self.model.config).segment_length
        given: Any = {"text_column": settings.text, "delimiter": settings.delimiter, "encoding": settings.encoding}
        more: Any = {"max_reject_share": settings.max_reject_share, "console": self.console}
        sources = [Source(path=path, **given) for path in settings.texts]
        caches = tokenise(sources, self.tokenizer, cache_folder(), **more)
        cut = [cache.split(settings.evaluation_share) for cache in caches]
        train = self._blocks([part for part, _ in cut], total=settings.steps * settings.batch_size)
        held_out = self._blocks([part for _, part in cut], limit=settings.evaluation_passages)
        self._check_lengths([part for part, _ in cut], segment_length)
        caches = [part for part, _ in cut]
        counts = sum(np.bincount(cache.tokens, minlength=len(self.tokenizer)) for cache in caches)
        assert isinstance(counts, np.ndarray)
        self.objective = Contrast(
            copy.deepcopy(self.encoder).eval().requires_grad_(False),
            list(self._evaluation(held_out)),
            Queries(counts, self.tokenizer.all_special_ids, min(segment_length - 2, STRETCH[1] + 4)),
            segment_length=segment_length,
            first=caches[0].bos_token_id,
            last=caches[0].eos_token_id,
            padding=self.tokenizer.pad_token_id,
            weights=Weights(anchor=settings.anchor),
            seed=settings.seed,
            device=self.layout.device,
        )
        if not self.objective.measurable:
            raise ValueError(
                f"evaluation_share={settings.evaluation_share}: the held-out text has no segment long enough to make "
                "a query of; give more text or a greater share"
            )
        prints = "\n".join(part.fingerprint for pair in cut for part in pair)
        return Prepared(
            model=self.encoder,
            training=training,
            objective=self.objective,
            batches=Batches(train, step_batches(training, self.layout), self._collate),
            fingerprint=hashlib.sha256(prints.encode()).hexdigest()[:16],
            says=f"{settings.steps:,} steps of {settings.batch_size} passages of up to {settings.length:,} tokens",
            per_step=settings.batch_size * settings.length,
            measure_start=True,
        )

    def _check_vectors(self) -> None:
        """Refuse an encoder whose vectors are not the means of its tokens, with or without length 1."""
        found = read_sentences(self.source)
        if found.modes != ("mean",) or found.layers:
            how = (
                f"pools tokens by {', '.join(found.modes)}" if found.modes != ("mean",) else "has layers after pooling"
            )
            raise ValueError(
                f"model={self.settings.model!r} {how}, and what is adapted are means of tokens; take an encoder that "
                "pools by mean, with nothing after it"
            )

    def _linear(self, model: Any) -> Any:
        """The model, read in segments."""
        settings, name = self.settings, self.settings.model
        if model.config.model_type == MODEL_TYPE:
            raise ValueError(
                f"model={name!r} is a Linformer of ours, which reads a text as a whole; give the encoder that it was "
                "made of, or convert that in its own class"
            )
        there = settings_of(model.config).segment_length if getattr(model.config, ATTENTION, None) is not None else None
        if there is None:
            length = settings.segment_length or min(SEGMENT_LENGTH, longest_input(model))
            return linearise(
                model,
                max_length=max(settings.max_length, longest_input(model)),
                projected_dim=settings.projected_dim,
                projection_kind="attention_pool",  # where slots weigh little clusters cost more than they give
                segment_length=length,
                context_weight=settings.context_weight,
            )
        if there == 0:
            raise ValueError(
                f"model={name!r} is linear, but reads a text as a whole (segment_length=0); give the encoder that it "
                "was made of"
            )
        if settings.segment_length not in (None, there):
            raise ValueError(f"segment_length={settings.segment_length}, but model={name!r} has segments of {there}")
        if settings.length > longest_input(model):
            raise ValueError(
                f"length={settings.length} is more than the {longest_input(model):,} tokens that model={name!r} reads"
            )
        return model

    def _check_lengths(self, caches: Sequence[TokenCache], segment_length: int) -> None:
        """Refuse texts that are all as short as a segment, and say what share is longer."""
        sizes = np.concatenate([np.diff(cache.offsets) for cache in caches])
        long = sizes[sizes > segment_length].sum() / sizes.sum()
        if not long:
            raise ValueError(
                f"texts: none of {len(sizes):,} is longer than a segment of {segment_length} tokens, so there is "
                "nothing to adapt to; give longer texts"
            )
        self.say(f"{long:.0%} of the tokens stand in texts of more than {segment_length} tokens")

    def _blocks(self, caches: list[TokenCache], **options: Any) -> PackedBlocks:
        return PackedBlocks(
            caches,
            length=self.settings.length,
            masking=unmasked,
            seed=self.settings.seed,
            documents="apart",
            **options,
        )

    def _collate(self, examples: Sequence[Example]) -> Batch:
        return padded([example["input_ids"] for example in examples], self.tokenizer.pad_token_id)

    def _evaluation(self, blocks: PackedBlocks) -> Any:
        items = iter([blocks[item] for item in range(len(blocks))])
        while some := list(islice(items, self.settings.batch_size)):
            yield self._collate(some)

    def results(self, found: dict[str, Any], best: Path) -> dict[str, Any]:
        """What was read, how passages were found before, and by the encoder in segments by themselves."""
        tokens = found["steps"] * self.settings.batch_size * self.settings.length
        return {"tokens": tokens, "before": found["evaluations"][0][1], "alone": self.objective.measure_alone()}

    def write_model(self, target: Path, results: dict[str, Any], best: Path) -> None:
        """Write the best weights with the head and all that is around the model, and what was done on its card."""
        tensors.load_weights(self.encoder, best)
        inner = carry(self.source, target, longest_input(self.model))
        self.model.save_pretrained(inner)
        forget_limits(self.tokenizer)
        self.tokenizer.model_max_length = longest_input(self.model)
        self.tokenizer.save_pretrained(inner)
        card = adapted_card(self.source, self.path.name, results, self.settings, self.stored)
        (target / CARD).write_text(card, encoding="utf-8")

    def conclude(self, results: dict[str, Any]) -> None:
        """Say how much better passages are found, and what to do next."""
        best, model = results["best"], self.path / MODEL
        rows = [("each segment by itself, before", results["alone"]), ("before", results["before"]), ("after", best)]
        self.say(
            "Held-out text found by words of it, mean reciprocal rank (segments; passages in one vector):\n"
            + "\n".join(f"  {name:32} {row['segments']:.3f}  {row['passages']:.3f}" for name, row in rows)
            + ("\nIt became no better, and is as it was: use a lower --learning-rate." if best["step"] == 0 else "")
            + f"\n{results['tokens']:,} tokens in {results['seconds']:,.0f} s. Model and card: {model}\n"
            f"Next: linformers embed --model {model} --input FILES --output DIR"
        )
