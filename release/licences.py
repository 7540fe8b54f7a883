"""The licence of everything that `pip install linformers` brings, as installed here, into docs/licences.md."""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

OUTPUT = Path(__file__).parents[1] / "docs" / "licences.md"
HEAD = """# Licences of what is installed

`pip install linformers` brings these packages, at the versions of `constraints.txt` on Linux without an NVIDIA GPU.
What each says of its licence in its metadata, from `.venv/bin/python release/licences.py`. linformers itself is under
Apache-2.0, and imports these without changing or copying them. None is under the GPL; one (tqdm) is in part under the
MPL-2.0, which asks for changes of its own files only. Extras (`onnx`, `ray`, `vision`, ...) bring more.

| package | version | licence |
| --- | --- | --- |
"""


def needed(name: str, found: dict[str, Distribution]) -> None:
    """Add a package and all that it needs here."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in found:
        return
    found[key] = distribution(name)
    for line in found[key].requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed(requirement.name, found)


def licence(package: Distribution) -> str:
    """By the field that is the most exact: the expression, the classifiers, the free text's first line."""
    metadata = package.metadata
    classifiers = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or () if c.startswith("License ::")]
    for text in (metadata.get("License-Expression"), ", ".join(classifiers), metadata.get("License")):
        if text and text.strip() not in ("", "UNKNOWN", "OSI Approved"):
            return text.strip().splitlines()[0][:80].replace("|", "/")
    return "see its files"


def main() -> None:
    """Write the table.

    Raises:
        SystemExit: Something that is needed is not installed.
    """
    found: dict[str, Distribution] = {}
    try:
        needed("linformers", found)
    except PackageNotFoundError as error:
        raise SystemExit(f"error: {error.name} is not installed: make setup") from None
    del found["linformers"]
    rows = [f"| {name} | {package.version} | {licence(package)} |" for name, package in sorted(found.items())]
    OUTPUT.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{len(rows)} packages: {OUTPUT}")


if __name__ == "__main__":
    main()
