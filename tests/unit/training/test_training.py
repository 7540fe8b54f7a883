"""The engine, its watchers and the baselines, on models of a few thousand weights."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, set_seed

from linformers import LinformerConfig, LinformerForMaskedLM, LinformerForSequenceClassification, linearise
from linformers.classification.baselines import majority_accuracy, tfidf_accuracy
from linformers.classification.model import start_head
from linformers.data.masking import Masking
from linformers.data.packing import pack
from linformers.data.streams import LabelledPassages, MaskedBlocks, collate
from linformers.files import progress
from linformers.files.checkpoints import Checkpoints
from linformers.training.corpus import curriculum
from linformers.training.engine import Batch, Batches, Engine, Objective, parameter_groups, rate_factor
from linformers.training.evaluate import predict, wilson_interval
from linformers.training.history import History
from linformers.training.masked_lm import MaskedLM
from linformers.training.processes import Layout, step_batches
from linformers.training.recipe import Stage, TrainingRecipe
from linformers.training.watchers import TrainProgress, Watcher

VOCABULARY = 40
MASKING = Masking(mask_token_id=4, vocab_size=VOCABULARY, special_token_ids=(0, 1, 2, 3, 4))
STAGES = [Stage(length=8, share=0.5), Stage(length=32, share=0.5)]
LAYOUT = Layout(device=torch.device("cpu"))


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


def recipe(**fields: Any) -> TrainingRecipe:
    default = {"steps": 8, "batch_size": 2, "learning_rate": 1e-2, "evaluate_every": 4, "log_every": 1}
    return TrainingRecipe(**{**default, "device": "cpu", **fields})


def sequences(training: TrainingRecipe) -> Any:
    def blocks(length: int, total: int, seed: int) -> MaskedBlocks:
        packed = pack(documents(), length=length, bos_token_id=0, eos_token_id=2)
        return MaskedBlocks(packed, MASKING, seed=seed, total=total)

    return curriculum(STAGES, training, 32, blocks)


def engine(training: TrainingRecipe, evaluates: bool = True, **options: Any) -> Engine:
    set_seed(training.seed)
    evaluation = MaskedBlocks(np.stack([documents()[0][:32]] * 4), MASKING, seed=1)
    return Engine(
        LinformerForMaskedLM(config()),
        MaskedLM(evaluation if evaluates else None, collate, 3, LAYOUT),
        training,
        Batches(sequences(training), step_batches(training, LAYOUT), collate),
        layout=LAYOUT,
        **options,
    )


def weights(made: Engine) -> list[Tensor]:
    return list(made.plain.state_dict().values())


def same(one: Engine, two: Engine) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))


def test_two_runs_give_the_same_losses_and_weights() -> None:
    one, two = engine(recipe()), engine(recipe())
    first, second = one.train(), two.train()
    assert first.log == second.log and first.evaluations == second.evaluations and same(one, two)
    assert len(first.losses) == 8 and [step for step, _ in first.evaluations] == [4, 8]


def test_another_seed_gives_other_losses() -> None:
    assert engine(recipe()).train().losses != engine(recipe(seed=1)).train().losses


def test_what_ties_positions_of_segments_goes_with_the_run() -> None:
    """Else a second run on the same model would tie them twice."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    made = BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, max_position_embeddings=16, **shape))
    model, training = linearise(made, max_length=48, segment_length=16), recipe(steps=2)
    rows = model.bert.embeddings.position_embeddings.weight
    hooks = []
    for _ in range(2):
        objective = MaskedLM(None, collate, 3, LAYOUT)
        batches = Batches(sequences(training), step_batches(training, LAYOUT), collate)
        Engine(model, objective, training, batches, layout=LAYOUT).train()
        assert torch.equal(rows, rows[:16].repeat(3, 1))
        hooks.append(len(rows._backward_hooks))
    assert hooks == [0, 0]


def test_a_run_that_goes_on_from_a_checkpoint_repeats_the_rest_bit_by_bit(tmp_path: Path) -> None:
    """Losses between two entries of the log are kept too: 3 is not a multiple of 4."""
    training = recipe(log_every=4, save_every=3)
    whole = engine(training, checkpoints=Checkpoints(tmp_path, keep=9))
    history = whole.train()
    for step in (3, 6, 8):
        again = engine(training, checkpoint=tmp_path / f"checkpoint-{step}")
        found = again.train()
        assert found.log == history.log and found.evaluations == history.evaluations and same(whole, again)


def test_a_checkpoint_of_another_version_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    engine(recipe(), checkpoints=checkpoints).train()
    (checkpoints.path(8) / "state.json").write_text('{"step": 8, "seconds": 1.0}')
    with pytest.raises(ValueError, match="checkpoint-8 is a checkpoint of format 1.* goes on from format 2"):
        engine(recipe(), checkpoint=checkpoints.path(8))


def test_learning_and_evaluating_the_last_step() -> None:
    history = engine(recipe(steps=60, evaluate_every=25)).train()
    assert [step for step, _ in history.evaluations] == [25, 50, 60]
    assert history.evaluations[-1][1]["loss"] < history.evaluations[0][1]["loss"]
    assert history.evaluations[-1][1]["perplexity"] == pytest.approx(math.exp(history.evaluations[-1][1]["loss"]))


