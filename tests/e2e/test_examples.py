"""The examples in the docstrings of public functions run, in a folder with the files that they name."""

import doctest
import inspect
from pathlib import Path

import pytest
from finetune_helpers import make_model, rows, write_jsonl
from pretrain_helpers import tiny, write_text
from scoring_helpers import make_classifier
from transformers import AutoTokenizer

import linformers

FUNCTIONS = sorted(name for name in linformers.__all__ if inspect.isfunction(getattr(linformers, name)))
EXAMPLES = {
    name: doctest.DocTestFinder(recurse=False).find(getattr(linformers, name), name) for name in linformers.__all__
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, that encoder made linear, a classifier, labelled rows, plain text, and a recipe."""
    from linformers.training.recipe import Recipe

    folder = tmp_path_factory.mktemp("examples")
    make_model(folder / "my-encoder", "bert")
    make_classifier(folder / "my-classifier")
    linear = linformers.linearise(folder / "my-encoder", exact_length=0, projected_dim=8)
    linear.save_pretrained(folder / "linear")
    AutoTokenizer.from_pretrained(folder / "my-encoder").save_pretrained(folder / "linear")
    write_jsonl(folder / "reviews.jsonl", rows(40))
    write_text(folder, 20_000).rename(folder / "corpus.txt")
    write_text(folder)
    (folder / "recipe.yaml").write_text(Recipe(**tiny(folder, "runs/pretrained")).as_yaml())
    return folder


def test_every_public_function_has_an_example() -> None:
    assert len(FUNCTIONS) > 10
    assert [name for name in FUNCTIONS if not any(test.examples for test in EXAMPLES[name])] == []


@pytest.mark.parametrize("name", [name for name, tests in EXAMPLES.items() if any(test.examples for test in tests)])
def test_an_example_gives_what_it_says(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LINFORMERS_CACHE", str(folder / "cache"))
    if name == "export_onnx":
        pytest.importorskip("onnxruntime")
    said: list[str] = []
    for test in EXAMPLES[name]:
        doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)
