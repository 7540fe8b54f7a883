"""How files are written is found; what is given counts more, and what cannot be is refused."""

import codecs
import gzip
from pathlib import Path

import pytest

from linformers.files.forms import Form, describe_forms, find_form
from linformers.files.inputs import Input, find_inputs, find_passed_over
from linformers.files.reading import find_columns, read_rows

HEADER = ["subject", "body", "label"]
ROWS = [["one", "first, text", "ham"], ["two", "second text", "spam"], ["three", "third text", "ham"]]


def table(sign: str, *more: str, end: str = "\n") -> str:
    """Rows under a header, then lines."""
    quote = lambda cell: f'"{cell}"' if sign in cell else cell  # noqa: E731
    return "".join(sign.join(map(quote, row)) + end for row in (HEADER, *ROWS)) + "".join(line + end for line in more)


def form(path: Path, content: bytes | str, given: Form = Form()) -> Form:  # noqa: B008
    """What is found of a file."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return find_form(Input.of(path, form=given))


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz"])
def test_delimiters(tmp_path: Path, sign: str, suffix: str) -> None:
    content = table(sign).encode()
    path = tmp_path / f"a.{suffix}"
    found = form(path, gzip.compress(content) if suffix.endswith("gz") else content)
    assert (found.delimiter, found.encoding, found.quotes) == (sign, "utf-8", "doubled")
    wanted = find_columns([Input.of(path)], ("subject", "body"), ("label",))
    rows = list(read_rows(Input.of(path), wanted))
    assert [row.text for row in rows] == [f"{one}\n\n{two}" for one, two, _ in ROWS]
    assert [row.carried for row in rows] == [(label,) for *_, label in ROWS]
    for number, row in enumerate(rows[:-1]):  # from any row on
        assert list(read_rows(Input.of(path), wanted, start=row.after)) == rows[number + 1 :]


@pytest.mark.parametrize(
    ("encoding", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
        ("cp1252", "cp1252"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_encodings(tmp_path: Path, encoding: str, found: str, name: str) -> None:
    text = table(";", "vier;Größe – 5 €;ham") if name == "a.csv" else "Größe – 5 € und mehr\n"
    path = tmp_path / name
    assert form(path, text.encode(encoding)).encoding == found
    wanted = find_columns([Input.of(path)], "body" if name == "a.csv" else None, ())
    rows = list(read_rows(Input.of(path), wanted))
    assert rows[-1].text is not None and rows[-1].text.startswith("Größe – 5 €") and not rows[-1].unreadable
    if name == "a.csv":
        assert list(read_rows(Input.of(path), wanted, start=rows[1].after)) == rows[2:]


def test_a_mark_of_utf16_before_utf8_costs_its_row(tmp_path: Path) -> None:
    for name, data in {
        "a.csv": table(","),
        "b.jsonl": '{"text": "one"}\n{"text": "two"}\n',
        "c.txt": "one\ntwo\n",
    }.items():
        path = tmp_path / name
        assert form(path, codecs.BOM_UTF16_LE + data.encode()).encoding == "utf-8", name
    rows = list(read_rows(Input.of(tmp_path / "b.jsonl"), find_columns([Input.of(tmp_path / "b.jsonl")], "text", ())))
    assert [row.text for row in rows] == [None, "two"]
    assert form(tmp_path / "d.txt", "中国".encode("utf-16")).encoding == "utf-16", "no zero in it, and no UTF-8"


def test_what_is_no_cp1252(tmp_path: Path) -> None:
    assert form(tmp_path / "a.csv", table(",").encode() + b"x,\xff,ham\n").encoding == "utf-8"  # in no word
    mixed = table(",").encode() + "Größe,x,ham\n".encode() + b"Gr\xf6\xdfe,x,ham\n"
    assert form(tmp_path / "b.csv", mixed).encoding == "utf-8"  # one of both is wrong
    assert form(tmp_path / "c.csv", table(",").encode() + b"Gr\xf6\xdfe \x81,x,ham\n").encoding == "utf-8"
    assert form(tmp_path / "d.jsonl", b'{"text": "Gr\xf6\xdfe"}\n').encoding == "utf-8"  # JSON is UTF-8
    wanted = find_columns([Input.of(tmp_path / "b.csv")], "subject", ())
    (bad,) = [row for row in read_rows(Input.of(tmp_path / "b.csv"), wanted) if row.text is None]
    assert bad.line == 6 and bad.reason.startswith("invalid UTF-8: byte 0xf6")


def test_what_is_given_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    found = form(path, table(";").encode("cp1252"), Form("tab", "latin-1"))
    assert (found.delimiter, found.encoding) == ("\t", "iso8859-1")
    assert form(path, "a;b,c\n1;2,3\n").delimiter == ","  # both do: the name of the file decides
    assert form(path, "a;b,c\n1;2,3\n", Form(";")).delimiter == ";"
    for given, said in (({"delimiter": ";;"}, "delimiter=';;' must be one character"), ({"encoding": "utf9"}, "utf-8")):
        with pytest.raises(ValueError, match=said):
            Form(**given)
    with pytest.raises(ValueError, match="encoding='base64' is unknown"):
        Form(encoding="base64")


def test_quotation_marks(tmp_path: Path) -> None:
    escaped = 'text,label\n"a \\"b\\", c",ham\nplain,ham\n'
    assert form(tmp_path / "a.csv", escaped).quotes == "escaped"
    inches = "text\tlabel\n" + 'a 5" pipe\tham\n"open\tham\n' * 3
    assert form(tmp_path / "a.tsv", inches).quotes == "text"
    assert form(tmp_path / "b.csv", table(",", '"never closed,x,ham', "a,b,ham")).quotes == "doubled"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['"open,x,ham', "b,x,ham", '"c, d",x,ham'], [(5, "closed"), (6, "b"), (7, "c, d")]),
        (['"open,x,ham', '"two\nlines",x,ham', "b,x,ham"], [(5, "closed"), (6, "two\nlines"), (8, "b")]),
        (['"two\nlines"x,y,ham', "b,x,ham"], [(5, "runs on to line 6"), (7, "b")]),
        (['"x"y,z,ham', "b,x,ham"], [(5, "expected after"), (6, "b")]),
    ],
)
def test_an_open_quotation_mark_costs_its_line(
    tmp_path: Path, lines: list[str], expected: list[tuple[int, str]]
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(table(",", *lines), encoding="utf-8")
    wanted = find_columns([Input.of(path)], "subject", ())
    rows = list(read_rows(Input.of(path), wanted))
    for row, (line, said) in zip(rows[3:], expected, strict=True):
        assert row.line == line and (said == row.text or said in row.reason)
    for number, row in enumerate(rows[:-1]):
        assert list(read_rows(Input.of(path), wanted, start=row.after)) == rows[number + 1 :]


def test_what_was_taken_is_said_and_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    for name, content in (
        ("a.csv", table(";").encode("cp1252")),
        ("b.csv", table(";").encode()),
        ("deep/c.csv", codecs.BOM_UTF16_LE + table(",").encode("utf-16-le")),
        ("d.docx", b"no"),
        (".hidden.docx", b"no"),
    ):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    monkeypatch.chdir(tmp_path)
    files = find_inputs(["a.csv", str(tmp_path / "a.csv"), str(tmp_path), "deep/../b.csv", "link.csv"])
    assert sorted(Path(file.path).name for file in files) == ["a.csv", "b.csv", "c.csv"]
    said = describe_forms(files)
    assert said[0] == "a.csv and 1 more: read as semicolon-separated, UTF-8"
    assert said[1].endswith("c.csv: read as comma-separated, UTF-16")
    assert [Path(one).name for one in find_passed_over([str(tmp_path)])] == ["d.docx"]
