"""Several processes (gloo, one launch by torchrun) do what one does: DDP, FSDP2, sequence parallelism, and restarts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pretrain_helpers import exit_code, processes, tiny, write_text

# No dropout: each process draws its own. Gradients are clipped and accumulated in every variant.
PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
STEPS = {"steps": 10, "log_every": 1, "save_every": 5, "evaluate_every": 5, "micro_batch_size": 1}
WINDOW = {"projection_kind": "mean_pool", "local_window": 4, "global_tokens": 1}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "ddp": {},
    "fsdp2": {"training": {"sharding": "full"}},
    "sequence": {"training": {"sequence_parallel_size": 2}},
    "sequence-fsdp2": {"training": {"sequence_parallel_size": 2, "sharding": "full", "activation_checkpointing": True}},
    "mean_pool-one": {"model": WINDOW},
    "mean_pool-sequence": {"model": WINDOW, "training": {"sequence_parallel_size": 2}},
    "layerwise-one": {"model": {"projection_sharing": "layerwise"}},
    "layerwise-fsdp2": {"model": {"projection_sharing": "layerwise"}, "training": {"sharding": "full"}},
    "one": {},
    "handed-over": {"training": {"sharding": "full"}},
}
REFERENCE = {"mean_pool-sequence": "mean_pool-one", "layerwise-fsdp2": "layerwise-one"}

# Notes what each process really did: a wrapper that is not there changes no loss of one process.
SCRIPT = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from linformers.commands import pretrain as job
from linformers.training.recipe import Recipe

loss = job.MaskedLM.loss
seen = {}

def noting(self, model, batch, items, step):
    if model.training:
        seen["parameters"] = sorted({type(parameter).__name__ for parameter in model.parameters()})
        seen["model"] = type(model).__name__
        seen["shape"] = list(batch["input_ids"].shape)
        if step == run["stop_at"] and self.layout.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)  # on one process only: both must stop at the same step
    return loss(self, model, batch, items, step)

job.MaskedLM.loss = noting
for run in json.load(open(sys.argv[1])):
    code = job.run_recipe(Recipe(**run["recipe"]))
    assert code == (0 if run["stop_at"] is None else 143), code
    with open(run["recipe"]["output"]["folder"] + "/seen-" + os.environ["RANK"], "w") as file:
        json.dump(seen, file)
job.leave()
"""


def recipe(work: Path, name: str) -> dict[str, Any]:
    variant = VARIANTS[name]
    return tiny(
        work,
        name,
        model={**PLAIN, **variant.get("model", {})},
        training={**STEPS, **variant.get("training", {})},
    )


def torchrun(work: Path, recipes: list[dict[str, Any]], count: int = 2) -> None:
    (work / "script.py").write_text(SCRIPT)
    (work / "recipes.json").write_text(json.dumps(recipes))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(work / "script.py"), str(work / "recipes.json")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Results of every variant on two processes, and of the references on one."""
    work = tmp_path_factory.mktemp("distributed")
    write_text(work)
    for name in ("one", *dict.fromkeys(REFERENCE.values())):
        assert exit_code(processes(), recipe(work, name)) == 0
    stops = {"handed-over": 3}
    pairs = [name for name in VARIANTS if not name.endswith("one")]
    torchrun(work, [{"recipe": recipe(work, name), "stop_at": stops.get(name)} for name in pairs])
    assert (work / "handed-over" / "checkpoints" / "checkpoint-4").is_dir()
    assert exit_code(processes(), recipe(work, "handed-over")) == 0
    results = {name: json.loads((work / name / "results.json").read_text()) for name in VARIANTS}
    for name in pairs:
        results[name]["seen"] = [json.loads((work / name / f"seen-{rank}").read_text()) for rank in range(2)]
        config = json.loads((work / name / "model" / "config.json").read_text())
        assert config["architectures"] == ["LinformerForMaskedLM"], name  # FSDP2 makes a class of another name
    return results


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.endswith("one")])
def test_losses_equal_one_process(runs: dict[str, dict[str, Any]], name: str) -> None:
    one, two = runs[REFERENCE.get(name, "one")], runs[name]
    assert len(two["losses"]) == 10
    for (step, expected), (also, got) in zip(one["losses"], two["losses"], strict=True):
        assert step == also and got == pytest.approx(expected, abs=1e-5), f"step {step}"
    for (_, expected), (_, got) in zip(one["evaluations"], two["evaluations"], strict=True):
        assert got["loss"] == pytest.approx(expected["loss"], abs=1e-5)


def test_each_process_held_its_share(runs: dict[str, dict[str, Any]]) -> None:
    for name, run in runs.items():
        for seen in run.get("seen", ()):
            sharded = name.endswith("fsdp2") or name == "handed-over"
            assert seen["parameters"] == (["DTensor"] if sharded else ["Parameter"]), name
            assert (seen["model"] == "DistributedDataParallel") == (not sharded), name
            assert seen["shape"] == [1, 16 if "sequence" in name else 32], name