def test_no_evaluation_without_held_out_data() -> None:
    assert engine(recipe(), evaluates=False).train().evaluations == []


def test_the_evaluation_is_a_mean_over_tokens_and_not_over_batches() -> None:
    made = engine(recipe())
    at_once = MaskedLM(made.objective.evaluation, collate, 4, LAYOUT)  # type: ignore[attr-defined]
    assert made.objective.measure(made.plain)["loss"] == pytest.approx(at_once.measure(made.plain)["loss"], rel=1e-5)


def test_a_run_that_diverges_is_an_error_that_says_so() -> None:
    class Diverging(Objective):
        def loss(self, model: nn.Module, batch: Batch, items: int, step: int) -> Tensor:
            return model(**batch).loss * (float("nan") if step == 2 else 1.0)

    made = engine(recipe())
    made.objective = Diverging()
    with pytest.raises(ValueError, match="loss is nan after step 3: the run has diverged.*lower learning_rate"):
        made.train()


def test_data_that_end_before_the_last_step_are_an_error() -> None:
    made = engine(recipe())
    made.batches = Batches(sequences(recipe()), [[0], [1]], collate)
    with pytest.raises(ValueError, match="the data end after step 2 of steps=8"):
        made.train()


def test_stages_share_the_steps() -> None:
    train = sequences(recipe(steps=5))
    assert len(train) == 10  # steps * batch_size
    assert [len(train[item]) for item in range(10)] == [4] * 4 + [1] * 6


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", [0, 0.5, *((1 + math.cos(math.pi * step / 8)) / 2 for step in range(8))]),
        ("wsd", [0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
    ],
)
def test_schedules(schedule: Any, expected: list[float]) -> None:
    training = recipe(steps=10, warmup_share=0.2, decay_share=0.4, schedule=schedule)
    assert [rate_factor(training, step) for step in range(10)] == pytest.approx(expected)


def test_only_matrices_decay_and_parts_have_rates_of_their_own() -> None:
    model = LinformerForSequenceClassification(config())
    groups = parameter_groups(model, recipe(weight_decay=0.1), {"classifier.": 0.5})
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[parameter]: group for group in groups for parameter in group["params"]}
    assert set(found) == set(names.values())
    for name, group in found.items():
        assert group["weight_decay"] == (0.1 if model.get_parameter(name).ndim > 1 else 0.0), name
        assert group["peak"] == (0.5 if name.startswith("classifier.") else 1e-2), name


def test_finetuning_from_a_saved_encoder(tmp_path: Path) -> None:
    made = engine(recipe())
    made.train()
    made.plain.save_pretrained(tmp_path)
    labels = np.arange(40) % 2
    blocks = np.where(labels[:, None] == 0, 7, 9) * np.ones((40, 32), dtype=np.int64)
    classifier = LinformerForSequenceClassification.from_pretrained(tmp_path, classifier_pooling="mean")
    start_head(classifier, blocks)
    training, data = recipe(steps=20, batch_size=4), LabelledPassages(blocks, labels, total=80)
    batches = Batches(data, step_batches(training, LAYOUT), collate)
    Engine(classifier, Objective(), training, batches, layout=LAYOUT, rates={"classifier.": 3e-2}).train()
    shares = predict(classifier, blocks)
    assert shares.shape == (40, 2) and (shares.argmax(1) == labels).all()
    assert np.allclose(shares.sum(1), 1)


def test_baselines() -> None:
    train, test = np.array([0, 0, 1]), np.array([0, 1, 1, 1])
    assert majority_accuracy(train, test) == 0.25
    texts = ["red apples and pears", "red plums", "blue sea"]
    assert tfidf_accuracy(texts, train, ["red pears", "blue", "the blue sea", "sea"], test) == 1.0


def test_progress_speaks_in_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY", 0.0)
    out = io.StringIO()
    engine(recipe(), watchers=[TrainProgress(Console(file=out, width=120), "Linformer", 64)]).train()
    lines = out.getvalue().splitlines()
    assert len(lines) == 8
    assert lines[3].startswith("Linformer: 50%, step 4/8, loss ") and "256 tokens, " in lines[3]
    assert lines[3].endswith(" left")


def test_progress_bar_leaves_the_terminal_alone_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "BAR_EVERY", 0.0)

    class Failing(Watcher):
        def step(self, history: History) -> None:
            if history.step == 4:
                raise KeyboardInterrupt

    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    watcher = TrainProgress(console, "Linformer", 64)
    with pytest.raises(KeyboardInterrupt):
        engine(recipe(), watchers=[watcher, Failing()]).train()
    assert watcher.progress.bar is None
    assert "4/8" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3661, "1:01:01")])
def test_clock(seconds: float, text: str) -> None:
    assert progress.clock(seconds) == text


def test_wilson_interval_against_published_values() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
    low, high = wilson_interval(0, 20)
    assert low == pytest.approx(0.0) and high == pytest.approx(0.161, abs=1e-3)
