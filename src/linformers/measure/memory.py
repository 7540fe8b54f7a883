"""How much memory a pass takes, how much it may take, and how both are told."""

import ctypes
import re
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

_UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}
# Of the free memory, the part that a cell may take: the rest is for the system and for what starts meanwhile.
_SHARE = 0.9


class DoesNotFit(MemoryError):
    """There is too little memory for a cell; the message says how much it takes or may take."""


def parse_bytes(option: str, text: str) -> int:
    """``8GB`` or ``512MiB`` in bytes.

    Raises:
        ValueError: no number with a unit.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    if match is None or match[2].upper() not in _UNITS or not float(match[1]):
        raise ValueError(f"{option}={text!r} is no amount of memory: write 8GB, 512MB, 8GiB or 512MiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def gigabytes(count: float) -> str:
    """Bytes in GB, or in MB below one."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def free_bytes(device: torch.device) -> int:
    """The memory that a cell may take now."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(_SHARE * free)


def limit_memory(count: int) -> None:
    """Let this process take so many bytes more: then allocations fail, and the machine stays usable.

    Linux only; elsewhere, and beside other programs that grow, the system may still have to kill somebody, and is told
    to take this process first.
    """
    if sys.platform != "linux":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = psutil.Process().memory_info().data + count
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    Path("/proc/self/oom_score_adj").write_text("1000")


def start_peak(device: torch.device) -> int | None:
    """Forget the peak so far where the system can; give what is held now, which is to be taken off ``peak_bytes``."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if sys.platform != "linux":
        return peak_bytes(device)
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)  # else what the C library keeps for reuse would hide some of the pass
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # some containers
        return peak_bytes(device)
    return psutil.Process().memory_info().rss


def peak_bytes(device: torch.device) -> int | None:
    """The most memory held at once; on CUDA by tensors, else by the process. None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
