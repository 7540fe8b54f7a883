"""The same rows on Ray as on one machine, also when workers are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from scoring_helpers import fingerprint, make_classifier, read_scores, write_documents

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ROWS = 1500
KILLS = 20


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    make_classifier(folder / "model")
    write_documents(folder / "docs", ROWS)
    finish(start(folder, "local"), 0)
    return folder


def start(work: Path, name: str, *more: str, command: str = "score") -> "subprocess.Popen[str]":
    given = ["--model", "model", "--input", "docs", "--output", name, "--shard-rows", "40", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "linformers", command, *given]
    return subprocess.Popen(words, cwd=work, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True)


def finish(process: "subprocess.Popen[str]", code: int) -> str:
    """What the process said."""
    said, _ = process.communicate(timeout=400)
    assert process.returncode == code, said
    return said


def test_rows_are_the_same_when_workers_are_killed(work: Path) -> None:
    process = start(work, "killed", "--engine", "ray", "--workers", "2")
    killed, until = 0, time.perf_counter() + 400
    while killed < KILLS and process.poll() is None and time.perf_counter() < until:
        done = len(list((work / "killed").rglob("_*.json")))
        children = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in children if "_Work" in _title(child)]
        if workers and done >= 3 * (killed + 1):  # some units between two deaths
            min(workers, key=psutil.Process.create_time).kill()  # a younger one may still load its model
            killed += 1
        time.sleep(0.1)
    said = finish(process, 0)
    assert killed == KILLS
    assert f"{3 * ROWS + 4:,} rows in = {3 * ROWS - 1:,} scored + 5 rejected" in said
    found = read_scores(work / "killed")
    assert len({(row["file"], row["row"]) for row in found}) == len(found) == 3 * ROWS - 1
    assert fingerprint(work / "killed") == fingerprint(work / "local")
    assert json.loads((work / "killed" / "results.json").read_text())["engine"] == "ray"


def test_one_engine_goes_on_where_the_other_stopped(work: Path) -> None:
    process = start(work, "both")
    until = time.perf_counter() + 120
    while len(list((work / "both").rglob("_*.json"))) < 3:
        assert process.poll() is None and time.perf_counter() < until
        time.sleep(0.05)
    process.kill()
    finish(process, -signal.SIGKILL)
    said = finish(start(work, "both", "--engine", "ray", "--workers", "2"), 0)  # of less than a CPU each, on two
    assert "Going on" in said
    assert fingerprint(work / "both") == fingerprint(work / "local")


def test_vectors_are_the_same(work: Path) -> None:
    """Chunks with the ranges of int8, which workers must not measure for themselves."""
    given = ("--chunks", "tokens:20", "--overlap", "5", "--dtype", "int8")
    finish(start(work, "vectors", *given, command="embed"), 0)
    said = finish(start(work, "vectors-on-ray", *given, "--engine", "ray", "--workers", "2", command="embed"), 0)
    assert f"{3 * ROWS + 4:,} rows in = {3 * ROWS - 1:,} embedded + 5 rejected" in said
    assert fingerprint(work / "vectors-on-ray", "embeddings") == fingerprint(work / "vectors", "embeddings")
    found = read_scores(work / "vectors", "embeddings")
    assert len({(row["file"], row["row"], row["chunk"]) for row in found}) == len(found) > 3 * ROWS


def test_what_a_worker_cannot_do_is_said_in_one_line(work: Path) -> None:
    said = finish(start(work, "unreached", "--engine", "ray", "--address", "127.0.0.1:1"), 1)
    assert "error: --address '127.0.0.1:1'" in said and "Traceback" not in said


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
