"""The model cards of what is trained, converted, distilled, adapted or exported: metadata for hubs, and a text."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from linformers.classification.metrics import LABELS
from linformers.classification.settings import FinetuneSettings
from linformers.convert.fidelity import Fidelity
from linformers.report.document import slug
from linformers.report.render import render
from linformers.training.recipe import Recipe

CARD = "README.md"
Results = Mapping[str, Any]

_INHERITED = ("license", "license_name", "license_link", "language", "base_model")
_NOUNS = {"text": "text", "image": "image", "audio": "recording"}
_HUB_METRICS = {  # names at hf.co/metrics, where they are others than ours
    "f1_macro": "f1",
    "f1_micro": "f1",
    "matthews": "matthews_correlation",
    "auroc": "roc_auc",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
_TAGS = {"texts": "long-documents", "images": "vision", "recordings": "audio"}


def pretrained_card(recipe: Recipe, results: Results) -> ModelCard:
    """The card of a pretrained model.

    Args:
        recipe: Recipe of the run.
        results: What ``results.json`` holds.
    """
    name, perplexity = _name(recipe.output.folder), {"perplexity": results["best"]["perplexity"]}
    header = ModelCardData(
        library_name="linformers",
        pipeline_tag="fill-mask",
        tags=["linformer", "fill-mask", "long-documents"],
        **_measured(name, "fill-mask", results["data"]["evaluation"], "validation", perplexity),
    )
    return _card(header, "pretrained.md", results, recipe=recipe)


def finetuned_card(settings: FinetuneSettings, results: Results) -> ModelCard:
    """The card of a fine-tuned classifier.

    Args:
        settings: Settings of the run.
        results: What ``results.json`` holds.
    """
    name, noun, task = _name(settings.output), _NOUNS[settings.modality], results["task"]
    pipeline, reported = f"{settings.modality}-classification", results["reported_on"]
    ours, linear = results["architecture"].startswith("Linformer"), results["linear"]
    values = {metric: found["value"] for metric, found in results["metrics"].items()}
    header = ModelCardData(
        **_inherited(settings.model, _header(settings.model)),
        library_name="linformers" if ours else "transformers",
        pipeline_tag=pipeline,
        tags=["linformers"] * (ours or linear) + [pipeline] + ["long-documents"] * (noun == "text"),
        **_measured(name, pipeline, task["name"], reported, values),
    )
    return _card(header, "finetuned.md", results, settings=settings, noun=noun, ours=ours, labels=results["names"])


def annotated_card(settings: FinetuneSettings, results: Results) -> ModelCard:
    """The card of a fine-tuned tagger, or of a model that answers questions.

    Args:
        settings: Settings of the run.
        results: What ``results.json`` holds.
    """
    name, task = _name(settings.output), results["task"]
    pipeline = "question-answering" if task["kind"] == "answers" else "token-classification"
    ours, linear = results["architecture"].startswith("Linformer"), results["linear"]
    values = {metric: found["value"] for metric, found in results["metrics"].items()}
    header = ModelCardData(
        **_inherited(settings.model, _header(settings.model)),
        library_name="linformers" if ours else "transformers",
        pipeline_tag=pipeline,
        tags=["linformers"] * (ours or linear) + [pipeline, "long-documents"],
        **_measured(name, pipeline, task["name"], results["reported_on"], values),
    )
    return _card(header, "annotated.md", results, settings=settings, ours=ours, labels=results["names"])


def converted_card(facts: Results, fidelity: Fidelity | None, model: str, folder: str | Path) -> ModelCard:
    """The card of a converted model.

    Args:
        facts: What ``conversion.json`` holds.
        fidelity: How far it is from its teacher; None = not measured.
        model: Folder, file or hub id of its teacher.
        folder: Where the teacher's own card is, if it has one.
    """
    base = _header(folder)
    library = "linformers"
    if facts["own_class"]:
        library = "sentence-transformers" if facts["sentence_transformers"] else "transformers"
    tags = base.get("tags") or []
    header = ModelCardData(
        **_inherited(model, base),
        library_name=library,
        pipeline_tag=base.get("pipeline_tag"),
        tags=["linformers", _TAGS[facts["inputs"]], *([tags] if isinstance(tags, str) else tags)],
    )
    distillable = distillation_length(facts) is not None
    return _card(header, "converted.md", facts, fidelity=fidelity, loader=loader(facts), distillable=distillable)


def continued_card(template: str, source: Path, name: str, results: Results, settings: Any, stored: str) -> str:
    """The card that a model had, with a section on what was done with it since.

    Args:
        template: The section's template, such as ``distilled.md``.
        source: Folder of the model before.
        name: Name of the run, for a model without a card.
        results: What ``results.json`` holds.
        settings: Settings of the run.
        stored: Dtype of the weights before.
    """
    section = render(template, results=results, settings=settings, stored=stored)
    return (_text_of(source) or f"# {name}\n") + f"\n{section}\n"


def exported_card(facts: Results, model: str) -> ModelCard:
    """The card of an exported model.

    Args:
        facts: What ``export.json`` holds.
        model: Folder or hub id of what was exported.
    """
    base = _header(model)
    quantised: dict[str, Any] = {"base_model_relation": "quantized"} if facts["int8"] else {}
    header = ModelCardData(
        **_inherited(model, base),
        **quantised,
        library_name="onnx",
        pipeline_tag=base.get("pipeline_tag"),
        tags=["linformers", "onnx", *(["int8"] if quantised else []), "long-documents"],
    )
    return _card(header, "exported.md", facts)


def loader(facts: Results) -> str:
    """What loads a converted model: a class of ours, of transformers or of sentence-transformers."""
    name = facts["architecture"]
    if not facts["sentence_transformers"]:
        return f"{name}.from_pretrained"
    return "CrossEncoder" if name.endswith("ForSequenceClassification") else "SentenceTransformer"


def distillation_length(facts: Results) -> int | None:
    """Tokens of the longest texts on which it can be distilled; None where there is nothing to gain, or no text."""
    if facts["inputs"] != "texts":
        return None
    both = min(facts["max_length"], facts["teacher_length"])
    return both if facts["has_teacher"] and facts["exact_up_to"] < both else None


def _card(header: ModelCardData, template: str, results: Results, **given: Any) -> ModelCard:
    environment = results["environment"]
    packages = ("torch", "transformers", "linformers")
    versions = ", ".join(f"{package} {environment['versions'][package]}" for package in packages)
    text = render(template, results=results, versions=versions, name_of=_name, **given)
    return ModelCard(f"---\n{header.to_yaml()}\n---\n\n{text.strip()}\n")


def _inherited(model: str, base: Mapping[str, Any]) -> dict[str, Any]:
    """What the card of a model made from another takes over; a model on the hub is named."""
    kept = {name: base[name] for name in _INHERITED if name in base}
    on_hub = not (Path(model).is_absolute() or Path(model).exists())
    return {**kept, "base_model": model} if on_hub else kept


def _measured(name: str, task: str, data: str, split: str, values: Mapping[str, float]) -> dict[str, Any]:
    """Metrics for a card's ``model-index``, which has no place for what is not a number."""
    results = [
        EvalResult(
            task_type=task,
            dataset_type=slug(data),
            dataset_name=data,
            dataset_split=split,
            metric_type=_HUB_METRICS.get(metric, metric),
            metric_name=LABELS.get(metric, metric),
            metric_value=round(value, 6),
        )
        for metric, value in values.items()
        if math.isfinite(value)
    ]
    types = list(dict.fromkeys(result.metric_type for result in results))
    return {"model_name": name, "metrics": types, "eval_results": results} if results else {}


def _header(folder: str | Path) -> dict[str, Any]:
    """The metadata of the card in a model's folder; nothing where there is none, or none that can be read."""
    text = _text_of(folder)
    if not text.lstrip().startswith("---"):
        return {}
    try:
        return ModelCard(text, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, yaml.YAMLError):
        return {}


def _text_of(folder: str | Path) -> str:
    file = Path(folder) / CARD
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _name(path: str) -> str:
    """Last part of a path, for where it lies on one machine is of no use elsewhere; of ``runs/x/model``, ``x``."""
    parts = path.rstrip("/").replace("\\", "/").split("/")
    return parts[-2] if parts[-1] == "model" and len(parts) > 1 else parts[-1]
