"""A change that makes the encoder 1.5 times slower, or write a fifth more memory, fails here.

Times are ratios to what no change of ours makes slower, on one thread, in processor time; the best of several passes,
and of five attempts. Other programs still count, by the memory that they share: of one state of the code the ratio to
bare products was 1.37 on a quiet machine and 1.71 to 1.87 on a busy one. Bytes are the same on every machine.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from limit import measure_limit
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from linformers.measure.cell import Workload, build_model

LENGTH = 4096
FIELDS: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": LENGTH,
    "projected_dim": 64,
}
KINDS = ("linear", "mean_pool")
# Half above the best measured last (AVX-512: 1.37 and 0.236); to be lowered when it gets faster.
OF_LIMIT = 2.06
OF_SOFTMAX = 0.354
OF_HIDDEN_STATES = 25.0  # of a layer, bytes written over bytes of its hidden states: a fifth above 21.1


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def task(**fields: Any) -> Workload:
    return Workload(name="ours", fields={**FIELDS, **fields}, length=LENGTH)


def of_limit(kind: str) -> float:
    """Our time over that of the bare matrix products."""
    found = measure_limit(task(projection_kind=kind), rounds=4, clock=time.process_time)
    return found.seconds_best / found.limit_best


@torch.inference_mode()
def of_softmax(kind: str) -> float:
    """Our time over that of the same encoder with PyTorch's fused softmax attention."""
    models = [build_model(task(projection_kind=kind)), build_model(task(attention_type="softmax"))]
    tokens = torch.randint(5, 1000, (1, LENGTH))
    times: list[list[float]] = [[], []]
    for _ in range(4):
        for model, kept in zip(models, times, strict=True):
            begin = time.process_time()
            model(tokens)
            kept.append(time.process_time() - begin)
    return min(times[0]) / min(times[1])


@pytest.mark.alone
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ratio", "bound"), [(of_limit, OF_LIMIT), (of_softmax, OF_SOFTMAX)])
def test_speed(ratio: Any, bound: float, kind: str) -> None:
    found = []
    for _ in range(5):
        found.append(ratio(kind))
        if found[-1] <= bound:
            return
    pytest.fail(f"{ratio.__name__}: {min(found):.2f}, at most {bound} is usual; {[f'{one:.2f}' for one in found]}")


class WrittenBytes(TorchDispatchMode):
    """Counts the bytes of every tensor that an operation makes anew."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not any(returned.alias_info for returned in func._schema.returns):
            self.total += sum(one.nbytes for one in tree_leaves(found) if isinstance(one, torch.Tensor))
        return found


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_bytes(kind: str) -> None:
    model = build_model(task(projection_kind=kind))
    with WrittenBytes() as written:
        model(torch.randint(5, 1000, (1, LENGTH)))
    hidden_states = LENGTH * FIELDS["hidden_size"] * 4
    assert written.total / hidden_states / FIELDS["num_hidden_layers"] <= OF_HIDDEN_STATES
