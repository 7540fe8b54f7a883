"""A recipe's training section in the words of ``transformers.TrainingArguments``."""

import math
from pathlib import Path

import torch
from transformers import TrainingArguments

from linformers.training.recipe import TrainingRecipe

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "wsd": "warmup_stable_decay"}


def training_arguments(training: TrainingRecipe, output_dir: Path) -> TrainingArguments:
    """The recipe for Trainer; this also joins the processes that a launcher has started."""
    use_cpu = training.device == "cpu" or not torch.accelerator.is_available()
    bf16 = training.precision == "bfloat16"
    if training.precision == "auto" and not use_cpu:
        bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        use_cpu=use_cpu,
        bf16=bf16,
        max_steps=training.steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=_SCHEDULES[training.schedule],
        lr_scheduler_kwargs=(
            {"num_decay_steps": round(training.decay_share * training.steps), "decay_type": "linear"}
            if training.schedule == "wsd"
            else None
        ),
        warmup_steps=math.ceil(training.warmup_share * training.steps),
        weight_decay=training.weight_decay,
        adam_beta1=training.beta1,
        adam_beta2=training.beta2,
        adam_epsilon=training.epsilon,
        max_grad_norm=training.max_grad_norm,
        eval_strategy="steps",
        eval_steps=training.evaluate_every,
        save_strategy="steps",
        save_steps=training.save_every,
        logging_steps=training.log_every,
        metric_for_best_model="loss",
        greater_is_better=False,
        activation_checkpointing=training.activation_checkpointing,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        seed=training.seed,
    )
    # One process uses one device. Trainer would fall back to DataParallel, which multiplies the batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
