"""The loss under transformers' Trainer: accumulation and two processes give what one big batch gives."""

import json
import os
import subprocess
import sys

import pytest

# 16 sequences with different numbers of labels: a mean of means differs from the mean over tokens.
SCRIPT = """
import json, os, sys
import torch
from transformers import Trainer, TrainingArguments
from linformers import LinformerConfig, LinformerForMaskedLM

generator = torch.Generator().manual_seed(0)
data = []
for i in range(16):
    ids = torch.randint(5, 100, (24,), generator=generator)
    data.append({"input_ids": ids, "attention_mask": torch.ones(24, dtype=torch.long),
                 "labels": torch.where(torch.arange(24) < 1 + i, ids, -100)})
for size, accumulation in zip(map(int, sys.argv[2::2]), map(int, sys.argv[3::2])):
    torch.manual_seed(0)
    model = LinformerForMaskedLM(LinformerConfig(
        vocab_size=100, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=24, projected_dim=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    arguments = TrainingArguments(
        output_dir=sys.argv[1], use_cpu=True, per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation, max_steps=2, learning_rate=1e-2, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True,
        train_sampling_strategy="sequential", ddp_find_unused_parameters=False, max_grad_norm=0.0, optim="sgd",
        lr_scheduler_type="constant", per_device_eval_batch_size=4, dataloader_pin_memory=False)
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        total = sum(p.double().sum().item() for p in trainer.accelerator.unwrap_model(trainer.model).parameters())
        print("RESULT", json.dumps({"losses": losses, "eval_loss": metrics["eval_loss"], "weights": total}))
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
sys.stdout.flush()
os._exit(0)  # threads of gloo that outlive its group abort some interpreters in their end
"""


def train(tmp_path, *runs, processes=1):
    """Results of runs, each of a batch size and so many batches for a step."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launcher, str(script), str(tmp_path / "out"), *(str(number) for run in runs for number in run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    return [json.loads(line.removeprefix("RESULT ")) for line in lines]


def test_accumulation_and_two_processes_equal_one_batch(tmp_path):
    whole, accumulated = train(tmp_path, (8, 1), (2, 4))
    (distributed,) = train(tmp_path, (4, 1), processes=2)
    assert whole["losses"][0] == pytest.approx(4.6, abs=0.3)  # about log(100) at the start, not twice that
    for other in (accumulated, distributed):
        assert other["losses"] == pytest.approx(whole["losses"], rel=1e-4)
        assert other["weights"] == pytest.approx(whole["weights"], abs=1e-4)
