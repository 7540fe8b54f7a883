"""The model card of a fine-tuned classifier: its data, its metrics with their intervals, and its limits."""

from collections.abc import Mapping
from typing import Any

import yaml

from linformers.classification.metrics import LABELS
from linformers.classification.settings import FinetuneSettings

PROBLEMS = {
    "single_label": "one class for each",
    "multi_label": "any number of classes for each",
    "regression": "a number for each",
}
NOUNS = {"text": "text", "image": "image", "audio": "recording"}
EXAMPLES = {"text": "A text.", "image": "image.png", "audio": "recording.wav"}
# transformers' pipeline makes RGB of every image.
GREY = """from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("this folder")
model = AutoModelForImageClassification.from_pretrained("this folder")
inputs = processor(Image.open("image.png").convert("L"), return_tensors="pt")
model.config.id2label[int(model(**inputs).logits.argmax())]"""


def model_card(settings: FinetuneSettings, results: dict[str, Any]) -> str:
    """Markdown with the metadata that model hubs read.

    Args:
        settings: of the run.
        results: what ``results.json`` holds.
    """
    noun, pipeline = NOUNS[settings.modality], f"{settings.modality}-classification"
    use = f"""from transformers import pipeline

pipeline("{pipeline}", model="this folder")("{EXAMPLES[settings.modality]}")"""
    if results.get("grey"):
        use = GREY
    ours = results["architecture"].startswith("Linformer")
    needed = "import linformers  # teaches transformers this kind of model\n" if ours else ""
    if results["linear"]:
        needed = "import linformers  # makes its attention linear; without it, it is softmax\n"
    header = {
        "library_name": "linformers" if ours else "transformers",
        "pipeline_tag": pipeline,
        "tags": [*(["linformers"] if needed else []), pipeline, *(["long-documents"] if noun == "text" else [])],
    }
    task, parts = results["task"], results["parts"]
    versions = results["environment"]["versions"]
    machine = f"{results['environment']['processor']}, device {results['environment']['device']}"
    rows = "\n".join(
        f"| {name} | {part['source']} | {part['rows']:,} | {part['cut']:,} | "
        f"{', '.join(f'{label} {count:,}' for label, count in part['labels'].items())} |"
        for name, part in parts.items()
    )
    metrics = "\n".join(
        f"| {LABELS[name]} | {found['value']:.4f} | {found['low']:.4f} to {found['high']:.4f} |"
        for name, found in results["metrics"].items()
    )
    reported = results["reported_on"]
    optimistic = (
        "The same rows chose the step, so these figures are a little optimistic."
        if reported == "validation"
        else "They chose nothing; the validation rows chose the step."
    )
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in results["left_out"].items()) or "none"
    teacher = (
        ""
        if settings.teacher is None
        else f"| teacher | {_name(settings.teacher)}, hidden states x {settings.hidden_weight:g}, "
        f"predictions x {settings.logits_weight:g} |\n"
    )
    figure = "\n![Confusion matrix](confusion_matrix.png)\n" if task["kind"] == "single_label" else ""
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {_name(settings.output)}: {task["name"]}

{_name(settings.model)}, fine-tuned with [Linformers](https://pypi.org/project/linformers/): {PROBLEMS[task["kind"]]}
{noun} ({", ".join(task["classes"])}). {results["parameters"]:,} parameters; inputs up to {results["max_length"]:,}
tokens.

```python
{needed}{use}
```

## Data

| | source | rows | cut at {results["max_length"]:,} tokens | labels |
| --- | --- | ---: | ---: | --- |
{rows}

Left out: {left_out} (`rejects.jsonl` of the run names them). {noun.capitalize()}s with contradicting labels, and
training {noun}s that are also held out, are never trained on.

## Results

On the {parts[reported]["rows"]:,} {reported} rows, with 95% bootstrap intervals. {optimistic}

| metric | value | 95% interval |
| --- | ---: | --- |
{metrics}
{figure}
## Training

| | |
| --- | --- |
{teacher}| steps | {results["steps"]:,} of {settings.batch_size} rows |
| weights | of step {results["best"]["step"]:,}, the best on the validation rows |
| learning rate | {settings.learning_rate:g}, linear |
| class weights | {settings.class_weights} |
| dtype of the weights | {settings.dtype}{_stored(settings, results)} |
| seed | {settings.seed} (split {settings.split_seed}) |

All settings are in `finetune.json`. Trained in {results["seconds"] / 60:,.1f} minutes ({machine}); torch
{versions["torch"]}, transformers {versions["transformers"]}, linformers {versions["linformers"]}.

## Limits

- The intervals tell how far other rows of the same kind would move the figures, not how the model does on other
  {noun}s.
- It has the errors and biases of its training {noun}s, of their labels and of {_name(settings.model)}.
- Inputs above {results["max_length"]:,} tokens were cut in training and in these figures.
"""


def _stored(settings: FinetuneSettings, results: Mapping[str, Any]) -> str:
    """That the weights were in another dtype before, where they were."""
    before = results.get("stored_dtype", settings.dtype)
    return "" if before == settings.dtype else f"; they were stored in {before}"


def _name(path: str) -> str:
    """Last part of a path, for where it lies on one machine is of no use elsewhere; of ``runs/x/model``, ``x``."""
    parts = path.rstrip("/").replace("\\", "/").split("/")
    return parts[-2] if parts[-1] == "model" and len(parts) > 1 else parts[-1]
