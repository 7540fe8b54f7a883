"""The model card of a converted model: where it comes from, how far it is from that, and its limits."""

from collections.abc import Mapping
from typing import Any

import yaml

from linformers.analysis.fidelity import Fidelity
from linformers.models.config import LinformerConfig
from linformers.models.text import LinformerPreTrainedModel

_SETTINGS = (
    "attention_type",
    "projected_dim",
    "projection_kind",
    "projection_sharing",
    "local_window",
    "global_tokens",
    "max_position_embeddings",
)


def conversion_card(model: LinformerPreTrainedModel, facts: Mapping[str, Any], fidelity: Fidelity | None) -> str:
    """Markdown with the metadata that model hubs read.

    Args:
        model: the converted one.
        facts: what ``conversion.json`` holds.
        fidelity: how far it is from its teacher; None = not measured.
    """
    config, name = model.config, type(model).__name__
    header = {"library_name": "linformers", "tags": ["linformer", "long-documents"]}
    settings = "\n".join(f"| `{name}` | {getattr(config, name)} |" for name in _SETTINGS)
    versions = facts["environment"]["versions"]
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {facts["converted_from"]} as a Linformer

The weights of {facts["converted_from"]}, with attention whose time is linear in the length of the input, made by
[Linformers](https://pypi.org/project/linformers/). Up to {config.max_position_embeddings:,} tokens.

```python
from linformers import {name}

model = {name}.from_pretrained("this folder")
```

After `import linformers`, transformers' Auto classes and pipelines know it too.

## Conversion

    {facts["command"]}

| | |
| --- | --- |
{settings}

It took {facts["seconds"]:.1f} s ({facts["environment"]["processor"]}; torch {versions["torch"]}, transformers
{versions["transformers"]}, linformers {versions["linformers"]}). No weight was trained\
{f" but the projections, on {', '.join(facts['fit_texts'])}" if facts["fit_texts"] else ""}.

## Distance to the teacher

{_distance(facts, fidelity)}

## Limits

{_limits(config, facts)}
- It has the errors and biases of {facts["converted_from"]}, whose licence and card hold for these weights too.
- Texts above {config.max_position_embeddings:,} tokens are refused; beyond the length of the teacher the positions have
  seen no training.
- Distillation (`linformers finetune --teacher`) brings it nearer to its teacher on a task.
"""


def _distance(facts: Mapping[str, Any], fidelity: Fidelity | None) -> str:
    if fidelity is None:
        return "Not measured; `linformers convert --texts FILE` does."
    rows = "\n".join(
        f"| {i or 'embeddings'} | {layer.cosine:.4f} | {layer.relative_error:.4f} |"
        for i, layer in enumerate(fidelity.layers)
    )
    return f"""Hidden states of {fidelity.texts:,} texts ({", ".join(facts["texts"])}; {fidelity.tokens:,} tokens, the
longest {fidelity.longest:,}), against the teacher's, as means over tokens:

| layer | cosine | relative error |
| ---: | ---: | ---: |
{rows}

Cosine of the mean embedding of a text: **{fidelity.embedding_cosine:.4f}**."""


def _limits(config: LinformerConfig, facts: Mapping[str, Any]) -> str:
    dims = [k for kind, k in config.layer_attention if kind == "linformer"]
    if not dims:
        return "- No layer compresses its keys and values by slots."
    slots = min(k for k in dims if k is not None)
    options = facts["options"]
    stretched = options.get("positions") == "interpolate" and options.get("max_length")
    if config.projection_kind == "mean_pool" and not stretched:
        exact = slots + config.global_tokens
        return f"- Texts of at most {exact:,} tokens give what the teacher gives; longer ones are approximated."
    return "- Texts of any length are approximated."
