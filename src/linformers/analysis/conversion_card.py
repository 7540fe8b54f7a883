"""The model card of a converted model: where it comes from, how far it is from that, and its limits."""

from collections.abc import Mapping
from typing import Any

import yaml

from linformers.analysis.fidelity import Fidelity
from linformers.models.config import LinformerConfig

_SETTINGS = (
    "attention_type",
    "projected_dim",
    "projection_kind",
    "projection_sharing",
    "local_window",
    "global_tokens",
    "exact_length",
    "max_position_embeddings",
)
_TAGS = {"texts": "long-documents", "images": "vision", "recordings": "audio"}


def conversion_card(config: LinformerConfig, facts: Mapping[str, Any], fidelity: Fidelity | None) -> str:
    """Markdown with the metadata that model hubs read.

    Args:
        config: of the converted model.
        facts: what ``conversion.json`` holds.
        fidelity: how far it is from its teacher; None = not measured.
    """
    name = facts["architecture"]
    longer = config.max_position_embeddings > facts["teacher_length"]
    untrained = f"; positions beyond {facts['teacher_length']:,} have seen no training" if longer else ""
    header = {"library_name": "linformers", "tags": ["linformer", _TAGS[facts["inputs"]]]}
    settings = "\n".join(f"| `{field}` | {getattr(config, field)} |" for field in _SETTINGS)
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

{_limits(facts)}{_softmax_up_to(config)}
- It has the errors and biases of {facts["converted_from"]}, whose licence and card hold for these weights too.
- {facts["inputs"].capitalize()} above {config.max_position_embeddings:,} tokens are refused{untrained}.
"""


def _distance(facts: Mapping[str, Any], fidelity: Fidelity | None) -> str:
    if not facts["has_teacher"]:
        return "Not measured: only fairseq can run what this was converted from."
    if fidelity is None:
        return "Not measured" + ("; `linformers convert --texts FILE` does." if facts["inputs"] == "texts" else ".")
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


def _softmax_up_to(config: LinformerConfig) -> str:
    if not config.exact_length:
        return ""
    return f"\n- Up to {config.exact_length:,} tokens attention is softmax itself; above, it takes linear time."


def _limits(facts: Mapping[str, Any]) -> str:
    exact, inputs = facts["exact_up_to"], facts["inputs"].capitalize()
    if not exact:
        limits = f"- {inputs} of any length are approximated."
    elif not facts["has_teacher"]:
        limits = f"- Texts of at most {exact:,} tokens give what they gave in fairseq, where they are not padded."
    elif exact == min(facts["max_length"], facts["teacher_length"]):
        limits = f"- {inputs} of at most {exact:,} tokens give what the teacher gives."
    else:
        limits = f"- {inputs} of at most {exact:,} tokens give what the teacher gives; longer ones are approximated."
    if distillation_length(facts) is None:
        return limits
    return f"""{limits}
- To bring it nearer to its teacher, distil it: on plain text with `linformers distil`, or, for a classifier, beside its
  task with `linformers finetune --teacher`."""


def distillation_length(facts: Mapping[str, Any]) -> int | None:
    """Tokens of the longest texts on which it can be distilled; None where there is nothing to gain, or no text."""
    if facts["inputs"] != "texts":
        return None
    both = min(facts["max_length"], facts["teacher_length"])
    return both if facts["has_teacher"] and facts["exact_up_to"] < both else None
