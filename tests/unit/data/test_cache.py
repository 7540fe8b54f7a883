"""Token caches: made once, reused, and never used half-written or damaged."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from linformers.data import cache as cache_module
from linformers.data.cache import DamagedFolder, TokenCache, tokenise
from linformers.data.documents import Document
from linformers.data.tokenise import TextEncoder, cut_at_blanks
from linformers.data.tokenizer import train_tokenizer
from linformers.files import folders
from linformers.files.folders import damage as damage_of
from linformers.files.folders import write_folder
from linformers.files.sources import Source

TEXTS = [f"Document {number} says: the cat sat on mat {number * 7919}. " * (number % 5 + 1) for number in range(40)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocab_size=300, model_max_length=64)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return Source(path=str(path))


def make(source: Source, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, **options: object) -> TokenCache:
    return tokenise([source], tokenizer, tmp_path / "cache", **options)[0]  # type: ignore[arg-type]


def test_tokens_are_those_of_the_texts(source: Source, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    cache = make(source, tokenizer, tmp_path)
    assert cache.num_documents == len(TEXTS) and cache.tokens.dtype == np.uint16 and cache.num_rejected == 0
    assert isinstance(cache.tokens, np.memmap) and cache.rejects_path is None
    for text, start, stop in zip(TEXTS, cache.offsets[:-1], cache.offsets[1:], strict=True):
        ids = cache.tokens[start:stop]
        assert tokenizer.decode(ids[:-1]) == text and ids[-1] == tokenizer.eos_token_id
    assert cache.offsets[-1] == cache.num_tokens == len(cache.tokens)
    files = ["cache.json", "manifest.json", "offsets.npy", "tokens.npy"]
    assert sorted(path.name for path in cache.folder.iterdir()) == files


def test_a_cache_is_reused_until_something_changes(
    source: Source, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    build = cache_module._build
    monkeypatch.setattr(cache_module, "_build", lambda *arguments: (built.append(1), build(*arguments)))
    first = make(source, tokenizer, tmp_path)
    assert make(source, tokenizer, tmp_path).folder == first.folder and len(built) == 1
    # Truncation set by a call on the tokenizer changes nothing, nor does a weight.
    tokenizer("text", truncation=True, max_length=3, padding="max_length")
    assert make(Source(path=source.path, weight=2.0), tokenizer, tmp_path).fingerprint == first.fingerprint
    assert len(built) == 1
    changed = [
        (source, train_tokenizer(TEXTS, vocab_size=290, model_max_length=64)),
        (Source(path=source.path, text_column="text"), tokenizer),
    ]
    for number, (other, its_tokenizer) in enumerate(changed, start=2):
        assert make(other, its_tokenizer, tmp_path).folder != first.folder and len(built) == number
    with open(source.path, "a") as file:
        file.write('{"text": "one more"}\n')
    assert make(source, tokenizer, tmp_path).num_documents == len(TEXTS) + 1 and len(built) == 4
    os.utime(source.path, ns=(0, 0))
    assert make(source, tokenizer, tmp_path).num_documents == len(TEXTS) + 1 and len(built) == 5


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "facts", "no manifest"])
def test_a_damaged_cache_is_named_and_made_again(
    source: Source, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make(source, tokenizer, tmp_path)
    expected, file = np.array(cache.tokens), cache.folder / "tokens.npy"
    facts = cache.folder / "cache.json"
    if damage == "flip":
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:-2])
    elif damage == "missing":
        file.unlink()
    elif damage == "facts":
        facts.write_text(facts.read_text().replace('"documents": 40', '"documents": 41'))
    else:
        (cache.folder / "manifest.json").unlink()
    named = {"facts": "cache.json has other contents", "no manifest": "manifest.json is missing"}
    with pytest.raises(DamagedFolder, match=named.get(damage, "tokens.npy")):
        TokenCache.open(cache.folder)
    again = make(source, tokenizer, tmp_path)
    assert "damaged and will be made again" in caplog.text
    assert again.folder == cache.folder and (again.tokens == expected).all()
    assert TokenCache.open(cache.folder).fingerprint == again.fingerprint


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith((".unfinished-", ".old-"))]


def test_a_failure_leaves_nothing_behind(
    source: Source, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_manifest", full)
        with pytest.raises(OSError, match="the disk is full: .*cache.* was not written, nothing .* free some space"):
            make(source, tokenizer, tmp_path)
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []
    assert make(source, tokenizer, tmp_path).num_documents == len(TEXTS)


def _tokenise_slowly(source: Source, tokenizer: PreTrainedTokenizerFast, folder: Path, seconds: float) -> None:
    write = folders.write_manifest
    folders.write_manifest = lambda folder: (time.sleep(seconds), write(folder))  # type: ignore[assignment]
    tokenise([source], tokenizer, folder)


def test_a_killed_process_leaves_nothing_that_is_used(
    source: Source, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=_tokenise_slowly, args=(source, tokenizer, tmp_path / "cache", 60.0)
    )
    process.start()
    deadline = time.monotonic() + 30
    while not list((tmp_path / "cache").glob(".unfinished-*/tokens.npy")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert leftovers(tmp_path / "cache")
    assert make(source, tokenizer, tmp_path).num_documents == len(TEXTS)
    assert not leftovers(tmp_path / "cache")


def _tokenise_into(source: Source, tokenizer: PreTrainedTokenizerFast, folder: Path, results: "list[str]") -> None:
    results.append(tokenise([source], tokenizer, folder)[0].fingerprint)


def test_processes_at_once_make_one_cache(source: Source, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        results = manager.list()
        processes = [
            context.Process(target=_tokenise_into, args=(source, tokenizer, tmp_path / "cache", results))
            for _ in range(4)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert len(results) == 4 and len(set(results)) == 1
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1


def test_without_locks_the_second_process_uses_what_the_first_made(tmp_path: Path) -> None:
    final = tmp_path / "final"

    def fast(folder: Path) -> None:
        (folder / "data").write_text("same")

    def slow(folder: Path) -> None:
        fast(folder)
        write_folder(final, fast, shared=True)

    write_folder(final, slow, shared=True)
    assert damage_of(final) is None and (final / "data").read_text() == "same"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_rejects_are_kept_beside_the_tokens(source: Source, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    with open(source.path, "a") as file:
        file.write('nonsense\n{"text": ""}\n')
    with pytest.raises(
        ValueError, match=r"2 of 42 records .*texts.jsonl:41: wrong JSON.*listed in (.*)\. Repair"
    ) as it:
        make(source, tokenizer, tmp_path)
    listed = Path(str(it.value).split("listed in ")[1].split(". Repair")[0])
    assert [json.loads(line)["line"] for line in listed.read_text().splitlines()] == [41, 42]
    cache = make(source, tokenizer, tmp_path, max_reject_share=0.1)
    assert cache.num_rejected == 2 and cache.rejects_path is not None
    assert len(cache.rejects_path.read_text().splitlines()) == 2 and cache.facts["documents"] == 40
    with pytest.raises(ValueError, match="2 of 42 records"):  # also when the cache is reused
        make(source, tokenizer, tmp_path)


def test_nothing_usable_is_an_error(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("")
    with pytest.raises(ValueError, match="holds no text"):
        make(Source(path=str(path)), tokenizer, tmp_path, max_reject_share=1.0)
    with pytest.raises(ValueError, match="sources is empty"):
        tokenise([], tokenizer, tmp_path)


def test_a_file_that_changes_meanwhile_is_an_error(
    source: Source, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = cache_module.Rejects.finish

    def append(self: cache_module.Rejects) -> None:
        with open(source.path, "a") as file:
            file.write("\n")
        finish(self)

    monkeypatch.setattr(cache_module.Rejects, "finish", append)
    with pytest.raises(ValueError, match="changed while it was read"):
        make(source, tokenizer, tmp_path)


def test_special_tokens_in_texts_are_text(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "html.txt"
    text = "He is <s>wrong</s> <mask> right."
    path.write_text(text)
    cache = make(Source(path=str(path)), tokenizer, tmp_path)
    assert cache.tokens[:-1].min() > 4 and tokenizer.decode(cache.tokens[:-1]) == text


def test_long_texts_are_cut_without_a_trace(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "  two\n\n blanks  and\ttabs " + "word " * 50 + "unbroken" * 40
    assert "".join(cut_at_blanks(text, 30)) == text and len(cut_at_blanks(text, 30)) > 5
    assert cut_at_blanks("", 30) == [""]
    encoder = TextEncoder(tokenizer)
    (whole,) = encoder.stream([Document(text, "x:1")])
    monkeypatch.setattr(cut_at_blanks, "__defaults__", (30,))
    (cut,) = encoder.stream([Document(text, "x:1")])
    assert (whole == cut).all()


def test_pickling_does_not_copy_the_corpus(source: Source, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    cache = make(source, tokenizer, tmp_path)
    expected = np.array(cache.tokens)
    data = pickle.dumps(cache)
    assert len(data) < 3000
    assert (pickle.loads(data).tokens == expected).all()


def test_split_between_documents(source: Source, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    cache = make(source, tokenizer, tmp_path)
    train, valid = cache.split(0.2)
    assert train.num_tokens + valid.num_tokens == cache.num_tokens
    assert train.num_documents + valid.num_documents == cache.num_documents
    assert valid.num_tokens == pytest.approx(0.2 * cache.num_tokens, rel=0.2)
    assert (np.concatenate([train.tokens, valid.tokens]) == cache.tokens).all()
    assert train.tokens[-1] == cache.eos_token_id and valid.offsets[0] == 0
    assert (np.diff(train.offsets).tolist() + np.diff(valid.offsets).tolist()) == np.diff(cache.offsets).tolist()
    assert len({cache.fingerprint, train.fingerprint, valid.fingerprint}) == 3
    inner, _ = valid.split(0.5)  # parts of parts
    assert (inner.tokens == valid.tokens[: inner.num_tokens]).all() and inner.offsets[-1] == inner.num_tokens
    with pytest.raises(ValueError, match="held_out_share=1.0"):
        cache.split(1.0)


def test_split_inside_a_single_document(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text(" ".join(TEXTS))
    train, valid = make(Source(path=str(path)), tokenizer, tmp_path).split(0.1)
    assert train.num_documents == valid.num_documents == 1
    assert valid.num_tokens == round(0.1 * (train.num_tokens + valid.num_tokens))


def test_progress_is_shown(
    source: Source, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linformers.files.progress.PLAIN_EVERY", 0.0)
    console = Console(record=True, width=200)
    make(source, tokenizer, tmp_path, console=console)
    make(source, tokenizer, tmp_path, console=console)
    shown = console.export_text()
    assert "tokenising" in shown and "tokens/s" in shown and "left" in shown and "from the cache" in shown


def test_a_cache_folder_may_be_moved(source: Source, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    cache = make(source, tokenizer, tmp_path)
    moved = shutil.move(tmp_path / "cache", tmp_path / "elsewhere")
    again = tokenise([source], tokenizer, moved)[0]
    assert again.fingerprint == cache.fingerprint and again.folder.parent == Path(moved)


def test_what_was_not_read_is_said_each_time(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.jsonl").write_text('{"text": "The cat sat."}\n{broken\n{"text": "On a mat."}\n')
    (docs / "b.eml").write_text("From: somebody")
    for _ in range(2):  # the second time from the cache
        cache = make(Source(path=str(docs)), tokenizer, tmp_path, max_reject_share=0.5, console=Console())
        said = " ".join(capsys.readouterr().out.split())
        assert "not read: 1 files of other formats (1 .eml), such as" in said
        assert "1 of 3 records unusable; the first is" in said and f"all are listed in {cache.rejects_path}" in said
    assert cache.files_not_read == [str(docs / "b.eml")]
    assert cache.rejects_path is not None and "b.eml" in cache.rejects_path.read_text()
