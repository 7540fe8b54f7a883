"""Examples in docstrings, as code: without it Markdown reads their ``>>>`` as quotations."""

import re
from typing import Any

from griffe import Extension

_EXAMPLE = re.compile(r"^>>>.*(?:\n(?![ \t]*$).+)*", re.MULTILINE)  # to the next blank line


class Examples(Extension):
    """Fences every block of lines that begins with a prompt."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change the docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
