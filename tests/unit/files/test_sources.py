"""Finding files, reading every format, and naming what is unusable."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linformers.data import documents
from linformers.data.documents import hub_name, read_documents
from linformers.files import reading
from linformers.files.rejects import CHECK_EVERY, Rejects, TooManyRejects
from linformers.files.sources import Source, check_apart, find_files, in_both

TEXTS = ["One fine day.", 'Two, "quoted"\nand on two lines.', "Drei Äpfel – 🍎🍏", "four"]


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS)), "utf-8")


def write_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([["id", "text"], *enumerate(TEXTS)])


def write_tsv(path: Path) -> None:
    write_csv(path, "\t")


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), path, compression="zstd")


WRITERS: dict[str, Callable[[Path], None]] = {
    "jsonl": write_jsonl,
    "ndjson": write_jsonl,
    "json": write_jsonl,
    "csv": write_csv,
    "tsv": write_tsv,
    "parquet": write_parquet,
}


def compress(path: Path, kind: str) -> Path:
    packed = path.with_name(f"{path.name}.{kind}")
    data = path.read_bytes()
    if kind == "gz":  # two members, as parallel compressors write
        half = len(data) // 2
        packed.write_bytes(gzip.compress(data[:half]) + gzip.compress(data[half:]))
    else:
        packed.write_bytes(pa.compress(data, codec="zstd", asbytes=True))
    path.unlink()
    return packed


def read(path: Path | str, rejects: Rejects | None = None, **fields: object) -> list[tuple[str, str]]:
    rejects = rejects or Rejects(max_share=0.0)
    source = Source(path=str(path), **fields)  # type: ignore[arg-type]
    return [tuple(document) for document in read_documents([source], rejects)]


def texts_of(path: Path | str, **fields: object) -> list[str]:
    return [text for text, _ in read(path, **fields)]


@pytest.mark.parametrize("packed", ["", "gz", "zst"])
@pytest.mark.parametrize("suffix", list(WRITERS))
def test_every_format_and_compression(tmp_path: Path, suffix: str, packed: str) -> None:
    if suffix == "parquet" and packed:
        pytest.skip("Parquet compresses by itself")
    path = tmp_path / f"texts.{suffix}"
    WRITERS[suffix](path)
    if packed:
        path = compress(path, packed)
    found = read(path)
    assert [text for text, _ in found] == TEXTS
    lines = {"csv": [2, 3, 5, 6], "tsv": [2, 3, 5, 6]}.get(suffix, [1, 2, 3, 4])
    assert [where for _, where in found] == [f"{path}:{line}" for line in lines]


@pytest.mark.parametrize("packed", ["", "gz", "zst"])
def test_units_of_text_files(tmp_path: Path, packed: str) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n\nfirst line\nsecond line\r\n  \n\nnext block\n", encoding="utf-8", newline="")
    if packed:
        path = compress(path, packed)
    assert read(path) == [("\n\nfirst line\nsecond line\r\n  \n\nnext block", f"{path}:1")]
    blocks = read(path, documents="blank_line")
    assert blocks == [("first line\nsecond line", f"{path}:3"), ("next block", f"{path}:7")]
    assert [text for text, _ in read(path, documents="line")] == ["first line", "second line", "next block"]


def test_folders_globs_and_order(tmp_path: Path) -> None:
    for name in ["b.txt", "a.txt", "deep/er/c.txt", "deep/d.md", ".hidden/e.txt", "_SUCCESS", ".f.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts_of(tmp_path) == ["a.txt", "b.txt", "deep/er/c.txt"]
    assert texts_of(f"{tmp_path}/*.txt") == ["a.txt", "b.txt"]
    assert texts_of(f"{tmp_path}/**/c.txt") == ["deep/er/c.txt"]
    with pytest.raises(FileNotFoundError, match=r"nothing\*"):
        find_files(Source(path=str(tmp_path / "nothing*")))
    with pytest.raises(ValueError, match=r"cannot read .*d\.md; readable are \.txt"):
        find_files(Source(path=f"{tmp_path}/deep/*.md"))
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "x.md").write_text("x")
    with pytest.raises(ValueError, match="none of its 1 files"):
        find_files(Source(path=str(tmp_path / "only")))
    (tmp_path / "odd[1].txt").write_text("brackets")
    assert texts_of(tmp_path / "odd[1].txt") == ["brackets"]


BAD_LINES = [
    (b'{"text": "good"}', None),
    (b'{"text": "x\xe9"}', "invalid UTF-8: byte 0xe9"),
    (b'{"text": "open', "wrong JSON: Unterminated string"),
    (b"[1, 2]", "wrong type: list"),
    (b'{"body": "other"}', "missing field: 'text'"),
    (b'{"text": 7}', "wrong type: 'text' holds int"),
    (b'{"text": null}', "empty"),
    (b'{"text": "  "}', "empty"),
    (b"", "empty"),
    (b"[" * 100_000, "wrong JSON"),
    (b'{"text": "last, without a line end"}', None),
]


@pytest.mark.parametrize("packed", ["", "gz", "zst"])
def test_bad_jsonl_records_are_named_and_the_counts_add_up(tmp_path: Path, packed: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(line for line, _ in BAD_LINES))
    if packed:
        path = compress(path, packed)
    rejects = Rejects(path=tmp_path / "out" / "rejects.jsonl", max_share=1.0)
    assert [text for text, _ in read(path, rejects)] == ["good", "last, without a line end"]
    assert (rejects.documents, rejects.rejected) == (2, len(BAD_LINES) - 2)
    named = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text("utf-8").splitlines()]
    expected = [(number, reason) for number, (_, reason) in enumerate(BAD_LINES, start=1) if reason]
    for entry, (line, reason) in zip(named, expected, strict=True):
        assert entry["file"] == str(path) and entry["line"] == line and entry["reason"].startswith(reason)
        assert len(entry["value"]) <= 200
    assert sum(rejects.reasons.values()) == rejects.rejected


def test_bad_csv_rows(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    utf8 = "é".encode()  # so that the other byte is an error, and no other encoding
    content = b'id,text\n1,good\n2,x\xe9\n3\n\n4,"two\nlines"\n5,\n6,"x"y\n7,' + utf8 + b'\n8,"never closed\n9,found\n'
    path.write_bytes(content)
    rejects = Rejects(path=tmp_path / "rejects.jsonl", max_share=1.0)
    found = read(path, rejects)
    assert found == [("good", f"{path}:2"), ("two\nlines", f"{path}:6"), ("é", f"{path}:10"), ("found", f"{path}:12")]
    named = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [(entry["line"], entry["reason"].split(":")[0]) for entry in named] == [
        (3, "invalid UTF-8"),
        (4, "wrong CSV"),
        (5, "empty"),
        (8, "empty"),
        (9, "wrong CSV"),
        (11, "wrong CSV"),
    ]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_bad_parquet_rows(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array([b"good", b"x\xe9", None, b"", b"fine"], pa.binary())
    if pa.types.is_dictionary(kind):
        column = pa.array(["good", "  ", None, "", "fine"]).dictionary_encode()
    else:
        large = values.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary())
        column = pa.Array.from_buffers(kind, len(large), large.buffers(), large.null_count)
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"label": range(5), "content": column}), path)
    rejects = Rejects(max_share=1.0)
    assert read(path, rejects) == [("good", f"{path}:1"), ("fine", f"{path}:5")]
    assert (rejects.documents, rejects.rejected) == (2, 3)


def test_invalid_utf8_in_a_text_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"one\ntwo\n\nthree\n6\xff6\n\nfive\n")
    rejects = Rejects(path=tmp_path / "rejects.jsonl", max_share=1.0)
    assert [text for text, _ in read(path, rejects, documents="blank_line")] == ["one\ntwo", "five"]
    entry = json.loads((tmp_path / "rejects.jsonl").read_text())
    assert entry["line"] == 5 and "0xff" in entry["reason"] and "6\\xff6" in entry["value"]


def test_threshold_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    lines = [json.dumps({"text": "x"} if number % 10 else {"no": "x"}) for number in range(5 * CHECK_EVERY)]
    path.write_text("\n".join(lines))
    rejects = Rejects(path=tmp_path / "rejects.jsonl", max_share=0.05)
    with pytest.raises(ValueError, match=r"100 of 1,000 records .* max_reject_share=0.05 .*bad.jsonl:1: missing field"):
        read(path, rejects, text_column="text")
    assert rejects.records == CHECK_EVERY  # early, and not after the whole file
    assert len((tmp_path / "rejects.jsonl").read_text().splitlines()) == 100
    short = tmp_path / "short.jsonl"
    short.write_text('{"text": "x"}\nnonsense\n')
    with pytest.raises(TooManyRejects, match="1 of 2 records"):
        read(short, Rejects(max_share=0.49))
    assert len(read(short, Rejects(max_share=0.5))) == 1


@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_damaged_archives_are_errors_with_the_line(tmp_path: Path, packed: str) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number * 7919}"}) + "\n" for number in range(20_000)))
    path = compress(path, packed)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=rf"texts.jsonl.{packed}:\d+: the file cannot be read"):
        read(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="the file cannot be read"):
        read(path)


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(ValueError, match=r"x\.parquet:1: the file cannot be read"):
        read(path)


def test_text_column_is_found_or_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("title,content\na,b\n")
    assert texts_of(path) == ["b"]
    assert texts_of(path, text_column="title") == ["a"]
    with pytest.raises(ValueError, match=r"text_column='txt' is no column of it; columns: title, content"):
        read(path, text_column="txt")
    path.write_text("alpha,beta\na,b\n")
    with pytest.raises(ValueError, match=r"give text_column \(columns: alpha, beta\)"):
        read(path)
    path.write_text("alpha\na\n")
    assert texts_of(path) == ["a"]
    table = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": [1, 2], "words": ["a", "b"]}), table)
    assert texts_of(table) == ["a", "b"]
    with pytest.raises(ValueError, match="wrong type: 'text' holds int64"):
        read(table, text_column="text")


def test_a_record_above_the_limit_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reading.read_rows.__kwdefaults__, "limit_bytes", 100)
    for name, line in [("x.jsonl", '{"text": "%s"}'), ("x.txt", "%s")]:
        path = tmp_path / name
        path.write_text("\n".join(line % word for word in ["short", "long" * 200, "last"]))
        rejects = Rejects(max_share=1.0)
        assert [text for text, _ in read(path, rejects, documents="line")] == ["short", "last"]
        assert rejects.reasons == {"too large": 1}
    rejects = Rejects(max_share=1.0)
    assert read(tmp_path / "x.txt", rejects) == [] and rejects.rejected == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": ""}, "path=''"),
        ({"path": "x", "weight": 0}, "weight=0"),
        ({"path": "x", "weight": float("nan")}, "weight=nan"),
        ({"path": "x", "documents": "page"}, "documents='page'"),
    ],
)
def test_impossible_sources(fields: dict[str, object], message: str, bad_input: None) -> None:
    with pytest.raises(ValueError, match=message):
        Source(**fields)  # type: ignore[arg-type]


def test_hub_names() -> None:
    assert hub_name(Source(path="hf:wikitext")) == ("wikitext", None, "train")
    assert hub_name(Source(path="hf:a/b:c:test")) == ("a/b", "c", "test")
    with pytest.raises(ValueError, match="hf:NAME:CONFIG:SPLIT"):
        hub_name(Source(path="hf:a:b:c:d"))


def test_hub_rows_are_read_and_failures_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"path=hf:no/such.*Check the name and the network"):
        read("hf:no/such")
    monkeypatch.setattr(documents, "open_hub", lambda source: [{"id": 1, "text": "a"}, {"id": 2, "text": None}])
    rejects = Rejects(max_share=1.0)
    assert read("hf:any", rejects) == [("a", "hf:any:1")] and rejects.rejected == 1


def test_progress_reaches_one(tmp_path: Path) -> None:
    for suffix, write in WRITERS.items():
        write(tmp_path / f"x.{suffix}")
    seen: list[float] = []
    list(read_documents([Source(path=str(tmp_path))], Rejects(), seen.append))
    assert seen == sorted(seen) and seen[0] > 0 and seen[-1] == pytest.approx(1.0)


def test_a_file_named_in_three_ways_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("the old road")
    Path("link.txt").symlink_to(tmp_path / "a.txt")
    Path("folder").mkdir()
    Path("folder/b.txt").write_text("a new day")
    ways = [Source(path=path) for path in ("a.txt", str(tmp_path / "a.txt"), "link.txt", "folder", "folder/b.txt")]
    assert [one.text for one in read_documents(ways, Rejects())] == ["the old road", "a new day"]
    with pytest.raises(ValueError, match=r"texts=link.txt: link.txt is in texts=a.txt, too: name it once"):
        check_apart("texts", [ways[0], ways[2]])
    check_apart("data.train", [ways[0], ways[3]])
    assert in_both([ways[3]], ways[3:]) == [Path("folder/b.txt")] and not in_both(ways[:2], ways[3:])
