"""``examples/mails``, as a newcomer runs it, with a model that learns in seconds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from finetune_helpers import make_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "mails"


def test_a_messy_csv_becomes_a_nightly_queue(tmp_path: Path) -> None:
    make_model(tmp_path / "encoder", max_position_embeddings=512)
    script = (EXAMPLE / "run.sh").read_text()
    assert len(re.findall(r"^(?:linformers|\$NIGHT|cp|mkdir)\b", script, re.MULTILINE)) <= 10
    given = {"MODEL": str(tmp_path / "encoder"), "RUNS": "mails", "TRAIN": "--epochs 4 --learning-rate 5e-3"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = ["bash", str(EXAMPLE / "run.sh")]
    done = subprocess.run(run, cwd=tmp_path, env={**os.environ, **given, "PATH": path}, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "mails.csv: read as semicolon-separated, cp1252" in said
    assert "left out: 1 empty, 1 duplicate" in said and "mails.csv:68: empty" in said  # line 68: the 18th row
    assert "2 classes (rows for train / validation): fine" in said and "bag of words" in said
    assert "not read: 1 files of other formats (1 .png)" in said and "Run 2: new files 1, files of before 1." in said
    assert "is kept, but no field" not in said
    folder = tmp_path / "mails" / "scores"
    results = json.loads((folder / "results.json").read_text())
    new = results["new"]["counts"]
    assert (results["counts"]["rows"], new["rows"], new["rejected"]) == (50, 25, 1)
    least = json.loads((tmp_path / "mails" / "calibration" / "calibration.json").read_text())["threshold"]
    for night, day in (("0001", "monday"), ("0002", "tuesday")):
        queue = pq.read_table(folder / "runs" / night / "queue.parquet").to_pylist()
        scores = pq.read_table(folder / "runs" / night / "scores.parquet").to_pylist()
        assert len(queue) == sum(row["probabilities"]["unwanted"] >= least for row in scores) > 0
        assert {Path(row["file"]).name for row in queue} == {f"{day}.csv"} and queue[0]["id"].startswith("M-")
    page = (folder / "report.html").read_text()
    assert "Review queue" in page and queue[0]["id"] in page
