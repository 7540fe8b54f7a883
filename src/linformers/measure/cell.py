"""One measurement, made inside a fresh process: the seconds and the peak memory of one encoder at one length."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel

import linformers  # noqa: F401  (registers the model type)
from linformers.measure.memory import DoesNotFit, gigabytes, limit_memory, peak_bytes, start_peak
from linformers.models.silence import silenced

_SMALL = 128  # tokens of the pass that starts threads and libraries before anything is measured


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What to measure.

    Args:
        name: Name of the model, for tables.
        model_type: transformers' name of its kind.
        fields: Fields of its configuration; every dropout is set to 0.
        length: tokens.
        batch_size: sequences at once.
        eager: write out attention weights.
        device: where it runs.
        dtype: Dtype of weights and activations.
        compile: by ``torch.compile``; one more pass before the measured ones pays for it.
        training: forward, backward and a step of AdamW instead of a forward pass.
        repeats: passes at most.
        seconds_limit: no further pass starts after this many seconds; the first one always runs.
        memory_limit: bytes that the process may take, beside those of an empty one; None = any.
        seed: Seed of weights and tokens.
    """

    name: str
    model_type: str = "linformer"
    fields: Mapping[str, Any]
    length: int
    batch_size: int = 1
    eager: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    compile: bool = False
    training: bool = False
    repeats: int = 5
    seconds_limit: float = 1.5
    memory_limit: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured.

    Args:
        name: Name of the model, for tables.
        length: tokens.
        batch_size: sequences at once.
        seconds: Seconds of a pass; median over the repeats.
        seconds_min: Seconds of the fastest pass.
        seconds_max: Seconds of the slowest pass.
        repeats: passes that the median is of.
        peak_bytes: most memory above what the process (on a GPU, the model) held before the passes: weights, and in
            training the optimizer's state. None where the system does not tell.
        weight_bytes: Bytes of parameters and buffers.
        hidden_bytes: Bytes of one copy of the hidden states.
    """

    name: str
    length: int
    batch_size: int
    seconds: float
    seconds_min: float
    seconds_max: float
    repeats: int
    peak_bytes: int | None
    weight_bytes: int
    hidden_bytes: int


def measure_cell(task: Workload) -> Measurement:
    """Build an encoder with random weights and time it on random tokens.

    Raises:
        DoesNotFit: it takes more memory than there is.
    """
    if task.memory_limit is not None and task.device == "cpu":
        limit_memory(task.memory_limit)
    with reports_lack_of_memory(task.memory_limit), silenced():  # advice about what is done here on purpose
        return _measure(task)


def _measure(task: Workload) -> Measurement:
    device = torch.device(task.device)
    model = build_model(task)
    tokens = torch.randint(5, model.config.vocab_size, (task.batch_size, task.length), device=device)
    run = _training_step(model) if task.training else _forward_pass(model)
    with _takes_short_inputs(model):
        run(tokens[:1, :_SMALL])
    if task.compile:
        model.compile()
        run(tokens)
    _synchronise(device)
    before = start_peak(device)

    times: list[float] = []
    start = time.perf_counter()
    while not times or (len(times) < task.repeats and time.perf_counter() - start < task.seconds_limit):
        begin = time.perf_counter()
        run(tokens)
        _synchronise(device)
        times.append(time.perf_counter() - begin)
    after = peak_bytes(device)
    if len(times) > 1:
        times = times[1:]  # the first pass also pays for fresh memory
    return Measurement(
        name=task.name,
        length=task.length,
        batch_size=task.batch_size,
        seconds=statistics.median(times),
        seconds_min=min(times),
        seconds_max=max(times),
        repeats=len(times),
        peak_bytes=None if before is None or after is None else max(after - before, 0),
        weight_bytes=sum(x.nbytes for x in (*model.parameters(), *model.buffers())),
        hidden_bytes=tokens.numel() * model.config.hidden_size * model.dtype.itemsize,
    )


def build_model(task: Workload) -> PreTrainedModel:
    """The encoder with random weights and no dropout."""
    config = AutoConfig.for_model(task.model_type, **task.fields)
    for name, value in config.to_dict().items():
        if "dropout" in name and isinstance(value, int | float):
            setattr(config, name, 0.0)
    torch.manual_seed(task.seed)
    eager = {"attn_implementation": "eager"} if task.eager else {}
    with torch.device(task.device):
        model = AutoModel.from_config(config, dtype=getattr(torch, task.dtype), **eager)
    return model.train(task.training)


def _forward_pass(model: PreTrainedModel) -> Callable[[Tensor], object]:
    @torch.inference_mode()
    def run(tokens: Tensor) -> object:
        return model(tokens).last_hidden_state

    return run


def _training_step(model: PreTrainedModel) -> Callable[[Tensor], object]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def run(tokens: Tensor) -> object:
        loss = model(tokens).last_hidden_state.float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return run


@contextmanager
def _takes_short_inputs(model: PreTrainedModel) -> Iterator[None]:
    """For a moment; two encoders of transformers are not made for inputs of several lengths."""
    # Nystromformer has one length in its layers; given another it fails.
    fixed = [
        (module, module.seq_len) for module in model.modules() if isinstance(getattr(module, "seq_len", None), int)
    ]
    for module, length in fixed:
        module.seq_len = min(length, _SMALL)  # type: ignore[assignment]
    # BigBird, once it has seen a short input, attends in full for good.
    attention_type = getattr(model, "attention_type", None)
    yield
    for module, length in fixed:
        module.seq_len = length  # type: ignore[assignment]
    if attention_type is not None:
        model.set_attention_type(attention_type)  # type: ignore[operator]


@contextmanager
def reports_lack_of_memory(limit: int | None) -> Iterator[None]:
    """Turn the ways in which allocations fail into one.

    Raises:
        DoesNotFit: an allocation failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = ("allocate memory", "bad_alloc", "could not create")  # by torch, the C++ library and oneDNN
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(
            words in str(error) for words in said
        ):
            raise
        raise DoesNotFit(
            "takes more than there is" if limit is None else f"takes more than {gigabytes(limit)}"
        ) from error


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
