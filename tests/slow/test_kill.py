"""Twenty SIGKILLs of one run, some of them within checkpoint writes: the weights are as if none had happened."""

import random
import signal
from pathlib import Path

import pytest
from pretrain_helpers import exit_code, fingerprint, processes, tiny, write_text

pytestmark = pytest.mark.slow

KILLS = 20
# Long enough for twenty deaths, and a checkpoint every other step: about half of the time goes into writing.
LONG = {"steps": 400, "save_every": 2, "evaluate_every": 50, "log_every": 10}


def test_twenty_kills_leave_no_trace(tmp_path: Path) -> None:
    write_text(tmp_path)
    context, draw = processes(), random.Random(0)
    assert exit_code(context, tiny(tmp_path, "whole", training=LONG)) == 0

    recipe, folder = tiny(tmp_path, "killed", training=LONG), tmp_path / "killed"
    writing, reached = 0, [0]
    for kill in range(KILLS):
        if kill % 4 == 3:  # for certain within a write, at any of its files
            end = {"die_at_flush": draw.randrange(1, 60)}
        else:  # at any moment of two steps, what they write included
            end = {"die_in_step": (draw.randrange(2, 24), draw.uniform(0, 2))}
        code = exit_code(context, recipe, **end)
        assert code == -signal.SIGKILL, f"kill {kill}: the run ended before, with {code}"
        writing += bool(list(folder.rglob(".unfinished-*")))
        steps = [int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoints/checkpoint-*")]
        reached.append(max(steps, default=0))
    assert reached == sorted(reached), "a kill cost a checkpoint that was whole"
    assert reached[-1] > 50, "the kills came too early to show anything"
    assert exit_code(context, recipe) == 0
    print(f"{KILLS} kills, {writing} of them within a write, after steps {reached}")
    assert fingerprint(folder) == fingerprint(tmp_path / "whole")
