"""Whether a page is well formed, fetches nothing, and can be used without a mouse or eyes."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Checker(HTMLParser):
    """Every tag is closed in order; ids are unique; what is referred to exists."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.heads: set[str | None] = set()  # scopes of header cells
        self.pictures = 0  # without a text in their place

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        if tag == "th":
            self.heads.add(given.get("scope"))
        self.pictures += tag == "img" and not given.get("alt")
        self.pictures += tag == "svg" and not given.get("aria-labelledby")
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name == "aria-labelledby":
                self.references += (value or "").split()
            elif name in ("href", "xlink:href", "src"):
                self.addresses.append(value or "")
            self.references += re.findall(r"url\(#([^)]+)\)", value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    assert len(set(checker.ids)) == len(checker.ids)
    assert set(checker.references) <= set(checker.ids)
    return checker


def check_whole(html: str) -> Checker:
    """A page that stands alone: no script, nothing fetched; data and other pages beside it may be linked to."""
    checker = check(html)
    assert not checker.tags & {"script", "link", "iframe", "object", "form"}
    for address in checker.addresses:
        assert address.startswith(("#", "data:")) or re.fullmatch(r"[a-z0-9]+/report\.html", address), address
    assert "default-src 'none'" in html and '<html lang="en">' in html
    assert checker.heads == {"col", "row"} and checker.pictures == 0
    return checker
