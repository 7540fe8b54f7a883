"""Twenty SIGKILLs at random moments of one run, checkpoint writes included: the weights are as if none had happened."""

import random
import signal
import time
from pathlib import Path

import pytest
from pretrain_helpers import exit_code, fingerprint, processes, tiny, train, write_text

pytestmark = pytest.mark.slow

KILLS = 20
# Long enough for twenty deaths, and a checkpoint every other step: about half of the time goes into writing.
LONG = {"steps": 400, "save_every": 2, "evaluate_every": 50, "log_every": 10}


def test_twenty_kills_leave_no_trace(tmp_path: Path) -> None:
    write_text(tmp_path)
    context, draw = processes(), random.Random(0)
    start = time.perf_counter()
    assert exit_code(context, tiny(tmp_path, "whole", training=LONG)) == 0
    seconds = time.perf_counter() - start

    recipe, folder = tiny(tmp_path, "killed", training=LONG), tmp_path / "killed"
    writing, reached = 0, []
    for kill in range(KILLS):
        if kill % 4 == 3:  # for certain within a write, at any of its files
            code = exit_code(context, recipe, die_at_flush=draw.randrange(1, 60))
            writing += 1
        else:
            process = context.Process(target=train, args=(recipe,))
            process.start()
            time.sleep(draw.uniform(0.05, max(0.5, seconds / 8)))
            writing += bool(list(folder.glob("*/.unfinished-*")))
            process.kill()
            process.join(60)
            code = process.exitcode
        assert code == -signal.SIGKILL, f"kill {kill}: the run ended before, with {code}"
        steps = [int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoints/checkpoint-*")]
        reached.append(max(steps, default=0))
    assert reached == sorted(reached), "a kill cost a checkpoint that was whole"
    assert reached[-1] > 50, "the kills came too early to show anything"
    assert exit_code(context, recipe) == 0
    print(f"{KILLS} kills, {writing} of them within a write, after steps {reached}")
    assert fingerprint(folder) == fingerprint(tmp_path / "whole")
