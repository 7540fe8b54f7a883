"""``linformers export`` as its user meets it: folders that onnxruntime and tokenizers serve alone, and refusals."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from finetune_helpers import make_model, rows, write_jsonl
from scoring_helpers import make_classifier

from linformers.cli import main
from linformers.commands import export as exports
from linformers.files.folders import MANIFEST, damage

pytestmark = pytest.mark.compile

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_inference.py"
FILES = {"model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json", "export.json", "README.md"}
TEXTS = ["the film was good", "a very old road of the day and a grim book"]
WITHOUT = ("torch", "transformers", "linformers", "onnx")  # importing one of these is an error


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("export")
    slots = {"projection_kind": "cluster", "local_window": 0, "global_tokens": 1, "exact_length": 64}
    slots |= {"num_hidden_layers": 1}  # such a graph takes long to trace
    make_model(folder / "encoder", initializer_range=0.3, **slots)
    make_model(folder / "bert", "bert")
    make_classifier(folder / "classifier", type_vocab_size=2)
    write_jsonl(folder / "rows.jsonl", rows(40, labels=("ham", "spam")))
    return folder


def export(work: Path, model: str, name: str, *more: str) -> int:
    return main.run(["export", "--model", str(work / model), "--output", str(work / name), *more])


def serve(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the example where neither torch nor this package can be imported."""
    hide = f"import runpy, sys; sys.modules.update(dict.fromkeys({WITHOUT})); "
    code = f"{hide}runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    command = [sys.executable, "-c", code, str(folder), *arguments, "--threads", "1"]
    return subprocess.run(command, capture_output=True, text=True)


