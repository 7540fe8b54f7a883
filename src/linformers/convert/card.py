"""The model card of a converted model: where it comes from, how far it is from that, and its limits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from linformers.convert.fidelity import Fidelity

SETTINGS = (
    "attention_type",
    "projected_dim",
    "projection_kind",
    "projection_sharing",
    "local_window",
    "global_tokens",
    "exact_length",
)
_TAGS = {"texts": "long-documents", "images": "vision", "recordings": "audio"}
_KEPT = ("license", "license_name", "license_link", "language", "pipeline_tag", "base_model", "tags")


def teacher_card(folder: str | Path) -> dict[str, Any]:
    """What the header of a teacher's card says that holds for its conversion too; nothing where there is none."""
    file = Path(folder) / "README.md"
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    _, dashes, rest = text.partition("---\n")
    try:
        header = yaml.safe_load(rest.partition("\n---")[0]) if dashes and not text.partition("---\n")[0].strip() else {}
    except yaml.YAMLError:
        return {}
    return {name: header[name] for name in _KEPT if name in header} if isinstance(header, dict) else {}


def conversion_card(facts: Mapping[str, Any], fidelity: Fidelity | None, teacher: Mapping[str, Any]) -> str:
    """Markdown with the metadata that model hubs read.

    Args:
        facts: what ``conversion.json`` holds.
        fidelity: how far it is from its teacher; None = not measured.
        teacher: header of the teacher's card, as ``teacher_card`` gives it.
    """
    most, before = facts["max_length"], facts["teacher_length"]
    untrained = f"; positions beyond {before:,} have seen no training" if most is not None and most > before else ""
    inputs = facts["inputs"].capitalize()
    refused = "" if most is None else f"\n- {inputs} above {most:,} tokens are refused{untrained}."
    library = "linformers"
    if facts["own_class"]:
        library = "sentence-transformers" if facts["sentence_transformers"] else "transformers"
    tags = dict.fromkeys(["linformers", _TAGS[facts["inputs"]], *(teacher.get("tags") or [])])
    header = {"library_name": library, **teacher, "tags": list(tags)}
    settings = "\n".join(f"| `{name}` | {value} |" for name, value in facts["settings"].items())
    versions = facts["environment"]["versions"]
    title = "with linear attention" if facts["own_class"] else "as a Linformer"
    notes = "".join(f"\n- {note[0].upper()}{note[1:]}." for note in facts["notes"])
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {facts["converted_from"]} {title}

The weights of {facts["converted_from"]}, with attention whose time is linear in the length of the input, made by
[Linformers](https://pypi.org/project/linformers/).{"" if most is None else f" Up to {most:,} tokens."}

{_use(facts)}

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

{_limits(facts)}{_softmax_up_to(facts)}
- It has the errors and biases of {facts["converted_from"]}, whose licence and card hold for these weights too.\
{refused}{notes}
"""


def _use(facts: Mapping[str, Any]) -> str:
    name = facts["architecture"]
    if not facts["own_class"]:
        return f"""```python
from linformers import {name}

model = {name}.from_pretrained("this folder")
```

After `import linformers`, transformers' Auto classes and pipelines know it too."""
    library = "sentence_transformers" if facts["sentence_transformers"] else "transformers"
    call = loader(facts)
    return f"""```python
import linformers
from {library} import {call.partition(".")[0]}

model = {call}("this folder")
```

Without `import linformers` it is the same model with softmax attention, in time quadratic in the length."""


def loader(facts: Mapping[str, Any]) -> str:
    """What loads a model in its own class, of transformers or of sentence-transformers."""
    name = facts["architecture"]
    if not facts["sentence_transformers"]:
        return f"{name}.from_pretrained"
    return "CrossEncoder" if name.endswith("ForSequenceClassification") else "SentenceTransformer"


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


def _softmax_up_to(facts: Mapping[str, Any]) -> str:
    if not facts["exact_length"]:
        return ""
    return f"\n- Up to {facts['exact_length']:,} tokens attention is softmax itself; above, it takes linear time."


def _limits(facts: Mapping[str, Any]) -> str:
    exact, inputs = facts["exact_up_to"], facts["inputs"].capitalize()
    if not exact:
        limits = f"- {inputs} of any length are approximated."
    elif not facts["has_teacher"]:
        limits = f"- Texts of at most {exact:,} tokens give what they gave in fairseq, where they are not padded."
    elif facts["max_length"] is not None and exact == min(facts["max_length"], facts["teacher_length"]):
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
