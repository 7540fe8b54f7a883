"""Vectors against sentence-transformers, and chunks in their document against sums by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from embed_helpers import make_sentences, theirs
from finetune_helpers import make_model
from scoring_helpers import texts
from sentence_transformers.util.quantization import quantize_embeddings
from transformers import AutoModel, AutoTokenizer

from linformers.scoring.embedder import Embedder
from linformers.scoring.networks import hash_model
from linformers.scoring.pooling import ranges_of, stored
from linformers.scoring.settings import EmbedSettings, VectorSettings

TEXTS = texts(12)
LONG = " ".join(TEXTS)
# float32, summed in another order in a batch
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 2e-6}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    work = tmp_path_factory.mktemp("sentences")
    prompts = {"query": "the old ", "default": "a new ", "none": ""}
    made = {
        "bert": make_sentences(work / "bert"),
        "linear": make_sentences(work / "linear", "linear"),
        "linformer": make_sentences(work / "linformer", "linformer"),
        "cls": make_sentences(work / "cls", pooling="cls", dense=5, prompts=prompts),
        "many": make_sentences(
            work / "many", pooling=("max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", "mean"), dense=8
        ),
        "instructed": make_sentences(work / "instructed", prompts=prompts),
    }
    pooling = made["instructed"] / "1_Pooling" / "config.json"
    modes = {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}  # as before version 6
    pooling.write_text(json.dumps({"word_embedding_dimension": 32, **modes, "include_prompt": False}))
    settings = {"max_seq_length": 24, "do_lower_case": True}
    (made["instructed"] / "sentence_bert_config.json").write_text(json.dumps(settings))
    return made


def embedder(folder: Path, **options: Any) -> Embedder:
    return Embedder(VectorSettings(model=str(folder), **options))


def vectors(folder: Path, given: list[str] = TEXTS, **options: Any) -> np.ndarray:
    return embedder(folder, **options).vectors(given).values


@pytest.mark.parametrize("name", ["bert", "linear", "linformer", "cls", "many", "instructed"])
def test_whole_texts_are_those_of_sentence_transformers(folders: dict[str, Path], name: str) -> None:
    given = [*TEXTS, "A FILM With Capitals", "the"]
    expected = theirs(folders[name], given)
    assert np.abs(expected[0] - expected[1]).max() > 0.01  # they tell texts apart
    np.testing.assert_allclose(vectors(folders[name], given, memory=10**6), expected, **CLOSE)
    expected = theirs(folders[name], given, truncate_dim=3, normalize_embeddings=True)
    np.testing.assert_allclose(vectors(folders[name], given, truncate_dim=3), expected, **CLOSE)


@pytest.mark.parametrize("name", ["cls", "instructed"])
def test_prompts(folders: dict[str, Path], name: str) -> None:
    for options in ({"prompt_name": "query"}, {"prompt": "with some "}, {"prompt_name": "none"}):
        np.testing.assert_allclose(vectors(folders[name], **options), theirs(folders[name], TEXTS, **options), **CLOSE)
    with pytest.raises(ValueError, match="prompt_name='quarry' is no prompt.*it has default, document, none, query"):
        embedder(folders[name], prompt_name="quarry")
    found = embedder(folders[name]).vectors(["", "the", ""])
    assert found.texts.tolist() == [1]  # a prompt makes no text of nothing


def test_options_go_before_the_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    plain = make_model(tmp_path / "plain", "bert")
    weights = (folders["bert"] / "model.safetensors").read_bytes()
    (plain / "model.safetensors").write_bytes(weights)
    expected = theirs(folders["bert"], TEXTS)
    np.testing.assert_allclose(vectors(plain, normalize=True), expected, **CLOSE)
    unpooled = embedder(plain)
    assert unpooled.describe()["pooling_from"] == "default" and unpooled.modes == ("mean",) and not unpooled.normalizes
    raw = unpooled.vectors(TEXTS).values
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), expected, **CLOSE)
    np.testing.assert_allclose(vectors(folders["bert"], normalize=False), raw, rtol=0, atol=1e-5)
    model, tokenizer = AutoModel.from_pretrained(plain).eval(), AutoTokenizer.from_pretrained(plain)
    with torch.inference_mode():
        states = model(**tokenizer(TEXTS[0], return_tensors="pt", truncation=True, max_length=64))[0][0].numpy()
    np.testing.assert_allclose(vectors(plain, TEXTS[:1], pooling="cls")[0], states[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(vectors(plain, TEXTS[:1], pooling="max")[0], states.max(0), rtol=0, atol=2e-5)


def states_of(folder: Path, text: str, length: int = 64) -> tuple[list[np.ndarray], list[list[tuple[int, int]]]]:
    """Hidden states of each piece of a text, special tokens included, and the characters of its tokens."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    states, spans = [], []
    for start in range(0, len(whole["input_ids"]), length - 2):
        ids = whole["input_ids"][start : start + length - 2]
        with torch.inference_mode():
            inputs = torch.tensor([[tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]])
            states.append(model(input_ids=inputs)[0][0].numpy())
        spans.append([(0, 0), *whole["offset_mapping"][start : start + length - 2], (0, 0)])
    return states, spans


