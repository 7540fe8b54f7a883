"""How a file of text is written: its encoding, and for CSV the delimiter and quotation marks; given, or found in it.

- *Encoding*: a byte-order mark decides (UTF-8, UTF-16, UTF-32), unless no zero follows one of UTF-16: it is a
  damaged byte then, and costs its row alone. Without one, every second byte being zero is UTF-16,
  and what is valid UTF-8 is UTF-8. CSV and text that are not are cp1252 (Windows, Western Europe) if no byte above 127
  is part of a UTF-8 character and at least one stands in a word. All else counts as UTF-8; its bad rows
  are rejected.
- *Delimiter*: of comma, semicolon, tab and bar the one that gives the most rows as many fields as the header; where
  two do as well, that of the file's name. A first line ``sep=;`` names it, as Excel has it.
- *Quotation marks*: doubled inside a field; or escaped by a backslash, or plain text, where only this gives whole rows.
"""

import codecs
import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from linformers.checks import closest

if TYPE_CHECKING:
    from linformers.files.inputs import Input

Quotes = Literal["doubled", "escaped", "text"]

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
USUAL = {"csv": ",", "tsv": "\t"}
SNIFFED_BYTES, SNIFFED_TEXT, SNIFFED_ROWS = 2**24, 2**20, 200
_BOMS = {  # the longer ones first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SEP = re.compile(r'"?sep=(.)"?\r?\n')
_CHARACTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_IN_WORD = re.compile(rb"[A-Za-z][\x80-\xff]|[\x80-\xff][A-Za-z]")
_NAMES = {sign: name for name, sign in DELIMITERS.items()}


@dataclass(frozen=True)
class Form:
    """How a file is written; None = to be found.

    Args:
        delimiter: What stands between the fields of CSV: one character, or a name (``tab``, ``semicolon``, ...).
        encoding: A name that Python knows, as ``utf-8`` or ``cp1252``.
        quotes: What quotation marks are: ``doubled`` inside quoted fields, ``escaped`` there by a backslash, or
            ``text`` like all other characters.
        skipped: Lines before the header.
        array: Whether a JSON file is one array, or one object over many lines, and not an object on each line.

    Raises:
        ValueError: A delimiter of several characters, or an unknown encoding.
    """

    delimiter: str | None = None
    encoding: str | None = None
    quotes: Quotes | None = None
    skipped: int = 0
    array: bool = False

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            sign = {**DELIMITERS, "\\t": "\t", "pipe": "|"}.get(self.delimiter, self.delimiter)
            if len(sign) != 1 or sign in '"\r\n':
                raise ValueError(
                    f"delimiter={self.delimiter!r} must be one character, or one of {', '.join(DELIMITERS)}"
                )
            object.__setattr__(self, "delimiter", sign)
        if self.encoding is not None:
            try:
                "".encode(self.encoding)  # only encodings of text can do this
                object.__setattr__(self, "encoding", codecs.lookup(self.encoding).name)
            except LookupError as error:
                usual = ("utf-8", "utf-16", "cp1252", "latin-1", "cp1251", "gb18030", "shift_jis")
                raise ValueError(
                    f"encoding={self.encoding!r} is unknown to Python; usual are {', '.join(usual)}."
                    f"{closest(self.encoding, usual)}"
                ) from error

    def __str__(self) -> str:
        parts = [(self.encoding or "utf-8").upper().replace("CP", "cp")]
        if self.delimiter is not None:
            sign = _NAMES.get(self.delimiter, repr(self.delimiter))
            parts.insert(0, f"{sign}-separated" if self.delimiter in _NAMES else f"separated by {sign}")
        if self.array:
            parts.append("one array")
        if self.delimiter is not None and self.quotes in ("escaped", "text"):
            what = "escaped by backslashes" if self.quotes == "escaped" else "part of the text"
            parts.append(f"quotation marks {what}")
        return ", ".join(parts)

    @property
    def csv(self) -> dict[str, Any]:
        """Options of ``csv.reader``."""
        found: dict[str, Any] = {"strict": True, "delimiter": self.delimiter}
        if self.quotes == "text":
            return {**found, "quoting": csv.QUOTE_NONE}
        return {**found, "escapechar": "\\", "doublequote": True} if self.quotes == "escaped" else found


def describe_forms(files: "Iterable[Input]") -> list[str]:
    """What CSV files are read as, and others that are not UTF-8: a line for each form, with the first file of it."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in files:
        form = None if file.refused or file.kind == "parquet" else find_form(file)
        if form is not None and (file.kind in USUAL or form.encoding != "utf-8"):
            found[str(form)].append(file.name)
    return [
        f"{names[0]}{f' and {len(names) - 1:,} more' if len(names) > 1 else ''}: read as {form}"
        for form, names in found.items()
    ]


@lru_cache(4096)
def find_form(file: "Input") -> Form:
    """The form of a file: what is given of it, and what is found in its first 16 MiB.

    Raises:
        Unavailable: The file has changed, or its store does not answer.
    """
    import pyarrow as pa  # slow, and this module is imported by all command lines

    form, data = file.form, b""
    if file.kind == "parquet":
        return form
    try:
        with closing(file.open()) as stream:
            data = unpacked(stream, file.compression).read(SNIFFED_BYTES)
    except (OSError, ValueError, pa.ArrowException):  # shows when its rows are read
        pass
    if form.encoding is None:
        form = replace(form, encoding=_find_encoding(data, file.kind))
    text = codecs.getincrementaldecoder(form.encoding or "utf-8")("replace").decode(data).removeprefix("\ufeff")
    if file.kind in USUAL:
        return _find_csv(form, text, USUAL[file.kind])
    return replace(form, array=file.kind == "json" and _is_whole(text))


def _is_whole(text: str) -> bool:
    """Whether a JSON text is one array, or one object that is spread over lines, as an indented file is."""
    first = text.lstrip().split("\n", 1)[0].strip()
    return first.startswith("[") or first == "{"


def unpacked(stream: BinaryIO, compression: str | None) -> Any:
    """The bytes of a stream behind its compression."""
    import pyarrow as pa

    return stream if compression is None else io.BufferedReader(pa.CompressedInputStream(stream, compression))  # type: ignore[arg-type]


def _find_encoding(data: bytes, kind: str) -> str:
    for mark, name in _BOMS.items():
        if data.startswith(mark):
            # In UTF-16 every comma, bracket and line end has a zero, and they stand in all files but plain text.
            rest = data[len(mark) :]
            return "utf-8" if b"\0" not in rest and (kind != "text" or _is_utf8(rest)) else name
    start = data[:4096]
    if len(start) > 3:
        even, odd = start[::2].count(0) / len(start[::2]), start[1::2].count(0) / len(start[1::2])
        if max(even, odd) > 0.4 and min(even, odd) < 0.05:
            return "utf-16-le" if odd > even else "utf-16-be"
    if (
        kind in ("csv", "tsv", "text", "conll")
        and not _is_utf8(data)
        and not _CHARACTER.search(data)
        and _IN_WORD.search(data)
    ):
        try:
            data.decode("cp1252")
            return "cp1252"
        except UnicodeDecodeError:
            pass
    return "utf-8"


def _is_utf8(data: bytes) -> bool:
    """Whether bytes are text in UTF-8."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return True


def _find_csv(form: Form, text: str, usual: str) -> Form:
    text = text[:SNIFFED_TEXT]
    if named := _SEP.match(text):
        form = replace(form, delimiter=form.delimiter or named[1], skipped=1)
        text = text[named.end() :]
    lines = text.splitlines(keepends=True)
    if len(text) == SNIFFED_TEXT:  # the last line is cut
        lines = lines[:-1] or lines
    signs = [form.delimiter] if form.delimiter else sorted(_NAMES, key=lambda sign: sign != usual)
    best, most = replace(form, delimiter=form.delimiter or usual, quotes=form.quotes or "doubled"), -1.0
    for sign in signs:
        one = replace(best, delimiter=sign)
        share = _whole_rows(one, lines)
        if share > most:
            best, most = one, share
    if form.quotes is None and '\\"' in text and (share := _whole_rows(replace(best, quotes="escaped"), lines)) > most:
        best, most = replace(best, quotes="escaped"), share
    if form.quotes is None and most < 0.5:
        for sign in signs:
            one = replace(best, delimiter=sign, quotes="text")
            if (share := _whole_rows(one, lines)) >= 0.95 and share > most:
                best, most = one, share
    return best


def _whole_rows(form: Form, lines: list[str]) -> float:
    """The share of rows with as many fields as the header; -1 where the header has but one."""
    rows = csv.reader(iter(lines), **form.csv)
    try:
        width = len(next(rows, []))
    except csv.Error:
        return -1
    if width < 2:
        return -1
    found: list[bool] = []
    while len(found) < SNIFFED_ROWS:
        try:
            fields = next(rows, None)
        except csv.Error:
            found.append(False)
            continue
        if fields is None:
            break
        if fields:
            found.append(len(fields) == width)
    return sum(found) / len(found) if found else 1.0


class Transcoded(io.RawIOBase):
    """A stream of another encoding as UTF-8.

    Bytes that mean nothing in it are left as they are, so that the row they are in can be rejected.
    """

    stream: Any
    held: bytes

    def __init__(self, stream: Any, encoding: str) -> None:
        self.stream, self.held = stream, b""
        self.decoder: codecs.IncrementalDecoder = codecs.getincrementaldecoder(encoding)("surrogateescape")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See ``io.RawIOBase``."""
        while not self.held:
            data = self.stream.read(2**16)
            self.held = self.decoder.decode(data, final=not data).encode("utf-8", "surrogateescape")
            if not data:
                break
        part, self.held = self.held[: len(buffer)], self.held[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)
