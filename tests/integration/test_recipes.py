"""Every shipped recipe loads; those for a laptop run."""

import json
from pathlib import Path

import pytest
import torch
from pretrain_helpers import write_text
from rich.console import Console

from linformers.commands.pretrain import run_recipe
from linformers.training.recipe import Recipe, load_recipe, recipe_schema

FOLDER = Path(__file__).parents[2] / "recipes"
LAPTOP, PAPER = (sorted((FOLDER / scale).glob("*.yaml")) for scale in ("laptop", "paper"))
SHORT = (
    "training.steps=2",
    "training.evaluate_every=2",
    "training.device=cpu",
    "training.evaluation_batch_size=1",
    "data.evaluation_sequences=1",
    "data.evaluation_share=0.3",
    "output.report_to=none",
)


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


def key(recipe: Recipe) -> str:
    """What a run is, wherever it goes."""
    values = recipe.as_dict()
    values["output"]["folder"] = ""
    return json.dumps(values)


def test_editors_know_the_keys() -> None:
    """`make schema` writes what recipes name in their first line."""
    schema = json.loads((FOLDER / "schema.json").read_text())
    assert schema == recipe_schema()
    assert {"like", "model", "data", "training"} <= set(schema["properties"])
    assert "projected_dim" in json.dumps(schema) and "weight" in schema["$defs"]["Source"]["properties"]
    for path in (*LAPTOP, *PAPER):
        assert path.read_text().startswith("# yaml-language-server: $schema=../schema.json\n"), path


@pytest.mark.parametrize("paths", [LAPTOP, PAPER], ids=["laptop", "paper"])
def test_recipes_load_and_each_is_another_run(paths: list[Path]) -> None:
    recipes = {path.stem: load_recipe(path) for path in paths}
    assert len(recipes) >= 8 and len({key(recipe) for recipe in recipes.values()}) == len(recipes)
    for name, recipe in recipes.items():
        assert recipe.output.folder == f"runs/{paths[0].parent.name}/{name}"
        tokens = recipe.training.batch_size * recipe.data.length
        first = recipes["linformer"]
        assert tokens == first.training.batch_size * first.data.length  # so that perplexities at equal steps compare


def test_paper_recipes_have_the_papers_shape() -> None:
    recipe = load_recipe(FOLDER / "paper" / "linformer.yaml")
    config = recipe.config(vocab_size=50265)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert recipe.training.steps == 250_000 and recipe.training.batch_size % 64 == 0


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole run on all of the books: its tokenizer serves the others, which read a chapter."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("recipes")
    write_text(folder)
    recipe = load_recipe(FOLDER / "laptop" / "linformer.yaml", [*SHORT, f"output.folder={folder / 'books'}"])
    assert run_recipe(recipe, console=Console(quiet=True)) == 0
    return folder


@pytest.mark.parametrize("path", LAPTOP, ids=names(LAPTOP))
def test_laptop_recipes_run(path: Path, work: Path) -> None:
    chapter = [f"data.train=[{work / 'text.txt'}]", f"data.cache={work / 'cache'}"]
    changes = [*chapter, f"output.folder={work / path.stem}", f"tokenizer.path={work / 'books' / 'tokenizer'}"]
    assert run_recipe(load_recipe(path, [*SHORT, *changes]), console=Console(quiet=True)) == 0
    results = json.loads((work / path.stem / "results.json").read_text())
    # Seen: 4.98 to 5.47, with 0.25 to spare on either side; chance is log 280 = 5.63.
    assert results["steps"] == 2 and 4.73 < results["best"]["loss"] < 5.72
