"""transformers' own tests of a model, on ours: none fails.

The mixins come with transformers' source distribution only, of the version that is installed.
"""

import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import transformers

KINDS = Path(__file__).parents[1] / "hf_suite" / "kinds.py"
QUICK, ALL = ("ClusterTest", "ImageTest"), ("LinearWindowTest", "ClusterTest", "ImageTest", "AudioTest")
SECONDS = 900  # at most; 100 where nothing else runs
# What the distribution leaves out, and the mixins import.
LEFT_OUT = {
    "__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": (
        'config_common_kwargs = {"return_dict": False, "output_hidden_states": True, "dtype": "float16",\n'
        '    "architectures": ["BertModel"], "id2label": {0: "label"}, "label2id": {"label": "0"}}\n'
    ),
}


@pytest.fixture
def suite(request: pytest.FixtureRequest) -> Path:
    """The folder that holds ``tests`` of the source distribution; fetched once, and kept in pytest's cache."""
    version = transformers.__version__
    folder = request.config.cache.mkdir(f"transformers-{version}")
    if not (folder / "tests" / "utils").is_dir():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
        found = subprocess.run([*command, f"transformers=={version}"], capture_output=True, text=True, timeout=SECONDS)
        archives = list(folder.glob("*.tar.gz"))
        if found.returncode or len(archives) != 1:
            pytest.skip(f"pip has no source distribution of transformers {version}: {found.stderr.strip()[-200:]}")
        with tarfile.open(archives[0]) as archive:
            for member in archive:
                path = Path(*Path(member.name).parts[1:])
                if path.parts[:1] == ("tests",) and (content := archive.extractfile(member)) is not None:
                    _write(folder / path, content.read().decode())
        for name, content in LEFT_OUT.items():
            _write(folder / "tests" / name, content)
    return folder


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


@pytest.mark.parametrize("kinds", [QUICK, pytest.param(ALL, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_nothing_fails(suite, tmp_path, kinds):
    (settings := tmp_path / "pytest.ini").write_text("[pytest]\n")
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", str(KINDS), "-c", str(settings), "--noconftest", "-q", "-W", "ignore"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}", "-k", " or ".join(kinds)]
    found = subprocess.run(
        command, cwd=suite, capture_output=True, text=True, timeout=SECONDS, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert report.is_file(), found.stdout[-5000:] + found.stderr
    cases = list(ElementTree.parse(report).iter("testcase"))
    assert sum(len(case) == 0 for case in cases) > 75 * len(kinds), found.stdout[-5000:]
    failed = {
        (case.get("classname", "").rpartition(".")[2], case.get("name"))
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }
    assert not failed, found.stdout[-5000:]
