"""Recipes are strict: what is mistyped is named with its line and the closest name."""

from pathlib import Path

import pytest

from linformers.training.recipe import Recipe, load_recipe

GOOD = """\
model:
  hidden_size: 32
  num_attention_heads: 2
  projected_dim: 8
data:
  train: books
  length: 64
training:
  steps: 10
  batch_size: 4
  learning_rate: 1e-3
output:
  folder: runs/x
"""


def load(tmp_path: Path, text: str = GOOD, *overrides: str) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return load_recipe(path, overrides)


def test_types_and_defaults(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    assert recipe.training.learning_rate == 1e-3  # plain YAML takes 1e-3 for text
    assert recipe.model["max_position_embeddings"] == 64  # from data.length
    assert recipe.model["num_hidden_layers"] == 12  # LinformerConfig's own default, written out
    assert recipe.training.beta2 == 0.98 and recipe.tokenizer.vocab_size == 8192


def test_resolved_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = load(
        tmp_path, GOOD, "data.train=[{path: a.txt, weight: 2}, b.jsonl]", "data.stages=[{length: 32, share: 1}]"
    )
    again = load(tmp_path, recipe.as_yaml())
    assert again == recipe and again.differences(recipe) == []
    assert [source.weight for source in recipe.data.sources("train")] == [2.0, 1.0]


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("training.steps=20", 20),
        ("training.learning_rate=2", 2.0),
        ("training.learning_rate=5e-4", 5e-4),
        ("training.early_stopping=null", None),
        ("training.compile=true", True),
        ("training.schedule=wsd", "wsd"),
    ],
)
def test_overrides(tmp_path: Path, assignment: str, value: object) -> None:
    recipe = load(tmp_path, GOOD, assignment)
    assert getattr(recipe.training, assignment.partition("=")[0].partition(".")[2]) == value


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 10", "stesp: 10", r"r.yaml:9: training.stesp is no key.*'training.steps'"),
        ("training:", "trainign:", r"r.yaml:8: trainign is no key.*'training'"),
        ("  steps: 10\n", "", r"r.yaml:8: training.steps is missing"),
        ("steps: 10", "steps: ten", r"r.yaml:9: training.steps='ten' must be a whole number"),
        ("steps: 10", "steps: 1.5", r"r.yaml:9: training.steps=1.5 must be a whole number"),
        ("steps: 10", "steps: true", r"r.yaml:9: training.steps=True must be a whole number"),
        ("1e-3", "fast", r"r.yaml:11: training.learning_rate='fast' must be a number"),
        ("1e-3", "-1", r"r.yaml:11: training.learning_rate=-1 must be above 0"),
        ("steps: 10", "steps: 0", r"r.yaml:9: training.steps must be at least 1, got 0"),
        ("steps: 10", "steps: 10\n  steps: 11", r"r.yaml:10: training.steps stands here for the second time"),
        ("steps: 10", "steps: [10", r"r.yaml:1\d: this is not YAML"),
        ("train: books", "train: []", r"r.yaml:6: data.train=\[\] names no source"),
        ("train: books", "train: [{path: a, weights: 2}]", r"r.yaml:6: data.train\[0\].weights.*weight"),
        ("train: books", "train: bookz", r"r.yaml:6: data.train must be a list"),
        ("output:\n  folder: runs/x", "output: runs/x", r"r.yaml:12: output must be a section"),
        ("hidden_size: 32", "hiden_size: 32", r"r.yaml:2: model.hiden_size is no key.*'model.hidden_size'"),
        ("hidden_size: 32", "hidden_size: wide", r"r.yaml:2: model.hidden_size='wide' must be a whole number"),
        ("projected_dim: 8", "projected_dim: [8, x]", r"r.yaml:4: model.projected_dim\[1\]='x' must be a whole number"),
        ("projected_dim: 8", "projected_dim: [8]", r"r.yaml:4: model.projected_dim has 1 entries for 12 layers"),
        ("hidden_size: 32", "vocab_size: 32", r"r.yaml:2: model.vocab_size=32 comes from the tokenizer"),
        ("num_attention_heads: 2", "num_attention_heads: 3", r"r.yaml:3: model.num_attention_heads=3 does not divide"),
        (
            "length: 64",
            "stages: [{length: 48, share: 1}]\n  length: 64",
            r"data.stages: length=48 must be 8 or more and divide",
        ),
        ("projected_dim: 8", "local_window: 2\ntokenizer: {}", None),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new)
    if message is None:
        load(tmp_path, text)
        return
    with pytest.raises((ValueError, TypeError), match=message):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.stesp=3", "training.stesp is no key of a recipe. Did you mean 'training.steps'"),
        ("steps=3", "steps is no key of a recipe. Did you mean 'training.steps'"),
        ("training.steps", "is no section.key=value"),
        ("training.steps.more=1", "training.steps=10 has no keys below it"),
        ("training.steps=many", "training.steps='many' must be a whole number"),
        ("training.schedule=cosin", "training.schedule='cosin' is unknown.*'cosine'"),
        ("model.projection_kind=mean_pol", "mean_pool"),
        ("model.max_position_embeddings=32", "max_position_embeddings=32 is below data.length=64"),
        ("data.streaming=true", "streaming=true needs sources"),
        ("training.warmup_share=1.5", "training.warmup_share=1.5 must be below 1"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path: Path, assignment: str, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        load(tmp_path, GOOD, assignment)


@pytest.mark.parametrize(
    "change",
    ["model.attention_type=softmax", "model.projection_kind=max_pool", "data.length=8"],
)
def test_sequence_parallelism_needs_sums_over_tokens(tmp_path: Path, change: str) -> None:
    with pytest.raises(ValueError, match="training.sequence_parallel_size=2"):
        load(tmp_path, GOOD, "training.sequence_parallel_size=2", change)


def test_missing_file_and_wrong_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no recipe"):
        load_recipe(tmp_path / "nothing.yaml")
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(ValueError, match="a recipe is a mapping"):
        load(tmp_path, "- a\n")


def test_differences_name_the_values(tmp_path: Path) -> None:
    before = load(tmp_path)
    now = load(tmp_path, GOOD, "training.learning_rate=2e-3", "model.projected_dim=16", "output.folder=elsewhere")
    assert before.differences(now) == [
        "model.projected_dim was 8 and is now 16",
        "training.learning_rate was 0.001 and is now 0.002",
    ]


def test_like_takes_over_another_recipe(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(GOOD)
    recipe = load(tmp_path, "like: base.yaml\nmodel:\n  projected_dim: 4\n", "training.steps=7")
    assert (recipe.model["projected_dim"], recipe.model["hidden_size"], recipe.training.steps) == (4, 32, 7)
    with pytest.raises(ValueError, match="r.yaml:3: training.stesp"):
        load(tmp_path, "like: base.yaml\ntraining:\n  stesp: 4\n")
    with pytest.raises(ValueError, match="goes round in a circle"):
        load(tmp_path, "like: r.yaml\n")
    with pytest.raises(FileNotFoundError, match="there is no recipe .*none.yaml"):
        load(tmp_path, "like: none.yaml\n")
