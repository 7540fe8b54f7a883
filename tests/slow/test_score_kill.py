"""Twenty SIGKILLs at random moments of one run: every row is there once, as if none had happened."""

import random
import signal
import time
from pathlib import Path

import pytest
from pretrain_helpers import exit_code, processes
from scoring_helpers import fingerprint, make_classifier, read_scores, score, write_documents

pytestmark = pytest.mark.slow

KILLS, ROWS = 20, 3000


def test_twenty_kills_leave_no_trace(tmp_path: Path) -> None:
    make_classifier(tmp_path / "model")
    write_documents(tmp_path / "docs", ROWS)
    options = {"model": str(tmp_path / "model"), "input": (str(tmp_path / "docs"),), "shard_rows": 20}
    context, draw = processes(), random.Random(0)
    context.set_forkserver_preload(["linformers.commands.score", "linformers.models.heads", "pandas"])
    assert exit_code(context, {**options, "output": str(tmp_path / "whole")}, score) == 0

    killed = {**options, "output": str(tmp_path / "killed")}
    done, writing = [], 0
    for kill in range(KILLS):
        process = context.Process(target=score, args=(killed,))
        process.start()
        notes = len(list((tmp_path / "killed").rglob("_*.json")))
        until = time.perf_counter() + 120
        while len(list((tmp_path / "killed").rglob("_*.json"))) <= notes:  # at least one unit between two deaths
            assert process.is_alive() and time.perf_counter() < until, f"kill {kill}: the run ended before"
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2))
        writing += bool(list((tmp_path / "killed").rglob(".unfinished*")))
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, f"kill {kill}: the run ended before, with {process.exitcode}"
        done.append(len(list((tmp_path / "killed").rglob("_*.json"))))
    assert exit_code(context, killed, score) == 0
    print(f"{KILLS} kills, {writing} of them within a write, after units {done}")
    found = read_scores(tmp_path / "killed")
    assert len({(row["file"], row["row"]) for row in found}) == len(found) == 3 * ROWS - 1
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")
