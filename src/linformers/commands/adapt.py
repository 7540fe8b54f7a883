"""Adapt an encoder to long texts on plain text: no labels, no teacher but the encoder itself."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from rich.console import Console

from linformers._registration import ATTENTION, MODEL_TYPE
from linformers.commands.plain_text import PlainTextJob, PlainTextSettings
from linformers.convert.interface import Settings, settings_of
from linformers.convert.linearise import linearise
from linformers.convert.load import longest_input
from linformers.data.cache import TokenCache
from linformers.data.padding import PadBatch
from linformers.files.run_folder import MODEL
from linformers.files.settings import Count, Natural
from linformers.scoring.sentence import read_sentences
from linformers.training.contrast import SHORTEST_SEGMENT, Contrast, Queries, Weights
from linformers.training.engine import Batches
from linformers.training.job import Prepared
from linformers.training.processes import evaluation_batches, refuse_launcher, step_batches

KIND = "linformers adapt"
# How an encoder is read that is not linear yet.
READING: dict[str, Any] = {
    "segment_length": 128,
    "max_length": 8192,
    "projected_dim": 32,
    "context_weight": 0.25,
    "global_tokens": Settings.global_tokens,
}


class AdaptSettings(PlainTextSettings):
    """An adaptation to long texts; more of it in ``PlainTextSettings``.

    The model's vectors are means of its tokens. If it is not linear yet, it becomes so, in its own class; one that is
    linear already keeps its reading, so that the first five must be left out or agree with it.

    Args:
        segment_length: Tokens of a segment; None = 128.
        max_length: Tokens of the longest text that the result reads; None = 8,192.
        projected_dim: Slots for all other segments; None = 32.
        context_weight: The most that all other segments weigh of what the own weighs; None = 0.25.
        global_tokens: Tokens at the start of a text, as its title, that every segment sees exactly; None = 1.
        anchor: Weight of staying near the vectors that the encoder gave before.
        evaluation_passages: The most of the held-out passages that are read.
    """

    WARMUP_SHARE: ClassVar[float] = 0.05

    segment_length: Annotated[int, Field(ge=32)] | None = None
    max_length: Count | None = None
    projected_dim: Count | None = None
    context_weight: Annotated[float, Field(ge=0)] | None = None
    global_tokens: Natural | None = None
    length: Annotated[int, Field(ge=64)] = 1024
    steps: Count = 200
    batch_size: Annotated[int, Field(ge=2)] = 4
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    anchor: Annotated[float, Field(ge=0)] = 1.0
    evaluation_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    evaluation_passages: Count = 64
    evaluate_every: Count = 50
    save_every: Count = 50


def run_adapt(settings: AdaptSettings, *, console: Console | None = None) -> int:
    """Adapt, or go on with the run in the output folder; see ``Job.run``."""
    refuse_launcher(KIND)
    return AdaptJob(settings, console).run()


class AdaptJob(PlainTextJob):
    """An adaptation run."""

    kind: str
    title: str
    plan_name: str
    template: str

    kind, title, plan_name, template = KIND, "adapting", "adapt.json", "adapted.md"

    def prepare(self) -> Prepared:
        """Load the encoder and tokenise the text."""
        settings, training = self.settings, self.settings.training()
        model = self.load()
        self._check_vectors()
        self.take(self._linear(model))
        segment_length = settings_of(self.model.config).segment_length
        texts, held_out, fingerprint = self.read_texts()
        self._check_lengths([*texts, *held_out], segment_length)
        train = self.blocks(texts, total=settings.steps * settings.batch_size, documents="apart")
        self.sizes: list[int] = [len(train[item]["input_ids"]) for item in range(len(train))]  # short texts are short
        passages = self.blocks(held_out, limit=settings.evaluation_passages, documents="apart")
        held_out_batches = evaluation_batches(len(passages), settings.batch_size, self.layout)
        pad = PadBatch(self.tokenizer.pad_token_id)
        counts = np.sum([np.bincount(cache.tokens, minlength=len(self.tokenizer)) for cache in texts], axis=0)
        self.objective: Contrast = Contrast(
            copy.deepcopy(self.encoder).eval().requires_grad_(False),
            [pad([passages[item] for item in items]) for items in held_out_batches],
            Queries(counts, self.tokenizer.all_special_ids, segment_length - 2),
            segment_length=segment_length,
            first=texts[0].bos_token_id,
            last=texts[0].eos_token_id,
            pad=pad,
            weights=Weights(anchor=settings.anchor),
            seed=settings.seed,
            device=self.layout.device,
        )
        if not self.objective.measurable:
            raise ValueError(
                f"evaluation_share={settings.evaluation_share}: the held-out text has no segment long enough to make "
                "a query of; give more text or a greater share"
            )
        return Prepared(
            model=self.encoder,
            training=training,
            objective=self.objective,
            batches=Batches(train, step_batches(training, self.layout), pad),
            fingerprint=fingerprint,
            says=f"{settings.steps:,} steps of {settings.batch_size} passages of up to {settings.length:,} tokens",
            per_step=round(sum(self.sizes) / settings.steps),
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
        asked = {option: value for option in READING if (value := getattr(settings, option)) is not None}
        if getattr(model.config, ATTENTION, None) is None:
            chosen = READING | asked
            if "segment_length" not in asked:
                chosen["segment_length"] = min(chosen["segment_length"], longest_input(model))
            if "max_length" not in asked:
                chosen["max_length"] = max(chosen["max_length"], longest_input(model))
            # Where slots weigh little, clusters cost more than they give.
            model = linearise(model, **chosen, projection_kind="attention_pool")
        else:
            there = vars(settings_of(model.config)) | {"max_length": longest_input(model)}
            for option, value in asked.items():
                if value != there[option]:
                    raise ValueError(
                        f"{option}={value}, but model={name!r} is linear already and has {option}={there[option]}; "
                        "leave it out"
                    )
        if (found := settings_of(model.config).segment_length) < SHORTEST_SEGMENT:
            what = f"in segments of {found} tokens" if found else "as a whole"
            raise ValueError(
                f"model={name!r} reads a text {what} (segment_length={found}), and queries are made of segments of at "
                f"least {SHORTEST_SEGMENT}; give the encoder that it was made of"
            )
        if (seen := settings_of(model.config).global_tokens) >= found:
            raise ValueError(
                f"global_tokens={seen} must be less than the {found} tokens of a segment: every segment sees them all"
            )
        if settings.length > longest_input(model):
            raise ValueError(
                f"length={settings.length} is more than the {longest_input(model):,} tokens that the model reads; "
                "lower it, or give a greater max_length"
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

    @property
    def longest(self) -> int:
        """Tokens that the result reads."""
        return longest_input(self.model)

    def results(self, found: dict[str, Any], best: Path) -> dict[str, Any]:
        """How passages are found by the encoder in segments by themselves, beside the rest."""
        tokens = sum(self.sizes[: found["steps"] * self.settings.batch_size])
        return super().results(found, best) | {"tokens": tokens, "alone": self.objective.measure_alone()}

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
