"""Pretraining, fine-tuning and the baselines, on models of a few thousand weights."""

import io
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from linformers import LinformerConfig
from linformers.classification.baselines import majority_accuracy, tfidf_accuracy
from linformers.data.masking import Masking
from linformers.data.streams import LabelledPassages, MaskedBlocks
from linformers.training.evaluate import masked_perplexity, predict, wilson_interval
from linformers.training.finetune import finetune
from linformers.training.pretrain import Stage, pretrain, training_blocks
from linformers.training.progress import TrainProgress, clock
from linformers.training.runner import TrainSettings

VOCABULARY = 40
MASKING = Masking(mask_token_id=4, vocab_size=VOCABULARY, special_token_ids=(0, 1, 2, 3, 4))
STAGES = [Stage(length=8, share=0.5), Stage(length=32, share=0.5)]


def config(**fields: object) -> LinformerConfig:
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
        "hidden_dropout_prob": 0.1,  # dropout is random too, and must repeat
        "projected_dim": 4,
        "local_window": 2,
        "norm_position": "pre",
    }
    return LinformerConfig(**{**shape, **fields})


def documents() -> list[np.ndarray]:
    """Each token is followed by the next one, so masked tokens can be told from their neighbours."""
    return [np.arange(start, start + 500) % (VOCABULARY - 5) + 5 for start in range(4)]


def settings(**fields: object) -> TrainSettings:
    default = {"steps": 8, "batch_size": 2, "learning_rate": 1e-2, "eval_every": 4, "log_every": 1}
    return TrainSettings(**{**default, **fields})  # type: ignore[arg-type]


def run(tmp_path, callbacks=(), **fields):
    chosen = settings(**fields)
    train = training_blocks(documents(), STAGES, chosen, MASKING, bos_token_id=0, eos_token_id=2)
    evaluation = MaskedBlocks(np.stack([documents()[0][:32]] * 4), MASKING, seed=1)
    return pretrain(config(), train, evaluation if chosen.eval_every else None, chosen, tmp_path, callbacks)


def test_two_runs_give_the_same_losses_and_weights(tmp_path) -> None:
    (one, first), (two, second) = run(tmp_path), run(tmp_path)
    assert first.losses == second.losses and first.evaluations == second.evaluations
    assert len(first.losses) == 8 and [step for step, _ in first.evaluations] == [4, 8]
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_another_seed_gives_other_losses(tmp_path) -> None:
    assert run(tmp_path)[1].losses != run(tmp_path, seed=1)[1].losses


def test_pretraining_learns_and_evaluates_the_last_step(tmp_path) -> None:
    model, history = run(tmp_path, steps=60, eval_every=25)
    assert [step for step, _ in history.evaluations] == [25, 50, 60]
    assert history.final["loss"] < history.evaluations[0][1]["loss"]
    evaluation = MaskedBlocks(np.stack([documents()[0][:32]] * 4), MASKING, seed=1)
    assert masked_perplexity(model, evaluation, 3) == pytest.approx(math.exp(history.final["loss"]), rel=1e-4)


def test_no_evaluation_without_held_out_data(tmp_path) -> None:
    assert run(tmp_path, eval_every=None)[1].evaluations == []


def test_stages_share_the_steps() -> None:
    train = training_blocks(documents(), STAGES, settings(steps=5), MASKING, bos_token_id=0, eos_token_id=2)
    assert len(train) == 10  # steps * batch_size
    assert [len(train[item]) for item in range(10)] == [4] * 4 + [1] * 6


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Stage(length=12, share=0.5), Stage(length=32, share=0.5)], "length=12 must divide"),
        ([Stage(length=32, share=0.5)], "add up to 0.5"),
    ],
)
def test_stages_that_do_not_fit(stages: list[Stage], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training_blocks(documents(), stages, settings(), MASKING, bos_token_id=0, eos_token_id=2)


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("batch_size", 0), ("learning_rate", 0.0), ("warmup_share", 1.0)]
)
def test_settings_name_the_bad_field(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field}={value}"):
        settings(**{field: value})


def test_finetuning_from_a_saved_encoder(tmp_path) -> None:
    model, _ = run(tmp_path)
    model.save_pretrained(tmp_path / "pretrained")
    labels = np.arange(40) % 2
    blocks = np.where(labels[:, None] == 0, 7, 9) * np.ones((40, 32), dtype=np.int64)
    classifier, history = finetune(
        tmp_path / "pretrained",
        ["seven", "nine"],
        LabelledPassages(blocks, labels, total=80),
        LabelledPassages(blocks, labels),
        settings(steps=20, batch_size=4, eval_every=None),
        tmp_path,
        classifier_pooling="mean",
    )
    assert history.final["accuracy"] == 1.0
    shares = predict(classifier, blocks, batch_size=16)
    assert shares.shape == (40, 2) and (shares.argmax(1) == labels).all()
    assert np.allclose(shares.sum(1), 1)
    assert classifier.config.id2label == {0: "seven", 1: "nine"} and classifier.config.classifier_pooling == "mean"


def test_baselines() -> None:
    train, test = np.array([0, 0, 1]), np.array([0, 1, 1, 1])
    assert majority_accuracy(train, test) == 0.25
    texts = ["red apples and pears", "red plums", "blue sea"]
    assert tfidf_accuracy(texts, train, ["red pears", "blue", "the blue sea", "sea"], test) == 1.0


def test_progress_speaks_in_lines_where_there_is_no_terminal(tmp_path) -> None:
    out = io.StringIO()
    run(tmp_path, [TrainProgress(Console(file=out, width=120), "Linformer", 64, every=0.0)])
    lines = out.getvalue().splitlines()
    assert len(lines) == 8
    assert lines[3].startswith("Linformer: step 4/8, loss ") and "tokens/s" in lines[3] and lines[3].endswith(" left")


def test_progress_bar_leaves_the_terminal_alone_after_a_failure(bad_input) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    progress = TrainProgress(console, "Linformer", 64)

    class State:
        max_steps, global_step = 8, 4

    with pytest.raises(KeyboardInterrupt), progress:
        progress.on_train_begin(None, State, None)  # type: ignore[arg-type]
        progress.on_log(None, State, None, logs={"loss": 3.25})  # type: ignore[arg-type]
        progress.on_step_end(None, State, None)  # type: ignore[arg-type]
        raise KeyboardInterrupt
    assert progress.bar is None
    assert "loss 3.250" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3661, "1:01:01")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_wilson_interval_against_published_values() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
    low, high = wilson_interval(0, 20)
    assert low == pytest.approx(0.0) and high == pytest.approx(0.161, abs=1e-3)