@pytest.mark.parametrize("name", ["bert", "linear", "linformer"])
@pytest.mark.parametrize(("pooling", "beginning"), [("mean", 0), ("mean", 5), ("max", 0)])
def test_chunks_in_their_document(folders: dict[str, Path], name: str, pooling: str, beginning: int) -> None:
    text = "!  ".join(TEXTS) + ".\n\nthe end"
    reading = embedder(folders[name], chunks="sentence", pooling=pooling, normalize=False, beginning=beginning)
    found = reading.vectors(["the day", text])
    assert found.texts.tolist() == [0] + [1] * 13
    states, spans = states_of(folders[name], text)
    assert len(states) > 2  # the text is longer than the model reads
    together: dict[int, list[np.ndarray]] = {chunk: [] for chunk in range(1, 14)}
    before: dict[int, int] = {}  # tokens of the text before each chunk
    offset = 0
    for piece, places in zip(states, spans, strict=True):
        parts = {}
        for chunk, (start, end) in enumerate(found.spans[1:], start=1):
            inside = [number for number, (a, b) in enumerate(places) if a < end and b > start]
            if inside:
                parts[chunk] = inside
        for chunk, inside in parts.items():  # what stands around the text is of the first and the last
            first = 0 if chunk == min(parts) else inside[0]
            last = len(piece) if chunk == max(parts) else inside[-1] + 1
            together[chunk].append(piece[first:last])
            before.setdefault(chunk, offset + inside[0] - 1)
        offset += len(piece) - 2
    for chunk, tokens in together.items():
        own, opening = np.concatenate(tokens), states[0][1 : 1 + min(beginning, before[chunk])]
        expected = own.mean(0) if pooling == "mean" else own.max(0)
        expected = 0.6 * expected + 0.4 * opening.mean(0) if len(opening) else expected
        np.testing.assert_allclose(found.values[chunk], expected, rtol=0, atol=2e-5)
    chunks = [text[start:end] for start, end in found.spans[1:]]
    assert chunks == [*(f"{one}!" for one in TEXTS[:-1]), f"{TEXTS[-1]}.", "the end"]


@pytest.mark.parametrize("options", [{"long": "truncate"}, {"prompt": "with some of the "}])
def test_the_beginning_is_two_fifths_of_what_is_read(folders: dict[str, Path], options: dict[str, Any]) -> None:
    """Also of a chunk that is read in part, and of one that has a prompt or special tokens beside its own."""
    given = [f"{TEXTS[0]}.\n\n{LONG}\n\nthe", "the\n\nend"]
    reading = embedder(folders["bert"], chunks="paragraph", beginning=5, **options)
    pieces = reading.encode(given)
    weights = np.zeros((2, len(pieces.texts)))
    for parts in pieces.parts:
        for part in parts:
            weights[int(part.weight != 1), part.vector] += part.weight * (part.last - part.first)
    firsts = [vector for vector, chunk in enumerate(pieces.chunks) if chunk == 0]
    assert len(firsts) == 2 < len(pieces.texts)
    shares = weights[1] / weights.sum(0)
    assert [shares[vector] for vector in firsts] == [0, 0]
    np.testing.assert_allclose(np.delete(shares, firsts), 0.4)


def test_one_chunk_is_the_document_and_chunks_alone_are_texts(folders: dict[str, Path]) -> None:
    for name in ("bert", "instructed"):
        whole = vectors(folders[name], long="windows")
        for options in ({"chunks": "tokens:9999"}, {"chunks": "paragraph"}):
            np.testing.assert_allclose(vectors(folders[name], **options), whole, **CLOSE)
        given = [". ".join(TEXTS[:4]), "", "One.\n\nTwo"]
        for chunks in ("sentence", "paragraph", "tokens:7"):
            found = embedder(folders[name], chunks=chunks, context="chunk").vectors(given)
            own = [given[text][start:end] for text, (start, end) in zip(found.texts, found.spans, strict=True)]
            np.testing.assert_allclose(found.values, theirs(folders[name], own), **CLOSE)
            assert set(found.texts.tolist()) == {0, 2}
            inside = embedder(folders[name], chunks=chunks).vectors(given)
            assert inside.spans.tolist() == found.spans.tolist()
            apart = np.abs(inside.values - found.values).max(1)
            assert (apart > 1e-3).sum() >= 3  # the document is read


def test_chunks_of_tokens_overlap_and_cover(folders: dict[str, Path]) -> None:
    reading = embedder(folders["bert"], chunks="tokens:10", overlap=4)
    (located,) = reading.encoder.located([LONG])
    pieces = reading.encode([LONG])
    assert len(located.ids) > 100
    starts = list(range(0, len(located.ids) - 4, 6))
    ends = [min(start + 10, len(located.ids)) for start in starts]
    assert pieces.spans == [(located.spans[a, 0], located.spans[b - 1, 1]) for a, b in zip(starts, ends, strict=True)]
    assert pieces.chunks == list(range(len(starts))) and pieces.spans[-1][1] == len(LONG)
    pooled = sum(part.last - part.first for parts in pieces.parts for part in parts)
    specials = 2 + sum(len(parts) > 0 for parts in pieces.parts[1:]) * 2
    assert pooled == sum(b - a for a, b in zip(starts, ends, strict=True)) + specials


