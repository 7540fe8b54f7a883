"""Every format, from any row on; every row good, or bad with its reason."""

import codecs
import gzip
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_helpers import damaged

from linformers.files.inputs import Input, Unavailable, find_inputs
from linformers.files.reading import find_columns, read_rows
from linformers.files.rows import START, Place, Row, Wanted

TEXTS = ["One fine day.", 'Two, "quoted"\nand on two lines.', "Drei Äpfel – 🍎🍏", "four"]
TEXT = Wanted("text", {})
IDS = Wanted("text", {"id": "int64"})


def read(path: Path, columns: Wanted = TEXT, start: Place = START, **options: Any) -> list[Row]:
    (file,) = find_inputs([str(path)])
    return list(read_rows(file, columns, **{"documents": "line", "limit_bytes": 10**6, **options}, start=start))


def reasons(rows: list[Row]) -> list[tuple[int, str, int]]:
    return [(found.line, found.reason, found.count) for found in rows if found.text is None]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_all(folder: Path) -> list[Path]:
    """The same rows in every format."""
    lines = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS))
    quoted = "".join('{},"{}"\n'.format(i, text.replace('"', '""')) for i, text in enumerate(TEXTS))
    pq.write_table(pa.table({"id": range(4), "text": TEXTS}), folder / "a.parquet", row_group_size=3)
    large = pa.table(
        {"text": pa.array(TEXTS, pa.large_string()).dictionary_encode(), "id": pa.array(range(4), pa.uint8())}
    )
    pq.write_table(large, folder / "b.parquet")
    return [
        folder / "a.parquet",
        folder / "b.parquet",
        write(folder / "a.jsonl", "\ufeff" + lines),
        write(folder / "b.jsonl.gz", gzip.compress(lines[:50].encode()) + gzip.compress(lines[50:].encode())),
        write(folder / "c.ndjson.zst", pa.compress(lines.encode(), codec="zstd", asbytes=True)),
        write(folder / "a.csv", f"id,text\n{quoted}"),
        write(folder / "b.tsv.gz", gzip.compress(f"id\ttext\n{quoted.replace(',', chr(9), 3)}".encode())),
    ]


def test_formats_agree_and_go_on_from_any_row(tmp_path: Path) -> None:
    for path in write_all(tmp_path):
        if path.name.startswith("b.tsv"):
            continue  # below: its commas are tabs
        assert find_columns(find_inputs([str(path)]), None, ["id"]) == (IDS if ".csv" not in path.name else TEXT_IDS)
        rows = read(path, IDS)
        assert [(found.text, found.carried) for found in rows] == [(text, (i,)) for i, text in enumerate(TEXTS)], path
        assert rows[-1].position == pytest.approx(1.0) and [found.after.row for found in rows] == [1, 2, 3, 4]
        for number, found in enumerate(rows):
            assert read(path, IDS, start=found.after) == rows[number + 1 :], path


TEXT_IDS = Wanted("text", {"id": "string"})


def test_text_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\nstill one\n\n\ntwo\r\n")
    for documents, expected in (
        ("line", [(1, "one"), (2, "still one"), (5, "two")]),
        ("blank_line", [(1, "one\nstill one"), (5, "two")]),
        ("file", [(1, "one\nstill one\n\n\ntwo")]),
    ):
        rows = read(path, documents=documents)
        assert [(found.line, found.text) for found in rows] == expected
        assert read(path, documents=documents, start=rows[0].after)[: len(rows) - 1] == rows[1:]
    assert reasons(read(write(tmp_path / "empty.txt", ""), documents="file")) == [(1, "empty", 1)]
    assert read(tmp_path / "empty.txt", documents="line") == []


