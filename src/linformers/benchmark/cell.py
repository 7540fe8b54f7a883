"""One measurement, made inside a fresh process: the seconds and the peak memory of one encoder at one length."""

import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from linformers.models import LinformerConfig, LinformerModel


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The forward pass of one sequence.

    Args:
        name: of the model, for tables.
        length: tokens.
        seconds: median over the repeats.
        peak_bytes: most memory above what the process (on a GPU, the model) held before the pass; None where the
            system does not tell.
        repeats: passes that the median is of.
    """

    name: str
    length: int
    seconds: float
    peak_bytes: int | None
    repeats: int


def _peak_bytes(device: torch.device) -> int | None:
    """The most memory held so far, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def measure_cell(
    name: str, config: dict[str, Any], length: int, *, device: str, repeats: int, seconds_limit: float, seed: int
) -> dict[str, Any]:
    """Build an encoder with random weights and time its forward pass on one random sequence.

    Args:
        name: goes into the result.
        config: fields of ``LinformerConfig``.
        length: tokens.
        device: where it runs.
        repeats: passes at most.
        seconds_limit: no further pass starts after this many seconds; the first one always runs.
        seed: of weights and tokens.

    Returns:
        The fields of ``Cell``.
    """
    place = torch.device(device)
    torch.manual_seed(seed)
    with place:
        model = LinformerModel(LinformerConfig(**config)).eval()
    tokens = torch.randint(5, model.config.vocab_size, (1, length), device=place)
    model(tokens[:, :64])  # threads and libraries start here, not in what is measured
    _synchronise(place)
    before = _peak_bytes(place)

    times: list[float] = []
    start = time.perf_counter()
    while not times or (len(times) < repeats and time.perf_counter() - start < seconds_limit):
        begin = time.perf_counter()
        model(tokens)
        _synchronise(place)
        times.append(time.perf_counter() - begin)
    if len(times) > 2:
        times = times[1:]  # the first pass also pays for fresh memory
    after = _peak_bytes(place)
    return asdict(
        Cell(
            name=name,
            length=length,
            seconds=sorted(times)[len(times) // 2],
            peak_bytes=None if before is None or after is None else after - before,
            repeats=len(times),
        )
    )