def test_what_lies_behind_what_is_read_is_counted(folders: dict[str, Path]) -> None:
    pieces = embedder(folders["bert"], chunks="tokens:10", long="truncate").encode([LONG])
    assert len(pieces.texts) == 7 and pieces.unread > 5 and pieces.tokenless == 0  # of 62 tokens
    # A soft hyphen is no white space, and the tokenizer of this model drops it.
    reading = embedder(folders["bert"], chunks="paragraph")
    backend: Any = reading.encoder.backend
    from tokenizers.normalizers import Replace

    backend.normalizer = Replace("\u00ad", "")
    pieces = reading.encode(["the day\n\n\u00ad\n\nthe road"])
    assert pieces.chunks == [0, 2] and pieces.tokenless == 1
    assert reading.encode(["\u00ad"]).empty == [0]


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
def test_few_bytes_are_those_of_sentence_transformers(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    calibration, given = (rng.normal(size=(200, 21)).astype(np.float32) for _ in range(2))
    calibration[:, 3] = 0.5  # a dimension without a range
    ranges = ranges_of(calibration)
    found = stored(given, dtype, ranges)
    if dtype == "float16":
        assert (found == given.astype(np.float16)).all()
    elif dtype == "int8":
        assert (found == quantize_embeddings(given, "int8", ranges=ranges)).all() and found.dtype == np.int8
    else:
        assert (found == quantize_embeddings(given, "ubinary")).all() and found.shape == (200, 3)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("cls", {"chunks": "sentence"}, "pooling='cls', of the model's folder, takes one token.*--context chunk"),
        ("bert", {"chunks": "sentence", "pooling": "cls"}, "pooling='cls' takes one token"),
        ("bert", {"chunks": "sentence", "pooling": "max", "beginning": 4}, "beginning=4 is a share of means"),
        ("bert", {"truncate_dim": 33}, "truncate_dim=33 is more than the 32 numbers"),
        ("bert", {"max_length": 65}, "max_length=65 is more than the 64 tokens"),
        ("bert", {"prompt": "the old book " * 30}, "leaves no room behind"),
        ("bert", {"dtype": "int8"}, "dtype='int8' has no ranges"),
        ("bert", {"dtype": "int8", "ranges": "nowhere"}, "ranges='nowhere' holds no int8 embeddings"),
    ],
)
def test_options_that_the_model_does_not_take(folders: dict[str, Path], name: str, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        embedder(folders[name], **options).vectors(TEXTS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chunks": "words"}, "chunks='words' is unknown: choose sentence, paragraph or tokens:N"),
        ({"chunks": "tokens:0"}, "chunks='tokens:0' is unknown"),
        ({"chunks": "tokens:5", "overlap": 5}, "overlap=5 must be less than the 5 tokens"),
        ({"chunks": "sentence", "overlap": 5}, "overlap=5 is of chunks of tokens"),
        ({"context": "chunk"}, "context='chunk' has no chunks"),
        ({"beginning": 5}, "beginning=5 is of chunks that are read in their document"),
        ({"chunks": "sentence", "context": "chunk", "beginning": 5}, "beginning=5 is of chunks"),
        ({"prompt": "a", "prompt_name": "b"}, "exclude each other"),
        ({"ranges": "x"}, "ranges='x' are of int8"),
        ({"dtype": "int4"}, "dtype='int4' is unknown"),
    ],
)
@pytest.mark.usefixtures("bad_input")
def test_settings_that_cannot_be(folders: dict[str, Path], options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VectorSettings(model=str(folders["bert"]), **options)


def test_modules_that_are_not_read(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(folders["cls"], tmp_path / "copy"))
    before = hash_model(folder, vectors=True)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("cls", "max"))
    assert hash_model(folder, vectors=True) != before and hash_model(folder) == hash_model(folders["cls"])
    pooling.write_text(pooling.read_text().replace("max", "median"))
    with pytest.raises(ValueError, match="pools by 'median'; known are cls, max"):
        embedder(folder)
    pooling.write_text(pooling.read_text().replace("median", "max"))
    weights = folder / "2_Dense" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ValueError, match="2_Dense holds no model.safetensors; other formats can run code"):
        embedder(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["type"] = "sentence_transformers.models.LSTM"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="has a module LSTM, which embed does not read"):
        embedder(folder)
    modules[2]["type"] = "mine.Own"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="has the modules .*mine.Own"):
        embedder(folder)


def test_a_run_that_was_begun_before_an_option_goes_on(folders: dict[str, Path]) -> None:
    given: dict[str, Any] = {"model": str(folders["bert"]), "input": ("f",), "output": "o", "chunks": "sentence"}
    assert "beginning" not in EmbedSettings(**given).deciding
    assert EmbedSettings(**given, beginning=3).deciding["beginning"] == 3
