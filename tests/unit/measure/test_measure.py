import os
import sys
from typing import Any

import pytest

from linformers.measure import sweep
from linformers.measure.cell import Measurement, Workload, measure_cell
from linformers.measure.memory import DoesNotFit, parse_bytes
from linformers.measure.sweep import in_fresh_process, largest_batch, measure, run_cell

CONFIG: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "projected_dim": 8,
}
SOFTMAX = {name: value for name, value in CONFIG.items() if name != "projected_dim"}


def task(length: int, **options: Any) -> Workload:
    return Workload(
        **{"name": "ours", "fields": CONFIG, "length": length, "repeats": 3, "seconds_limit": 10.0, **options}
    )


def eager(length: int, **options: Any) -> Workload:
    fields = {**SOFTMAX, "max_position_embeddings": length + 2}
    return task(length, model_type="roberta", fields=fields, eager=True, **options)


def test_a_cell_is_timed() -> None:
    cell = measure_cell(task(128, batch_size=3))
    assert (cell.name, cell.length, cell.batch_size, cell.repeats) == ("ours", 128, 3, 2)  # the first is a warm-up
    assert 0 < cell.seconds_min <= cell.seconds <= cell.seconds_max < 5
    assert cell.hidden_bytes == 3 * 128 * 32 * 4
    # words, positions, one token type, E, q, k, v, o, both feed-forward layers, three norms; and their biases
    weights = (64 + 256 + 1) * 32 + 256 * 8 + 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 3 * 2 * 32
    assert cell.weight_bytes == 4 * weights


def test_the_time_limit_leaves_one_pass() -> None:
    assert measure_cell(task(64, repeats=50, seconds_limit=0.0)).repeats == 1


def test_training_and_low_precision() -> None:
    assert measure_cell(task(64, training=True)).seconds > 0
    cell = measure_cell(task(64, dtype="bfloat16"))
    assert cell.hidden_bytes == 64 * 32 * 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak cannot be reset, nor memory be limited")
def test_peak_memory_is_that_of_the_scores() -> None:
    """Written-out attention holds two to four times 2 heads x n x n scores; all else is a hundredth of that."""
    scores = 2 * 2048 * 2048 * 4
    cell = run_cell(eager(2048, repeats=1))
    assert cell.peak_bytes is not None
    assert 1.9 * scores < cell.peak_bytes < 4.5 * scores
    small = run_cell(task(256, repeats=1))
    assert small.peak_bytes is not None and small.peak_bytes < 20e6


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory cannot be limited")
def test_a_cell_beyond_its_memory_ends_and_says_so() -> None:
    with pytest.raises(DoesNotFit, match="takes more than 50 MB"):
        in_fresh_process(measure_cell, eager(4096, memory_limit=50_000_000))


def test_written_out_attention_is_predicted() -> None:
    with pytest.raises(DoesNotFit, match=r"takes 24000.0 GB for its attention weights alone; .* are free"):
        run_cell(eager(1_000_000))  # no such model is ever built


def test_a_killed_cell_is_named() -> None:
    with pytest.raises(DoesNotFit, match="its process died .exit code 9., most likely for want of memory"):
        in_fresh_process(os._exit, 9)


def test_sweep_takes_each_cell_in_a_process_of_its_own() -> None:
    seen: list[Measurement] = []
    models = {"ours": CONFIG, "softmax": {**CONFIG, "attention_type": "softmax"}}
    cells = measure(models, [128, 64], repeats=1, on_cell=seen.append)
    assert [(c.length, c.name) for c in cells] == [(64, "ours"), (64, "softmax"), (128, "ours"), (128, "softmax")]
    assert seen == cells and all(c.seconds > 0 for c in cells)
    if os.name == "posix":
        assert all(c.peak_bytes is not None for c in cells)


def test_sweep_stops_when_the_time_is_up() -> None:
    """But never before every model has a cell of the shortest length."""
    cells = measure({"one": CONFIG, "other": CONFIG}, [32, 64], repeats=1, total_seconds=-1.0)
    assert [(cell.name, cell.length) for cell in cells] == [("one", 32), ("other", 32)]


def test_an_error_of_a_cell_comes_back() -> None:
    with pytest.raises(ValueError, match="512 tokens exceeds"):
        measure({"ours": CONFIG}, [512])


class Machine:
    """Stands in for measuring: weights of 1,000 bytes, and a peak that grows with the batch."""

    def __init__(self, fixed: int, each: int, noise: int = 0, breaks_at: int = 10**9) -> None:
        self.fixed, self.each, self.noise, self.breaks_at = fixed, each, noise, breaks_at
        self.trials: list[int] = []

    def __call__(self, one: Workload) -> Measurement:
        batch = one.batch_size
        self.trials.append(batch)
        if batch >= self.breaks_at:
            raise DoesNotFit("takes more than there is")
        peak = self.fixed + self.each * batch + self.noise * (batch % 3)
        times = {"seconds": 1.0, "seconds_min": 1.0, "seconds_max": 1.0, "repeats": 1}
        sizes = {"peak_bytes": peak, "weight_bytes": 1000, "hidden_bytes": 1}
        return Measurement(name=one.name, length=one.length, batch_size=batch, **times, **sizes)


@pytest.mark.parametrize(
    ("machine", "largest"),
    [
        (Machine(0, 1000), 99),
        (Machine(500, 7), (100_000 - 1000 - 500) // 7),
        (Machine(90_000, 9000), 1),
        (Machine(0, 1000, breaks_at=38), 37),  # the machine has less than was asked for
        (Machine(0, 100, noise=40), 989),  # 100 x 989 + 40 x 2 = 98,980; 990 takes 99,000: both fit, 991 does not
    ],
)
def test_largest_batch(machine: Machine, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "run_cell", machine)
    cell = largest_batch(task(64), 100_000)
    assert len(machine.trials) <= 10
    assert machine(task(64, batch_size=cell.batch_size)).peak_bytes + 1000 <= 100_000  # type: ignore[operator]
    assert abs(cell.batch_size - largest) <= 1


def test_largest_batch_where_not_even_one_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "run_cell", Machine(0, 2_000_000))
    with pytest.raises(DoesNotFit, match="one sequence takes 2 MB"):
        largest_batch(task(64), 1_000_000)
    monkeypatch.setattr(sweep, "run_cell", Machine(0, 2, breaks_at=1))
    with pytest.raises(DoesNotFit, match="one sequence takes more than there is"):
        largest_batch(task(64), 1_000_000)


def test_amounts_of_memory() -> None:
    assert [parse_bytes("--memory", text) for text in ("8GB", "1.5 gib", "512MB")] == [
        8 * 10**9,
        3 * 2**29,
        512 * 10**6,
    ]
    for text in ("8", "GB", "0GB", "8 bytes"):
        with pytest.raises(ValueError, match=r"--memory=.* is no amount of memory: write 8GB"):
            parse_bytes("--memory", text)
