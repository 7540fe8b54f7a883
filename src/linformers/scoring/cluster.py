"""The same units on Ray Data: readers hand them to processes that hold a model each, on one machine or many.

Every process writes the shards that it scores, so that nothing depends on the order in which they end, or on a worker
that dies: what it had not finished is given to another.
"""

import json
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import psutil

from linformers.files.inputs import Input, Unavailable
from linformers.files.rows import Place
from linformers.scoring.units import Done, Unit
from linformers.scoring.work import Job, do_unit

READER_CPUS = 0.25
RETRIES = 10  # of a unit whose worker dies; one that kills every worker must end the run
PATIENCE = 6 * 3600  # seconds without a unit done after which Ray gives up
_EXPECTED = (ValueError, TypeError, OSError, Unavailable)


def run_on_ray(job: Job, left: list[tuple[Input, Done]], progress: Any) -> None:
    """Read the files.

    Args:
        job: with folders that all machines of the cluster see.
        left: files that are not complete, and what is done of them.
        progress: hears of each unit that is done.

    Raises:
        ValueError: Ray is not installed, or what a worker raises.
        OSError: a cluster that does not answer, or what a worker raises.
    """
    ray = load_ray()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 2**16  # so that no two units share a block
    context.execution_no_progress_timeout_s = PATIENCE
    _start(ray, job.settings.address, job.settings.workers)
    try:
        workers, resources = _share_out(ray.cluster_resources(), job.settings.workers)
        here = os.getcwd()
        units = ray.data.from_items(
            [{"file": place} for place in range(len(left))], override_num_blocks=min(len(left), 1000)
        ).flat_map(_Read(job, left, here), num_cpus=READER_CPUS)
        read = units.map_batches(
            _Work,
            fn_constructor_args=(job, here, int(max(resources["CPU"], 1))),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=resources["CPU"],
            num_gpus=resources["GPU"],
            ray_remote_args_fn=lambda: {"max_task_retries": RETRIES},
        )
        with progress:
            for done in read.iter_rows():
                progress.begin(done["file"], done["end"] - done["begin"], done["tokens"])
                progress.add(done["tokens"])
                progress.end(done["documents"])
    except ray.exceptions.RayError as error:  # pyright: ignore[reportAttributeAccessIssue]
        raise _cause(error) from error
    finally:
        ray.shutdown()


def load_ray() -> Any:
    """Ray, which is no part of a plain installation.

    Raises:
        ValueError: It is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning
    try:
        import ray  # type: ignore[import-not-found]
        import ray.data  # type: ignore[import-not-found]
    except ImportError as error:
        raise ValueError("engine='ray' needs Ray: pip install 'linformers[ray]'") from error
    return ray


def _start(ray: Any, address: str | None, workers: int | None) -> None:
    if address and (place := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address)):
        try:  # Ray itself would wait for minutes, and then end the process
            socket.create_connection((place[1], int(place[2])), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise OSError(
                f"address={address!r}: no Ray cluster answers ({error}); start one with: ray start"
            ) from error
    # Ray would take a third of the memory for units on their way, which are few.
    store = min((workers or os.cpu_count() or 1) * 2**28 + 2**28, psutil.virtual_memory().total // 4)
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            object_store_memory=None if address else store,
            logging_level="error",
            log_to_driver=False,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise OSError(f"address={address!r}: Ray cannot be reached or started ({error})") from error


def _share_out(there: Mapping[str, float], asked: int | None) -> tuple[int, dict[str, float]]:
    """Workers, and what each asks for: never all CPUs, or no reader would ever start and Ray would wait for ever."""
    cpus, gpus = there.get("CPU", 1.0), int(there.get("GPU", 0))
    workers = asked or gpus or max(int(cpus) - 1, 1)
    share = (cpus - 2 * READER_CPUS) / workers
    return workers, {"CPU": int(share) if share >= 1 else int(100 * share) / 100, "GPU": min(gpus / workers, 1.0)}


class _Read:
    """The units of a file, as one JSON text each; the same ones when Ray asks again."""

    def __init__(self, job: Job, left: list[tuple[Input, Done]], folder: str) -> None:
        self.job, self.left, self.folder = job, left, folder

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        os.chdir(self.folder)
        for unit in self.job.units(*self.left[row["file"]]):
            yield {"unit": json.dumps(asdict(unit))}


class _Work:
    """A worker: a model, which reads units and writes what comes of them."""

    def __init__(self, job: Job, folder: str, threads: int) -> None:
        import torch

        os.chdir(folder)
        torch.set_num_threads(threads)
        self.job, self.reader = job, job.open()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        fields = json.loads(batch["unit"][0])
        unit = Unit(**{**fields, "after": Place(*fields["after"])})
        encoded = self.reader.encode(unit)
        do_unit(self.job, self.reader, unit, encoded, lambda tokens: None)
        done = {"file": unit.file, "begin": unit.begin, "end": unit.end, "documents": len(unit.lines)}
        return {name: [value] for name, value in {**done, "tokens": encoded.count}.items()}


def _cause(error: BaseException) -> BaseException:
    """What a worker raised, out of what Ray wraps it in."""
    seen: BaseException | None = error
    while seen is not None:
        inner = getattr(seen, "cause", None)
        for found in (seen, inner):
            if isinstance(found, _EXPECTED) and not type(found).__module__.startswith("ray."):
                return found
        seen = seen.__cause__
    return error
