"""Which encoders of transformers are linear by one line, in their own class: the table of families.

    pip install -c constraints.txt -e '.[dev]'
    python benchmarks/families.py [--covered | --others]

Families of tests/unit/convert/interface_helpers.py, as tiny random models whose attention is far from uniform: the
largest difference to softmax attention on inputs that it reads (``exact_length``), and on longer ones with a slot for
each token; the largest difference that padding and its contents make with 8 slots; the largest difference of a gradient
to that of softmax attention, by the largest gradient; and whether torch.compile, torch.export for every length, LoRA
(merged equals unmerged) and int8 (quantize_dynamic; cosine to float32, beside that of softmax attention) work.

Then, or alone by --others, and not by --covered, every other model type that AutoModel knows: built small, read by both
implementations; what it says where it is refused. Writes results/families.csv and results/families-others.csv.
"""

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from result_files import write_csv
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import logging

import linformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "convert"))
from interface_helpers import FAMILIES, PADDED, SOFTMAX, build, inputs, sharpen, states  # noqa: E402  (of the tests)

SLOTS: dict[str, Any] = {"exact_length": 0, "projected_dim": 8}
# Tried for model types that the tests do not have; a field that a configuration lacks is left out.
SMALL: dict[str, Any] = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    **{"vocab_size": 100, "num_layers": 2, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "image_size": 48},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    **{
        "patch_size": 8,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    **{"embedding_size": 32, "max_position_embeddings": 130, "moe_intermediate_size": 32, "decoder_start_token_id": 1},
}


