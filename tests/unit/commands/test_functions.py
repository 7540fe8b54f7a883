"""The commands as functions: from pretraining to scores without a command line."""

import io
import json

import pyarrow.parquet as pq
import pytest
from finetune_helpers import make_model, rows, tiny, write_jsonl
from rich.console import Console

import linformers


def test_a_notebook_trains_and_scores(tmp_path):
    quiet = Console(file=io.StringIO())
    make_model(tmp_path / "encoder")
    write_jsonl(tmp_path / "rows.jsonl", rows(60))
    settings = linformers.FinetuneSettings(**tiny(tmp_path, "run"))
    found = linformers.finetune(settings, quiet)
    assert found == json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["metrics"]["accuracy"]["value"] >= 0
    assert linformers.finetune(settings, quiet) == found  # it is finished
    scored = linformers.score(
        linformers.ScoreSettings(
            model=str(tmp_path / "run" / "model"), input=(str(tmp_path / "rows.jsonl"),), output=str(tmp_path / "out")
        ),
        quiet,
    )
    assert scored["counts"]["scored"] == 60
    assert sum(pq.read_metadata(path).num_rows for path in (tmp_path / "out" / "scores").rglob("*.parquet")) == 60


def test_what_is_wrong_is_an_exception(tmp_path):
    with pytest.raises(ValueError, match="task"):
        linformers.FinetuneSettings(model="m", output=str(tmp_path))
    with pytest.raises(OSError, match="there is no recipe"):
        linformers.load_recipe(tmp_path / "none.yaml")
