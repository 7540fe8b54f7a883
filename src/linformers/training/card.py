"""The model card of a pretrained model: what it is, what it learned from, how good it is, and its limits."""

from typing import Any

import yaml

from linformers.training.recipe import Recipe


def model_card(recipe: Recipe, results: dict[str, Any]) -> str:
    """Markdown with the metadata that model hubs read.

    Args:
        recipe: of the run.
        results: what ``results.json`` holds.
    """
    header = {
        "library_name": "linformers",
        "pipeline_tag": "fill-mask",
        "tags": ["linformer", "fill-mask", "long-documents"],
    }
    model, data, training = recipe.model, recipe.data, recipe.training
    best, facts, versions = results["best"], results["data"], results["environment"]["versions"]
    machine = f"{results['environment']['processor']}, device {results['environment']['device']}"
    chosen = (
        "attention_type",
        "projected_dim",
        "projection_kind",
        "projection_sharing",
        "local_window",
        "exact_length",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "norm_position",
    )
    shape = "\n".join(f"| `{name}` | {model[name]} |" for name in chosen)
    tokens = facts["train_tokens"]
    evaluations = "\n".join(
        f"| {step:,} | {metrics['loss']:.4f} | {metrics['perplexity']:.2f} |"
        for step, metrics in results["evaluations"]
    )
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {recipe.output.folder.rstrip("/").rpartition("/")[2]}: a Linformer encoder

An encoder whose attention takes time linear in the length of its input, pretrained by masked language modelling with
[Linformers](https://pypi.org/project/linformers/). {results["parameters"]:,} parameters; up to
{model["max_position_embeddings"]:,} tokens.

```python
import linformers  # teaches transformers this kind of model
from transformers import pipeline

pipeline("fill-mask", model="this folder")("The <mask> sat by the fire.")
```

## Data

- Training: {facts["train"]}{f", {tokens:,} tokens" if tokens else ""}.
- Held out: {facts["evaluation"]}, {facts["evaluation_tokens"]:,} tokens, always masked alike.
- Sequences of {data.length:,} tokens, {data.mask_share:.0%} of them predicted
  (80% masked, 10% random, 10% as they are).

## Configuration

| | |
| --- | --- |
{shape}
| steps | {results["steps"]:,} of {training.batch_size} sequences ({results["tokens"]:,} tokens) |
| learning rate | {training.learning_rate:g}, {training.schedule} |
| seed | {training.seed} |

All of it is in `recipe.yaml`; `linformers pretrain recipe.yaml output.folder=NEW` runs it again.

## Results

Perplexity per predicted token on the held-out text: **{best["perplexity"]:.2f}**, at step {best["step"]:,}, whose
weights these are.

| step | loss (nats) | perplexity |
| ---: | ---: | ---: |
{evaluations}

Trained in {results["seconds"] / 60:,.1f} minutes with {results["processes"]} process{"es" * (results["processes"] > 1)}
({machine}); torch {versions["torch"]}, transformers {versions["transformers"]}, linformers {versions["linformers"]}.

## Limits

- It predicts masked tokens and yields features; for a task it must be fine-tuned.
- It knows only what the text above holds, with that text's errors and biases.
- Perplexities compare only between models with the same tokenizer, held-out text and masks.
- Texts above {model["max_position_embeddings"]:,} tokens are refused.
"""