def works(check: Callable[[], Any]) -> str:
    """What a check gives, or yes; the error's first line where it fails."""
    try:
        found = check()
    except Exception as error:
        return "no: " + (str(error).strip() or type(error).__name__).splitlines()[0][:80]
    return "yes" if found is None else f"{found:.1e}" if isinstance(found, float) else str(found)


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, by the size of the second."""
    return float((a - b).abs().max() / b.abs().max())


def exact(family: str, **settings: Any) -> float:
    """To softmax attention."""
    with torch.no_grad():
        return difference(
            states(build(family, **settings), inputs(family)), states(build(family, SOFTMAX), inputs(family))
        )


def padding(family: str) -> float | str:
    """Of a document alone, and beside a longer one with anything at the padding."""
    if family not in PADDED:
        return "none"
    batch, model = inputs(family), build(family, **SLOTS)
    with torch.no_grad():
        together = model(**batch).last_hidden_state[1, :25]
        batch["input_ids"][1, 25:] = 7
        other = model(**batch).last_hidden_state[1, :25]
        alone = model(input_ids=batch["input_ids"][1:, :25]).last_hidden_state[0]
    return max(difference(other, together), difference(alone, together))


def gradients(family: str) -> float:
    """To those of softmax attention, with a slot for each token."""
    models = build(family, SOFTMAX), build(family, exact_length=0, projected_dim=128)
    for model in models:
        found = states(model, inputs(family))
        (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    pairs = [(a.grad, b.grad) for a, b in zip(*(m.parameters() for m in models), strict=True) if a.grad is not None]
    largest = max(a.abs().max() for a, _ in pairs)
    return max(float((a - b).abs().max() / largest) for a, b in pairs)


def compiles(family: str) -> None:
    """Without a break of the graph."""
    model = build(family, **SLOTS)
    torch._dynamo.reset()
    with torch.no_grad():
        found = states(torch.compile(model, fullgraph=True, backend="eager"), inputs(family))
        assert difference(found, states(model, inputs(family))) < 1e-3, "another result"


def exports(family: str) -> str | None:
    """For every length, where inputs have one; else as it is."""
    model, batch = build(family, **SLOTS), inputs(family)
    length = torch.export.Dim("length", min=2, max=120)
    shapes = {name: {1: length} for name in batch} if family in PADDED else None
    with torch.no_grad():
        exported = torch.export.export(model, (), batch, dynamic_shapes=shapes).module()
        some = {name: x[:, :33] for name, x in batch.items()} if shapes else batch
        assert difference(states(exported, some), states(model, some)) < 1e-3, "another result"
    return None if shapes else "yes, one shape"


def adapts(family: str) -> None:
    """Merged equals unmerged, and the adapter decides something."""
    model = build(family, **SLOTS)
    names = {"query", "key", "value", "q_lin", "k_lin", "v_lin", "q_proj", "k_proj", "v_proj", "Wqkv", "qkv"} | set(
        "qkv"
    )
    linears = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    torch.manual_seed(4)
    adapted = get_peft_model(model, LoraConfig(target_modules=sorted(names & linears), init_lora_weights=False)).eval()
    with torch.no_grad():
        found = states(adapted, inputs(family))
        with adapted.disable_adapter():
            assert difference(states(adapted, inputs(family)), found) > 1e-2, "the adapter decides nothing"
        assert difference(states(adapted.merge_and_unload(), inputs(family)), found) < 1e-2, "merged is another model"


def quantised(model: Any, family: str) -> str:
    """Cosine of the states to those in float32."""
    with torch.no_grad():
        full = states(model, inputs(family))
        small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        return f"{torch.cosine_similarity(states(small, inputs(family)), full, dim=-1).mean():.4f}"


def covered() -> Iterator[dict[str, Any]]:
    """A row for each family of the tests."""
    for family in track(FAMILIES, "families"):
        checks: dict[str, Callable[[], Any]] = {
            "short": lambda f=family: exact(f),
            "a slot for each token": lambda f=family: exact(f, exact_length=0, projected_dim=128),
            "padding": lambda f=family: padding(f),
            "gradients": lambda f=family: gradients(f),
            "compile": lambda f=family: compiles(f),
            "export": lambda f=family: exports(f),
            "LoRA": lambda f=family: adapts(f),
            "int8 cosine": lambda f=family: quantised(build(f, **SLOTS), f),
            "int8 cosine, softmax": lambda f=family: quantised(build(f, SOFTMAX), f),
        }
        yield {"family": family} | {name: works(check) for name, check in checks.items()}


def tiny(model_type: str, implementation: str | None) -> Any:
    """A small model of a type, its encoder where it has a decoder too."""
    default = AutoConfig.for_model(model_type)
    fields = {name: value for name, value in SMALL.items() if hasattr(default, name)}
    config = AutoConfig.for_model(model_type, **fields)
    with torch.device("meta"):
        if AutoModel.from_config(config).num_parameters() > 2e7:
            raise ValueError("the fields known here do not make it small")
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation=implementation).eval()
    sharpen(model)
    return model.get_encoder() if getattr(config, "is_encoder_decoder", False) else model


def read(model: Any) -> Tensor:
    """The states of some input."""
    draws = torch.Generator().manual_seed(2)
    if model.main_input_name == "pixel_values":
        size = getattr(model.config, "image_size", 48)
        size = size if isinstance(size, int) else size[0]
        batch = {"pixel_values": torch.randn(2, getattr(model.config, "num_channels", 3), size, size, generator=draws)}
    elif model.main_input_name == "input_values":
        batch = {"input_values": torch.randn(2, 4000, generator=draws)}
    elif model.main_input_name == "input_ids":
        batch = {"input_ids": torch.randint(4, 100, (2, 40), generator=draws)}
    else:
        raise ValueError(f"its input, {model.main_input_name}, is not known here")
    return model(**batch).last_hidden_state


def other(model_type: str) -> dict[str, Any]:
    """A row for a type that the tests do not have."""
    row: dict[str, Any] = {"model type": model_type, "linear": "", "short": "", "slots": "", "why": ""}
    try:
        with torch.no_grad():
            expected = read(tiny(model_type, SOFTMAX))
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        return row | {"linear": "not tried", "why": f"no small model: {said}"[:110]}
    try:
        model = tiny(model_type, "linformers")
        with torch.no_grad():
            row["short"] = f"{difference(read(model), expected):.1e}"
            linformers.configure(model, **SLOTS)
            row["slots"] = f"{difference(read(model), expected):.1e}"
    except Exception as error:
        return row | {"linear": "refused", "why": (str(error).strip() or type(error).__name__).splitlines()[0][:110]}
    same, changed = float(row["short"]) < 1e-3, float(row["slots"]) > 1e-6
    row["linear"] = "yes" if same and changed else "softmax still" if same else "WRONG"
    if row["linear"] == "softmax still":
        row["why"] = "its layers slide over more than this input, or it makes few tokens of it"
    return row


def others() -> Iterator[dict[str, Any]]:
    """Every model type that AutoModel knows and the tests do not have."""
    types = sorted(set(MODEL_MAPPING_NAMES) - set(FAMILIES) - {"linformer"})
    for model_type in track(types, "other types"):
        yield other(model_type)


def main() -> None:
    """Check, and write both tables."""
    console, results = Console(), Path(__file__).parents[1] / "results"
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    packages = ("linformers", "torch", "transformers", "peft")
    notes = ["tiny random models; differences by the largest state, gradients by the largest gradient"]
    with contextlib.redirect_stderr(io.StringIO()):
        if "--others" not in sys.argv:
            write_csv(results / "families.csv", list(covered()), console, notes=notes, packages=packages)
        if "--covered" not in sys.argv:
            write_csv(results / "families-others.csv", list(others()), console, notes=notes[:1])


if __name__ == "__main__":
    main()
