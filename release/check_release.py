"""Whether the tree is ready for a tag: version, changelog and tag agree; `make dist` runs it."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def problems(tag: str = "") -> list[str]:
    """What is wrong, a sentence each."""
    source = (ROOT / "src/linformers/_version.py").read_text(encoding="utf-8")
    version = re.search(r'__version__ = "(.*)"', source)
    assert version is not None
    found = []
    sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    if sections[:1] != [version[1]]:
        found.append(f"the newest section of CHANGELOG.md is {sections[0]}, the version in _version.py is {version[1]}")
    if tag and tag != f"v{version[1]}":
        found.append(f"the tag is {tag}, the version in _version.py is {version[1]}: the tag must be v{version[1]}")
    if tag and not re.fullmatch(r"\d+\.\d+\.\d+(rc\d+)?", version[1]):
        found.append(f"{version[1]} is no version to release, as 0.1.0 is")
    return found


def main(arguments: Sequence[str]) -> int:
    """Print what is wrong; 1 where something is."""
    found = problems(*arguments[:1])
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
