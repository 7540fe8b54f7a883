"""What ``distil`` and ``adapt`` share: an encoder that is trained on plain text, and published with all around it."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from rich.console import Console
from transformers import PreTrainedModel

from linformers.convert.surroundings import carry, with_surroundings
from linformers.data.cache import TokenCache, tokenise
from linformers.data.corpus import PackedBlocks
from linformers.data.masking import unmasked
from linformers.data.tokenise import forget_limits
from linformers.files.run_folder import Folder
from linformers.files.settings import Count, Natural, Positive, RunSettings, Share
from linformers.files.sources import Source, check_apart
from linformers.models.silence import silenced
from linformers.report.cards import CARD, continued_card
from linformers.training import tensors
from linformers.training.corpus import cache_folder
from linformers.training.job import Job
from linformers.training.loading import load_saved, load_tokenizer, reported, stored_dtype
from linformers.training.processes import Layout, pick_device
from linformers.training.recipe import TrainingRecipe


class PlainTextSettings(RunSettings):
    """A run on plain text.

    Args:
        model: Path of the folder of the model, with any head; the head is not changed.
        texts: Paths of files or folders, or globs, with text of the kind to come.
        text: The column of the texts; None = found by its usual name.
        delimiter: What stands between the fields of CSV; None = found, as for the next.
        encoding: The encoding of CSV, JSON and text.
        max_reject_share: The largest share of records that cannot be read; with more the run stops.
        length: Tokens of a sequence in training.
        steps: Steps of the optimiser.
        batch_size: Sequences a step.
        learning_rate: The peak of AdamW's rate; then a cosine to 0.
        evaluation_share: The share of the text that is set aside to measure on.
        evaluate_every: Steps between evaluations.
        save_every: Steps between checkpoints; a crash loses at most this.
        seed: The seed of all that is drawn.
        dtype: The type of the weights while they are trained, whatever they were stored in; ``bfloat16`` halves the
            memory and learns less well.
        device: The device: ``auto`` takes a GPU where there is one.
    """

    WARMUP_SHARE: ClassVar[float] = TrainingRecipe.model_fields["warmup_share"].default

    model: str
    texts: tuple[str, ...]
    text: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    max_reject_share: Share = 0.01
    length: Annotated[int, Field(ge=8)] = 512
    steps: Count = 1000
    batch_size: Count = 8
    learning_rate: Positive = 3e-4
    evaluation_share: Annotated[float, Field(gt=0, lt=1)] = 0.02
    evaluate_every: Count = 100
    save_every: Count = 100
    seed: Natural = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu"] = "auto"

    def _check(self) -> None:
        if not self.texts:
            raise ValueError("texts names no file; give some text of the kind to come")

    def training(self) -> TrainingRecipe:
        """What the engine goes by."""
        return TrainingRecipe(
            steps=self.steps,
            batch_size=self.batch_size,
            evaluation_batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_share=self.WARMUP_SHARE,
            schedule="cosine",
            evaluate_every=self.evaluate_every,
            save_every=self.save_every,
            log_every=max(1, min(50, self.steps // 10)),
            seed=self.seed,
            device=self.device,
        )


class PlainTextJob(Job):
    """A run on plain text.

    Attributes:
        plan_name: File of the run folder with the settings.
        template: Template of the section that the run adds to the model's card.
    """

    plan_name: ClassVar[str]
    template: ClassVar[str]

    def __init__(self, settings: Any, console: Console | None) -> None:
        folder = Folder(Path(settings.output), option="output", plan=self.plan_name, before=())
        layout = Layout(device=pick_device(settings.device))
        super().__init__(folder, settings.as_json(), settings.differences, layout, console)
        self.settings = settings

    def load(self) -> PreTrainedModel:
        """The model with its head; its folder and its tokenizer are noted."""
        settings = self.settings
        with reported("model", settings.model):
            self.source: Path = Path(with_surroundings(settings.model))
        self.stored: str = stored_dtype("model", settings.model, settings.dtype, self.console)
        self.tokenizer: Any = load_tokenizer("model", settings.model)
        return load_saved("model", settings.model, settings.dtype)

    def take(self, model: PreTrainedModel) -> None:
        """Make this the model that is published; what is trained is its encoder, and a head stays as it is."""
        self.model: Any = model
        self.encoder: Any = model.base_model

    def read_texts(self) -> tuple[list[TokenCache], list[TokenCache], str]:
        """Tokens to train on, those that are held out, and what changes with either."""
        settings = self.settings
        given: Any = {"text_column": settings.text, "delimiter": settings.delimiter, "encoding": settings.encoding}
        more: Any = {"max_reject_share": settings.max_reject_share, "console": self.console}
        sources = [Source(path=path, **given) for path in settings.texts]
        check_apart("texts", sources)
        caches = tokenise(sources, self.tokenizer, cache_folder(), **more)
        self.read: dict[str, Any] = {
            "records_unusable": sum(cache.num_rejected for cache in caches),
            "files_not_read": [file for cache in caches for file in cache.files_not_read],
        }
        pairs = [cache.split(settings.evaluation_share) for cache in caches]
        prints = "\n".join(part.fingerprint for pair in pairs for part in pair)
        train, held_out = (list(parts) for parts in zip(*pairs, strict=True))
        return train, held_out, hashlib.sha256(prints.encode()).hexdigest()[:16]

    def blocks(self, caches: list[TokenCache], **options: Any) -> PackedBlocks:
        """Sequences of the run's length."""
        return PackedBlocks(caches, length=self.settings.length, masking=unmasked, seed=self.settings.seed, **options)

    @property
    def longest(self) -> int | None:
        """Tokens that the result reads; None = as many as before."""
        return None

    def results(self, found: dict[str, Any], best: Path) -> dict[str, Any]:
        """The tokens that were read, and what was measured before the first step."""
        tokens = found["steps"] * self.settings.batch_size * self.settings.length
        return {"tokens": tokens, "before": found["evaluations"][0][1], "read": self.read}

    def write_model(self, target: Path, results: dict[str, Any], best: Path) -> None:
        """Write the best weights with the head and all that is around the model, and what was done on its card."""
        tensors.load_weights(self.encoder, best)
        inner = carry(self.source, target, self.longest)
        with silenced():
            self.model.save_pretrained(inner)
        forget_limits(self.tokenizer)
        if self.longest is not None:
            self.tokenizer.model_max_length = self.longest
        self.tokenizer.save_pretrained(inner)
        card = continued_card(self.template, self.source, self.path.name, results, self.settings, self.stored)
        (target / CARD).write_text(card, encoding="utf-8")