def test_bad_rows_cost_themselves(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        b'{"text": "good"}\n{broken\n\n[1]\n{"id": 1}\n{"text": null}\n{"text": 5}\n{"text": "\xff"}\n{"text": " "}\n'
        + b'{"text": "'
        + b"x" * 300
        + b'"}\n{"text": '
        + b"9" * 5000
        + b"}\n"
        + b"[" * 190
        + b'\n{"text": "last"}',
    )
    rows = read(path, limit_bytes=200)
    assert [found.text for found in rows if found.text] == ["good", "last"]
    assert [(line, reason.split(":")[0]) for line, reason, _ in reasons(rows)] == [
        (2, "wrong JSON"),
        (3, "empty"),
        (4, "wrong type"),
        (5, "missing field"),
        (6, "empty"),
        (7, "wrong type"),
        (8, "invalid UTF-8"),
        (9, "empty"),
        (10, "too large"),
        (11, "too large"),
        (12, "wrong JSON"),
    ]
    assert reasons(read(write(tmp_path / "n.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n" + b"[" * 100_000)))[1][1] == (
        "wrong JSON: nested too deeply"
    )
    path = write(
        tmp_path / "a.csv", b'id,text\n1,good\n2\n3,a,b\n\n4,\n5,\xff\n6,"no "end"\n7,' + b"y" * 300 + b"\n8,last\n"
    )
    rows = read(path, limit_bytes=200)
    assert [(found.line, found.text) for found in rows if found.text] == [(2, "good"), (10, "last")]
    kinds = [(line, reason.split(":")[0]) for line, reason, _ in reasons(rows)]
    wrong = "wrong CSV"
    assert kinds == [
        (3, wrong),
        (4, wrong),
        (5, "empty"),
        (6, "empty"),
        (7, "invalid UTF-8"),
        (8, wrong),
        (9, "too large"),
    ]


def test_a_quote_that_never_ends_is_one_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text\ngood\n"' + "line\n" * 100 + "tail\n")
    rows = read(path, limit_bytes=200)
    assert rows[0].text == "good" and rows[1].reason.startswith("too large") and rows[-1].text == "tail"


def test_ids_keep_their_type(tmp_path: Path) -> None:
    rows = [
        {"id": 7, "n": None, "text": "a"},
        {"id": "8", "n": {"b": [1]}, "text": "b"},
        {"id": 2**70, "n": 1, "text": "c"},
    ]
    rows += [{"id": True, "n": "\ud800", "text": "d"}, {"id": 1, "text": "e"}]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(one) + "\n" for one in rows))
    found = read(path, Wanted("text", {"id": "int64", "n": "string"}))
    assert [one.carried for one in found] == [(7, None), (8, '{"b": [1]}'), (None, "1"), (None, "?"), ()]
    assert [one.text for one in found] == ["a", "b", None, None, None]