def encode(folder: Path, text: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")


def test_an_encoder_is_served_without_torch(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoConfig, AutoModel

    assert export(work, "encoder", "encoder-onnx") == 0
    said = capsys.readouterr().out
    assert "texts of up to exact_length=64 tokens go through the slots too" in said
    assert "up to 64 tokens" in said and "next, without PyTorch: python examples/onnx_inference.py" in said
    folder = work / "encoder-onnx"
    assert {path.name for path in folder.iterdir()} == FILES | {MANIFEST} and damage(folder) is None
    facts = json.loads((folder / "export.json").read_text())
    assert (AutoConfig.from_pretrained(folder).exact_length, facts["model_exact_length"]) == (0, 64)
    card = (folder / "README.md").read_text()
    assert facts["command"] in card and "| 1 | 64 | none |" in card and "softmax attention itself" in card
    script = card.split("```python\n")[1].split("```")[0].replace("this folder", str(folder))
    subprocess.run([sys.executable, "-c", script], check=True)
    assert len(facts["checks"]) == 5 and max(one["difference"] for one in facts["checks"]) < 1e-4

    done = serve(folder, *TEXTS, "--embeddings", str(work / "found.npy"))
    assert done.returncode == 0, done.stderr
    found = np.load(work / "found.npy")
    for exact_length, same in ((0, True), (64, False)):
        model = AutoModel.from_pretrained(work / "encoder", exact_length=exact_length).eval()
        with torch.inference_mode():
            expected = [model(**encode(work / "encoder", text)).last_hidden_state.mean(1)[0].numpy() for text in TEXTS]
        assert np.allclose(found, np.stack(expected), rtol=0, atol=1e-4) == same

    long = " ".join(["a"] * 63)  # and two special tokens: one too many
    done = serve(folder, TEXTS[0], long)
    assert done.returncode == 1 and "text 2 has 65 tokens" in done.stderr and "at most 64" in done.stderr
    assert "Traceback" not in done.stderr
    assert serve(folder, long, "--truncate").returncode == 0 == serve(folder, long.removesuffix(" a")).returncode


def test_int8_says_what_it_costs(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForSequenceClassification

    labelled = str(work / "rows.jsonl")
    more = ["--format", "onnx-int8", "--texts", labelled, "--max-texts", "5", "--task", labelled]
    assert export(work, "classifier", "int8", *more) == 0
    said = capsys.readouterr().out
    facts = json.loads((work / "int8" / "export.json").read_text())["int8"]
    card = " ".join((work / "int8" / "README.md").read_text().split())
    assert "base_model_relation: quantized" in card and "PyTorch's float32, on 5 texts (rows.jsonl;" in card
    assert f"accuracy on rows.jsonl, 40 rows: PyTorch {facts['accuracy']['torch']:.4f}, int8" in card
    assert "int8 against torch on 5 texts" in said and "accuracy on rows.jsonl, 40 rows: torch" in said
    assert facts["left_in_float32"] == [] and 0.9 < facts["error"]["lowest_cosine"] <= 1

    model = AutoModelForSequenceClassification.from_pretrained(work / "classifier").eval()
    found = [json.loads(line) for line in (work / "rows.jsonl").read_text().splitlines()]
    with torch.inference_mode():
        logits = torch.cat([model(**encode(work / "classifier", row["text"])).logits for row in found])
    chosen = [model.config.id2label[int(one)] for one in logits.argmax(1)]
    right = np.mean([label == row["label"] for label, row in zip(chosen, found, strict=True)])
    assert facts["accuracy"]["torch"] == pytest.approx(right) and facts["accuracy"]["rows"] == 40
    done = serve(work / "int8", *(row["text"] for row in found))
    served = [json.loads(line)["label"] for line in done.stdout.splitlines()]
    right = np.mean([label == row["label"] for label, row in zip(served, found, strict=True)])
    assert abs(round(40 * (facts["accuracy"]["onnx"] - right))) <= 1  # batches differ, and inputs share a scale
    assert facts["accuracy"]["change"] == facts["accuracy"]["onnx"] - facts["accuracy"]["torch"]


def test_a_masked_lm_is_exported_and_the_example_says_that_it_is_not_for_it(work: Path) -> None:
    from linformers import LinformerConfig, LinformerForMaskedLM

    make_model(work / "lm", projection_kind="conv", num_hidden_layers=1)
    model = LinformerForMaskedLM(LinformerConfig.from_pretrained(work / "lm"))
    model.save_pretrained(work / "lm")
    assert export(work, "lm", "lm-onnx", "--format", "onnx-int8", "--texts", str(work / "rows.jsonl")) == 0
    nodes = onnx.load(work / "lm-onnx" / "model.onnx").graph.node
    linear = [one for one in model.modules() if isinstance(one, torch.nn.Linear)]  # the tied output layer is one
    assert sum(node.op_type == "MatMulInteger" for node in nodes) == len(linear)
    assert json.loads((work / "lm-onnx" / "export.json").read_text())["outputs"] == ["logits"]
    done = serve(work / "lm-onnx", TEXTS[0])
    assert done.returncode == 1 and "LinformerForMaskedLM; this example is for classifiers" in done.stderr


def test_a_graph_that_differs_leaves_nothing(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linformers.export.check.TOLERANCE", 0.0)
    before = set(work.iterdir())
    assert export(work, "classifier", "different") == 1
    assert "the ONNX graph is not the model" in capsys.readouterr().err and set(work.iterdir()) == before


@pytest.mark.parametrize(
    ("model", "output", "more", "code", "message"),
    [
        ("nowhere", "new", [], 1, "no such folder"),
        ("bert", "new", [], 1, "linformers convert --model"),
        ("classifier", "new", ["--format", "tflite"], 2, "'tflite' is not one of 'onnx', 'onnx-int8'"),
        ("classifier", "classifier", [], 1, "holds other files; name a new folder"),
        ("classifier", "rows.jsonl", [], 1, "rows.jsonl is a file; name a folder"),
        ("classifier", "new", ["--task", "sst2"], 1, "--task 'sst2' measures int8"),
        ("classifier", "new", ["--format", "onnx-int8", "--task", "sst2"], 1, "has the classes"),
        ("classifier", "new", ["--format", "onnx-int8", "--data", "x"], 1, "name it with task"),
        ("classifier", "new", ["--format", "onnx-int8", "--task", "none.csv"], 1, "none.csv"),
        ("encoder", "new", ["--format", "onnx-int8", "--task", "sst2"], 1, "the model is a LinformerModel"),
    ],
)
def test_what_cannot_be_exported(
    work: Path, capsys: pytest.CaptureFixture[str], model: str, output: str, more: list[str], code: int, message: str
) -> None:
    before = set(work.iterdir())
    assert export(work, model, output, *more) == code
    said = capsys.readouterr().err
    assert message in " ".join(said.split()) and "Traceback" not in said and set(work.iterdir()) == before


def test_a_missing_extra_is_named(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "find_spec", lambda name: None if name == "onnxruntime" else object())
    assert export(work, "encoder", "new") == 1
    assert "export needs onnxruntime: pip install 'linformers[onnx]'" in capsys.readouterr().err
