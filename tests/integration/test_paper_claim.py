"""benchmarks/paper_claim.py on a model of one layer and a few steps."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from linformers import LinformerConfig, LinformerForMaskedLM
from linformers.attention import LinformerAttention
from linformers.attention.softmax import softmax_of
from linformers.data.books import load_books


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import paper_claim

    return paper_claim


def test_heads_in_turns_hold_every_token_once_for_each_residue(script):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 16}
    config = LinformerConfig(
        **shape, vocab_size=20, max_position_embeddings=8, projected_dim=4, projection_sharing="none"
    )
    model = LinformerForMaskedLM(config).eval()
    script.start_in_turns(model)
    attention = model.base_model.encoder.layers[0].attention
    assert isinstance(attention, LinformerAttention)
    weight = attention.key_projection.weight
    assert torch.equal(weight[0] + weight[1], weight[2] + weight[3])
    assert torch.equal((weight[0] + weight[1]).sum(1), torch.ones(8)), "two heads hold every token between them"
    # Of a text in which every token is there twice, half of the tokens are all of them.
    x = torch.randn(1, 4, 16).repeat_interleave(2, dim=1)
    torch.testing.assert_close(attention(x), softmax_of(attention)(x))


def test_heads_begin_at_the_neighbours(script):
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16}
    settings = {"attention_type": "softmax", "norm_position": "pre", "initializer_range": 0.08}
    model = LinformerForMaskedLM(LinformerConfig(**shape, **settings, vocab_size=50, max_position_embeddings=256))
    script.start_near(model.eval())
    weights = model.base_model(torch.randint(5, 50, (4, 256)), output_attentions=True).attentions[0]
    for head, step in enumerate((-1, 1, -2, 2)):
        assert weights[:, head].diagonal(step, 1, 2).mean() > 30 / 256, "thirty times its share"


def test_finished_cells_are_kept(script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    books = [book.text[10_000:40_000] for book in load_books(3)]
    for part, texts in (("train", books[:2]), ("valid", books[2:])):
        pq.write_table(pa.table({"text": texts}), tmp_path / f"gutenberg_{part}.parquet")
    monkeypatch.setenv("LINFORMERS_CACHE", str(tmp_path / "cache"))
    sizes = "--steps 3 --more 2 --hidden-size 16 --layers 1 --vocabulary 270 --sequences 4"
    cells = ["softmax", "in turns, k = n/4", "taught, k = n/4"]
    places = ["--data", str(tmp_path), "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", ["paper_claim.py", *places, *sizes.split(), "--cells", *cells])
    script.main()
    first = json.loads((tmp_path / "results" / "paper_claim.json").read_text())
    assert list(first["cells"]) == ["teacher", *cells]
    assert first["cells"]["teacher"]["gap"]["to"] == "teacher"
    pairs = {"paper, k = n/2, from nothing": "softmax, from nothing", "paper, k = n/2, from nothing, longer": "teacher"}
    pairs |= {"paper, k = n/2, longer": "softmax, longer", "annealed, k = n/4": "softmax, on from nothing"}
    assert {name: script.reference_of(name) for name in pairs} == pairs
    assert first["cells"]["softmax"]["gap"] == {"to": "softmax", "percent": 0, "low": 0, "high": 0}
    assert [step for step, _ in first["cells"]["taught, k = n/4"]["evaluations"]] == [0, 1, 2]
    assert (tmp_path / "results" / "paper_claim.png").stat().st_size > 10_000
    capsys.readouterr()
    monkeypatch.setattr(script, "train", lambda *_: pytest.fail("trained again"))
    script.main()
    assert json.loads((tmp_path / "results" / "paper_claim.json").read_text())["cells"] == first["cells"]