def test_parquet_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rng = np.random.default_rng(0)
    texts = [rng.bytes(300).hex() for _ in range(90)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=30, compression="zstd", use_dictionary=False)
    whole = path.read_bytes()
    place = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    path.write_bytes(whole[: place + 4] + b"\xff" * 600 + whole[place + 604 :])
    rows = read(path)
    assert [one.text for one in rows if one.text] == texts[:30] + texts[60:]
    assert [(line, count) for line, _, count in reasons(rows)] == [(31, 30)]
    assert read(path, start=Place(row=45))[0].count == 15
    path.write_bytes(whole[:-7])
    assert [(line, count) for line, _, count in reasons(read(path))] == [(1, 1)]
    pq.write_table(pa.table({"text": [1, 2], "other": ["a", "b"]}), path)
    assert reasons(read(path)) == [(1, "wrong type: 'text' holds int64", 2)]
    assert reasons(read(path, Wanted("body", {})))[0][2] == 2
    bad = pa.array([b"good", b"\xff", None], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": bad}), path)
    assert [one.reason.split(":")[0] for one in read(path)] == ["", "invalid UTF-8", "empty"]


def test_a_text_of_a_dictionary_is_in_memory_once(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = pa.DictionaryArray.from_arrays(
        pa.array(np.arange(2000) % 2, pa.int32()), pa.array(["x" * 2_000_000, "short"])
    )
    pq.write_table(pa.table({"text": rows}), path, dictionary_pagesize_limit=2**30)
    before, peak = pa.total_allocated_bytes(), 0
    for _ in read_rows(find_inputs([str(path)])[0], TEXT, documents="file", limit_bytes=10**6):
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 50e6  # 256 rows of them would be 256 MB
    assert sum(one.text is None for one in read(path)) == 1000


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(b'{"text": "ok"}\n' + b"\0" * 10**7))
    assert [one.reason.split(":")[0] for one in read(path)] == ["", "too large"]  # below what is taken for one
    for module in ("lines", "parquet"):
        monkeypatch.setattr(f"linformers.files.{module}.BOMB_BYTES", 10**6)
    assert "bomb" in read(path)[-1].reason and read(path)[0].text == "ok"
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x" * 10**7, "y"]}), path, compression="zstd")
    assert [("bomb" in reason, count) for _, reason, count in reasons(read(path))] == [(True, 2)]


def test_damaged_archives_end_where_they_are_damaged(tmp_path: Path) -> None:
    texts = [str(random.Random(i).random()) for i in range(20_000)]
    packed = gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    middle = len(packed) // 2
    for name, content in (("cut", packed[:-2000]), ("flipped", packed[:middle] + b"\0\0\0\0" + packed[middle + 4 :])):
        rows = read(write(tmp_path / f"{name}.jsonl.gz", content))
        good = [one.text for one in rows if one.text]
        assert 1000 < len(good) < 20_000 and good[:1000] == texts[:1000]
        assert rows[-1].reason.startswith("unreadable from here on: ")


def test_unreadable_files_are_rejects_and_changed_ones_stop(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n')
    (file,) = find_inputs([str(path)])
    write(path, '{"text": "other"}\n')
    with pytest.raises(Unavailable, match="has just changed"):
        next(read_rows(file, TEXT, documents="file", limit_bytes=100))
    path.unlink()
    (found,) = read_rows(file, TEXT, documents="file", limit_bytes=100)
    assert found.reason == "unreadable: No such file or directory"


def test_links_out_of_a_folder_are_not_followed(tmp_path: Path) -> None:
    outside = write(tmp_path / "secret.txt", "secret")
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    write(folder / "deep" / "a.txt", "a")
    os.symlink(outside, folder / "deep" / "b.txt")
    os.symlink(folder / "deep" / "a.txt", folder / "c.txt")
    for pattern in (folder, f"{folder}/**/*.txt"):
        files = find_inputs([str(pattern)])
        assert {Path(file.path).name: bool(file.refused) for file in files} == {
            "a.txt": False,
            "b.txt": True,
        }  # c.txt is a.txt once more
        refused = next(file for file in files if file.refused)
        (found,) = read_rows(refused, TEXT, documents="file", limit_bytes=100)
        assert "link" in found.reason and found.text is None
    assert not find_inputs([str(folder / "deep" / "b.txt")])[0].refused  # named on purpose


def test_keys_are_harmless_and_their_own(tmp_path: Path) -> None:
    files = [Input(path, 1, "1") for path in ("../../etc/a b.txt", "../../etc/a_b.txt", "s3://bucket/.x/=.jsonl.gz")]
    keys = [file.key for file in files]
    assert len(set(keys)) == 3 and all(key.replace("-", "").isalnum() for key in keys)
    assert Input("a.txt", 1, "2").key != Input("a.txt", 1, "1").key


def test_columns_are_found_or_asked_for(tmp_path: Path) -> None:
    damaged = write(tmp_path / "a.parquet", b"PAR1 no")
    path = write(tmp_path / "b.jsonl", '{broken\n{"id": 3, "body": "x", "title": "y"}\n')
    files = find_inputs([str(tmp_path)])
    assert [Path(file.path) for file in files] == [damaged, path]
    assert find_columns(files, None, ["id", "title"]) == Wanted("body", {"id": "int64", "title": "string"})
    assert find_columns(files, "title", []).text == "title"
    with pytest.raises(ValueError, match="text='body_' is no column.*Did you mean 'body'"):
        find_columns(files, "body_", [])
    with pytest.raises(ValueError, match="id='di' is no column"):
        find_columns(files, None, ["di"])
    write(path, '{"one": "x", "two": "y"}\n')
    with pytest.raises(ValueError, match="cannot tell which column holds the text; give --text"):
        find_columns(find_inputs([str(path)]), None, [])
    with pytest.raises(ValueError, match="has no columns"):
        find_columns(find_inputs([str(write(tmp_path / "c.txt", "x"))]), None, ["id"])


def test_inputs_are_taken_once_and_must_be_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a")
    assert len(find_inputs([str(path), str(tmp_path), f"{tmp_path}/*.txt"])) == 1
    with pytest.raises(FileNotFoundError, match="no such file"):
        find_inputs([str(tmp_path / "b.txt")])
    with pytest.raises(ValueError, match="archive"):
        find_inputs(["zip://*.jsonl::a.zip"])


def test_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    lines = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS)).encode()
    table = io.BytesIO()
    pq.write_table(pa.table({"id": range(4), "text": TEXTS}), table)
    for name, content in (
        ("a.jsonl", lines),
        ("b.jsonl.gz", gzip.compress(lines)),
        ("c.parquet", table.getvalue()),
        ("d.x", b""),
    ):
        store.pipe(f"/docs/{name}", content)
    files = find_inputs(["memory://docs"])
    assert [file.path for file in files] == [
        f"memory:///docs/{name}" for name in ("a.jsonl", "b.jsonl.gz", "c.parquet")
    ]
    assert find_inputs(["memory://docs/*.parquet"]) == files[2:]
    options: dict[str, Any] = {"documents": "file", "limit_bytes": 10**6}
    for file in files:
        rows = list(read_rows(file, IDS, **options))
        assert [one.text for one in rows] == TEXTS
        assert list(read_rows(file, IDS, **options, start=rows[1].after)) == rows[2:]
    with pytest.raises(FileNotFoundError, match="memory://nothing"):
        find_inputs(["memory://nothing"])
    # A store that fails says nothing of the rows: not one of them may be rejected for it.
    monkeypatch.setattr(
        "fsspec.implementations.memory.MemoryFile.read", lambda *_: (_ for _ in ()).throw(OSError("gone"))
    )
    for file in files:
        with pytest.raises(Unavailable, match="gone"):
            list(read_rows(file, IDS, **options))


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32), documents=st.sampled_from(["file", "blank_line", "line"]))
def test_damaged_files_give_rows_that_add_up(
    tmp_path_factory: pytest.TempPathFactory, seed: int, documents: Any
) -> None:
    rng = random.Random(seed)
    path = damaged(rng, tmp_path_factory.mktemp("damaged"), 0)
    rows = read(path, documents=documents, limit_bytes=10_000)
    count = 0
    for number, found in enumerate(rows):
        count += found.count
        assert found.after.row == count and (found.text is None) == bool(found.reason)
        assert 0 <= found.position <= 1 and (found.text is None or 0 < len(found.text.encode()) <= 10_000)
        if number % 7 == 0 and number + 1 < len(rows):  # where a file ends, nobody goes on
            assert read(path, documents=documents, limit_bytes=10_000, start=found.after) == rows[number + 1 :]
    utf8 = not path.read_bytes().startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if path.suffix == ".jsonl" and utf8:  # an oracle of its own: a line is a row, and good or bad by itself
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
        lines = lines[:-1] if not lines[-1] else lines
        assert count == len(lines) and [found.text for found in rows] == [good(line) for line in lines]


def good(line: bytes) -> str | None:
    try:
        text = json.loads(line.decode("utf-8"))["text"] if len(line) <= 10_000 else None
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) and text.strip() else None
