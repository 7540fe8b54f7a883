"""Twenty SIGKILLs of one run: every row is there once, as if none had happened."""

import random
import signal
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
        # A unit flushes a file and its folder, twice.
        code = exit_code(context, killed, score, die_at_flush=draw.randrange(3, 40), late=draw.uniform(0, 4))
        assert code == -signal.SIGKILL, f"kill {kill}: the run ended before, with {code}"
        writing += bool(list((tmp_path / "killed").rglob(".unfinished*")))
        done.append(len(list((tmp_path / "killed").rglob("_*.json"))))
    assert done == sorted(done) and done[-1] > KILLS, "the kills came too early to show anything"
    assert exit_code(context, killed, score) == 0
    print(f"{KILLS} kills, {writing} of them within a write, after units {done}")
    found = read_scores(tmp_path / "killed")
    assert len({(row["file"], row["row"]) for row in found}) == len(found) == 3 * ROWS - 1
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")
