"""Recipes: everything that decides a pretraining run, as strict YAML.

    model:      fields of LinformerConfig; the vocabulary comes from the tokenizer
    data:       what to learn from, and how it is cut and masked
    tokenizer:  a saved one, or the size of one to train
    training:   steps, rates, schedules, checkpoints, processes
    output:     where results go

``like: other.yaml`` takes over another recipe, by its path from this one, and changes it. The same recipe runs on one
process or on many: ``training.batch_size`` counts the sequences of a step over all of them.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, GetPydanticSchema
from typing_extensions import TypedDict

from linformers.attention.sharing import PROJECTION_KINDS
from linformers.files.settings import (
    Count,
    Natural,
    NonNegative,
    Places,
    Positive,
    Share,
    StrictModel,
    build,
    differences,
    override,
    read_yaml,
)
from linformers.files.sources import Source
from linformers.models import LinformerConfig

# What the tokenizer and the data decide.
_NOT_IN_RECIPES = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
MODEL_FIELDS = tuple(name for name in LinformerConfig.__annotations__ if name not in (*_NOT_IN_RECIPES, "model_type"))


def _without_tokenizer(fields: Any) -> Any:
    for name in _NOT_IN_RECIPES:
        if isinstance(fields, Mapping) and name in fields:
            raise ValueError(f"{name}={fields[name]!r} comes from the tokenizer; leave it out")
    return {} if fields is None else fields


# The types are those of LinformerConfig, so that a mistake has its line and an editor knows the fields.
_types = {name: LinformerConfig.__annotations__[name] for name in MODEL_FIELDS}
_ModelFields = TypedDict("_ModelFields", _types, total=False)  # type: ignore[misc]
_ModelFields.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[attr-defined]
ModelRecipe = Annotated[
    dict[str, Any],
    GetPydanticSchema(lambda _, handler: handler(_ModelFields)),
    BeforeValidator(_without_tokenizer),
]


class Stage(StrictModel):
    """A part of the run at one sequence length (tokens), which takes this share of the steps."""

    length: int
    share: float


class DataRecipe(StrictModel):
    """What to learn from.

    Args:
        train: The text to learn from: ``books`` (the sixteen that ship with the package), or sources: paths, or
            ``path`` with ``weight``, ``text_column`` and ``documents``.
        evaluation: Sources of held-out text; None sets ``evaluation_share`` of the training text aside.
        evaluation_share: The share of each source's tokens that is set aside.
        evaluation_sequences: The most sequences that are evaluated, spread evenly; always the same ones, masked alike.
        length: Tokens in a sequence.
        stages: Parts of the run, shorter sequences first, as many at once as fill ``length``; the shares add up to 1.
        documents: The packing: ``joined`` fills sequences across documents (RoBERTa's FULL-SENTENCES), ``apart`` never
            does.
        streaming: Whether the sources are read anew in each epoch, without a cache on disk.
        mask_share: The share of the tokens to predict.
        whole_words: Whether whole words are masked, not single tokens.
        cache: Path of the folder of tokenised text, shared by all runs; None = the user's cache folder.
        max_reject_share: The largest share of records that cannot be read; with more the run stops.
        workers: Processes that prepare batches, for each training process.
    """

    train: tuple[Source | str, ...] | Literal["books"]
    evaluation: tuple[Source | str, ...] | None = None
    evaluation_share: Share = 0.05
    evaluation_sequences: Count = 256
    length: Annotated[int, Field(ge=8)] = 512
    stages: tuple[Stage, ...] = ()
    documents: Literal["joined", "apart"] = "joined"
    streaming: bool = False
    mask_share: Share = 0.15
    whole_words: bool = False
    cache: str | None = None
    max_reject_share: Share = 0.01
    workers: Natural = 0

    def _check(self) -> None:
        if not self.train:
            raise ValueError("train=[] names no source; give paths, or `train: books`")
        if self.evaluation is not None and not self.evaluation:
            raise ValueError("evaluation=[] names no source; give paths, or leave it out")
        for stage in self.stages:
            if stage.length < 8 or self.length % stage.length:
                raise ValueError(
                    f"stages: length={stage.length} must be 8 or more and divide length={self.length}; the longest "
                    "stage has the full length"
                )
        if self.stages and abs(sum(stage.share for stage in self.stages) - 1) > 1e-6:
            raise ValueError(f"stages: the shares add up to {sum(s.share for s in self.stages):g}; make them 1")
        if self.streaming and (self.stages or self.train == "books" or self.evaluation is None):
            raise ValueError(
                "streaming=true needs sources in train and in evaluation, and no stages: text that is not kept cannot "
                "be set aside or cut again"
            )

    def sources(self, which: Literal["train", "evaluation"]) -> list[Source]:
        """The sources, with plain paths made into them."""
        chosen = self.train if which == "train" else self.evaluation
        if isinstance(chosen, str) or chosen is None:
            return []
        return [Source(path=source) if isinstance(source, str) else source for source in chosen]


class TokenizerRecipe(StrictModel):
    """Where the vocabulary comes from.

    Args:
        path: Path of the folder of a saved tokenizer (any fast one with a mask token), or its id on the Hugging Face
            hub; None trains a byte-level BPE on the training text.
        vocab_size: Tokens of the vocabulary to train.
        min_frequency: The least count of a pair of tokens that is merged.
        sample_characters: Characters to train on, roughly.
    """

    path: str | None = None
    vocab_size: Count = 8192
    min_frequency: Count = 2
    sample_characters: Count = 200_000_000


class TrainingRecipe(StrictModel):
    """How long, how fast, and on what.

    Args:
        steps: Steps of the optimiser.
        batch_size: Sequences of ``data.length`` tokens a step, over all processes.
        micro_batch_size: Sequences that a process takes at once; gradients of several are added up. None = its whole
            share of the batch.
        learning_rate: The peak of AdamW's rate.
        schedule: The rate after the warm-up: ``linear`` or ``cosine`` to 0, or ``wsd`` (stable, then linear to 0).
        warmup_share: The share of the steps in which the rate rises.
        decay_share: The share of the steps in which ``wsd`` falls.
        weight_decay: AdamW's weight decay, on matrices only.
        beta1: AdamW's decay of the mean of gradients.
        beta2: AdamW's decay of the mean of their squares.
        epsilon: AdamW's addend to the denominator.
        max_grad_norm: The norm to which gradients are clipped.
        evaluate_every: Steps between evaluations; there is always one at the end.
        early_stopping: Evaluations without a better one after which the run stops; None = never.
        evaluation_batch_size: Sequences that a process evaluates at once.
        save_every: Steps between checkpoints; a crash loses at most this.
        keep_checkpoints: Checkpoints to keep; older ones are removed.
        log_every: Steps between entries of the training loss.
        precision: The number format: ``auto`` is bfloat16 on GPUs that have it, float32 elsewhere.
        device: The device: ``auto`` takes a GPU where there is one.
        compile: Whether the layers run through torch.compile.
        activation_checkpointing: Whether only the input of each layer is kept and the rest computed again; for long
            sequences ``model.stream_chunk_size`` saves more.
        sharding: The place of weights and optimiser: ``none`` keeps them on every process (DDP), ``full`` spreads them
            (FSDP2).
        sequence_parallel_size: Processes that share each sequence; must divide their number.
        seed: The seed of weights, order, masks and dropout.
    """

    steps: Count
    batch_size: Count
    learning_rate: Positive
    micro_batch_size: Count | None = None
    schedule: Literal["linear", "cosine", "wsd"] = "linear"
    warmup_share: Share = 0.06
    decay_share: Share = 0.2
    weight_decay: NonNegative = 0.01
    beta1: Share = 0.9
    beta2: Share = 0.98
    epsilon: Positive = 1e-6
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    evaluate_every: Count = 1000
    early_stopping: Count | None = None
    evaluation_batch_size: Count = 16
    save_every: Count = 1000
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    log_every: Count = 50
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu"] = "auto"
    compile: bool = False
    activation_checkpointing: bool = False
    sharding: Literal["none", "full"] = "none"
    sequence_parallel_size: Count = 1
    seed: Natural = 0

    def _check(self) -> None:
        if self.schedule == "wsd" and self.warmup_share + self.decay_share > 1:
            raise ValueError(f"decay_share={self.decay_share} and warmup_share={self.warmup_share} exceed the run")


class OutputRecipe(StrictModel):
    """Where results go.

    Args:
        folder: Path of the run folder. The same folder and recipe again go on where the run stopped.
        report_to: The log of losses: ``tensorboard``, or ``none``.
    """

    folder: str
    report_to: Literal["tensorboard", "none"] = "tensorboard"


class Recipe(StrictModel):
    """A whole run; see the sections."""

    model: ModelRecipe = {}
    data: DataRecipe
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    training: TrainingRecipe
    output: OutputRecipe

    def _check(self) -> None:
        config = self.config(vocab_size=self.tokenizer.vocab_size)
        if config.max_position_embeddings < self.data.length:
            raise ValueError(
                f"model.max_position_embeddings={config.max_position_embeddings} is below data.length="
                f"{self.data.length}; leave it out, or make it longer"
            )
        size = self.training.sequence_parallel_size
        if size > 1:
            kinds = {kind for kind, _ in config.layer_attention}
            if kinds - {"linformer", "kfree", "none"} or not PROJECTION_KINDS[config.projection_kind].is_sum:
                raise ValueError(
                    f"training.sequence_parallel_size={size} needs model.attention_type kfree, or linformer with "
                    "another projection_kind than max_pool: nothing else is a sum over the tokens"
                )
            if self.data.length < 8 * size:
                raise ValueError(
                    f"training.sequence_parallel_size={size} leaves less than 8 tokens of data.length="
                    f"{self.data.length} to a process; lower it"
                )
        # With everything written out, a run is the same whatever later versions take as defaults.
        object.__setattr__(self, "model", {name: getattr(config, name) for name in MODEL_FIELDS})

    def config(self, *, vocab_size: int, **token_ids: int | None) -> LinformerConfig:
        """The model's configuration for a tokenizer.

        Raises:
            ValueError: a field that the configuration refuses.
        """
        fields: dict[str, Any] = {"max_position_embeddings": self.data.length, **self.model, **token_ids}
        try:
            return LinformerConfig(vocab_size=vocab_size, **fields)
        except (ValueError, TypeError) as error:  # of transformers in several lines
            text = " ".join(str(error).split())
            names_field = re.sub(r"\W.*", "", text) in MODEL_FIELDS
            raise ValueError(f"model{'.' if names_field else ': '}{text}") from error

    def as_dict(self) -> dict[str, Any]:
        """Plain values, every default written out."""
        return self.model_dump(mode="json")

    def as_yaml(self) -> str:
        """The resolved recipe; ``load_recipe`` reads it back to an equal one."""
        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True, width=120)

    def differences(self, other: "Recipe") -> list[str]:
        """What is different in ``other``, where runs go left out."""
        before, now = self.as_dict(), other.as_dict()
        before["output"]["folder"] = now["output"]["folder"] = ""
        return differences(before, now)


def recipe_schema() -> dict[str, Any]:
    """The JSON schema by which editors complete and check recipes; what ``like`` takes over may be missing."""
    schema = Recipe.model_json_schema()
    schema["properties"]["like"] = {"type": "string"}
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)
    return schema


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``section.key=value`` overrides.

    >>> load_recipe("recipe.yaml", ["training.steps=100"]).training.steps
    100

    Args:
        path: Path of the YAML file.
        overrides: Changes of what it says.

    Raises:
        ValueError: an unknown or missing key, or a value that does not do; the message names file and line.
        OSError: no such file.
    """
    data, places = _read(Path(path), ())
    override(data, places, overrides)
    return build(Recipe, data, places)


def _read(path: Path, readers: tuple[Path, ...]) -> tuple[dict[str, Any], Places]:
    """A recipe's plain values, on top of those of the recipe that it is like."""
    if not path.is_file():
        place = f"{readers[-1]}: like={path.name!r}: " if readers else ""
        raise FileNotFoundError(f"{place}there is no recipe {path}; the shipped ones are in recipes/")
    if path.resolve() in [reader.resolve() for reader in readers]:
        raise ValueError(f"{readers[-1]}: like={path.name!r} goes round in a circle; take it out of one of them")
    data, places = read_yaml(path)
    base = data.pop("like", None)
    if base is None:
        return data, places
    if not isinstance(base, str):
        raise ValueError(f"{places['like']}: like={base!r} must be the path of a recipe")
    below, below_places = _read(path.parent / base, (*readers, path))
    return _merge(below, data), {**below_places, **places}


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
