"""Checks of the built site."""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

# What a browser fetches by itself; links that a reader follows are free to lead elsewhere.
_IN_PAGES = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=.?(?:https?:)?//|<link\b[^>]*\bhref=.?https?://"
)
_IN_STYLES = re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//")


def on_post_build(config: Any, **_: Any) -> None:
    """Refuse a site that loads something from elsewhere: it must read without a network, and tell nobody."""
    for pattern, suffix in ((_IN_PAGES, "html"), (_IN_STYLES, "css")):
        for path in sorted(Path(config["site_dir"]).rglob(f"*.{suffix}")):
            found = pattern.search(path.read_text(encoding="utf-8"))
            if found:
                raise PluginError(f"{path} loads from the network: {found.group()}")
