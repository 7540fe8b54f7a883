"""A thousand damaged files: every row is scored or rejected with its reason; no crash, no hang."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from scoring_helpers import damaged, make_classifier, read_scores, score

pytestmark = pytest.mark.slow


def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    make_classifier(tmp_path / "model")
    (tmp_path / "docs").mkdir()
    rng = random.Random(0)
    files = [damaged(rng, tmp_path / "docs", number) for number in range(1000)]
    output = tmp_path / "out"
    score(
        {
            "model": str(tmp_path / "model"),
            "input": (str(tmp_path / "docs"),),
            "output": str(output),
            "limit_bytes": 10_000,
            "max_reject_share": 1.0,
        }
    )
    counts = json.loads((output / "results.json").read_text())["counts"]
    scored = Counter(row["file"] for row in read_scores(output))
    rejects = [json.loads(line) for line in (output / "rejects.jsonl").read_text().splitlines()]
    rejected = Counter()
    for entry in rejects:
        assert entry["reason"] and entry["row"] >= 1
        rejected[entry["file"]] += entry.get("rows", 1)
    assert counts["scored"] == sum(scored.values()) and counts["rejected"] == sum(rejected.values())
    assert counts["rows"] == counts["scored"] + counts["rejected"] and counts["shards"] >= len(files)
    for path in files:  # a file without a trace is one without a row
        if not scored[str(path)] + rejected[str(path)]:
            data = path.read_bytes()
            assert path.suffix != ".parquet" and (
                not data.strip() or b"\n" not in data.strip() or path.suffix in (".gz", ".zst")
            )
        if path.suffix == ".jsonl":
            data = path.read_bytes()
            lines, rows = len(data.splitlines()), scored[str(path)] + rejected[str(path)]
            if data.count(b"\0") > len(data) / 3:  # UTF-16 or UTF-32, where no line end is seen behind a lost byte
                lines = len(data.replace(b"\0", b"").splitlines())
                assert rows == lines or (rows < lines and rejected[str(path)])
            else:
                assert rows == lines or b"\r" in data
    print(f"{len(files)} files: {counts['scored']:,} rows scored, {counts['rejected']:,} rejected: {counts['reasons']}")
