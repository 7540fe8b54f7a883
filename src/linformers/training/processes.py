"""How a run is spread over processes: which sequences, and which part of each, a process takes.

Processes come in groups of ``sequence_parallel_size``. The members of a group hold consecutive stretches of the same
sequences; different groups hold different sequences. The batch of a step is the same set of sequences however many
processes share it, so that a run does not depend on their number.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from linformers.attention.parallel import sequence_parallel
from linformers.training.recipe import TrainingRecipe


@dataclass(frozen=True, kw_only=True)
class Layout:
    """This process among the others.

    Args:
        device: Device of this process.
        rank: Number of this process.
        world: Number of processes.
        members: Number of processes that share each sequence.
        group: Those of them that this one belongs to.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    members: int = 1
    group: Any = None

    @property
    def replicas(self) -> int:
        """Groups, each with sequences of its own."""
        return self.world // self.members

    @property
    def replica(self) -> int:
        """Number of this process's group."""
        return self.rank // self.members

    def shared_sequence(self) -> AbstractContextManager[None]:
        """Within it, the model takes its input for this process's stretch."""
        return nullcontext() if self.group is None else sequence_parallel(self.group)

    def stretch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """This process's columns of a batch of whole sequences."""
        if self.members == 1:
            return batch
        member = self.rank % self.members
        seq = batch["input_ids"].shape[1]
        columns = slice(seq * member // self.members, seq * (member + 1) // self.members)
        return {name: tensor[:, columns] for name, tensor in batch.items()}

    def total(self, *numbers: float | int) -> list[float]:
        """Sums over all processes, in float64."""
        if self.world == 1:
            return [float(number) for number in numbers]
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, on all of them; its failure is the failure of all.

        Raises:
            OSError: the first process failed (which raises its own error).
        """
        if self.world == 1:
            return make()
        error: Exception | None = None
        answer = [None, None]
        if self.rank == 0:
            try:
                answer = [make(), None]
            except Exception as caught:
                error, answer = caught, [None, str(caught)]
        dist.broadcast_object_list(answer, src=0)
        if error is not None:
            raise error
        if answer[1] is not None:
            raise OSError(f"process 0 failed: {answer[1]}")
        return answer[0]


def pick_device(name: str) -> torch.device:
    """The device of this process: ``auto`` takes an accelerator where there is one, each process of a host its own."""
    found = torch.accelerator.current_accelerator(check_available=True) if name == "auto" else None
    if found is None:
        return torch.device("cpu" if name == "auto" else name)
    return torch.device(found.type, int(os.environ.get("LOCAL_RANK", "0")))


def lay_out(device: str, members: int) -> Layout:
    """Join the processes that a launcher has started, and lay them out; all must call.

    Args:
        device: Device of the recipe, ``auto`` or ``cpu``.
        members: Number of processes that share each sequence.

    Raises:
        ValueError: ``members`` does not divide their number.
    """
    own = pick_device(device)
    if own.type != "cpu":
        torch.accelerator.set_device_index(own.index)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        backend = dist.get_default_backend_for_device(own)
        dist.init_process_group(backend, device_id=None if own.type == "cpu" else own)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if world % members:
        raise ValueError(
            f"training.sequence_parallel_size={members} does not divide the {world} process{'es' * (world > 1)} of "
            f"this run; start a multiple of it: torchrun --nproc-per-node {members} -m linformers pretrain ..."
        )
    group = None
    if members > 1:
        for first in range(0, world, members):
            ranks = list(range(first, first + members))
            made = dist.new_group(ranks)  # every process must take part in making every group
            group = made if rank in ranks else group
    return Layout(device=own, rank=rank, world=world, members=members, group=group)


def refuse_launcher(command: str) -> None:
    """Refuse to be one of several processes.

    Raises:
        ValueError: a launcher has started more than one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"{command} runs in one process; start it without torchrun")


def split_batch(training: TrainingRecipe, layout: Layout) -> tuple[int, int]:
    """Sequences that this process takes at once, and how often it does so for one step.

    Raises:
        ValueError: the batch cannot be shared evenly.
    """
    share, rest = divmod(training.batch_size, layout.replicas)
    if rest:
        raise ValueError(
            f"training.batch_size={training.batch_size} cannot be shared evenly by {layout.replicas} groups of "
            f"processes; make it a multiple of {layout.replicas}"
        )
    micro = min(training.micro_batch_size or share, share)
    if share % micro:
        raise ValueError(
            f"training.micro_batch_size={micro} does not divide the {share} sequences of a step that each group of "
            "processes takes; choose a divisor"
        )
    return micro, share // micro


def step_batches(training: TrainingRecipe, layout: Layout) -> Iterator[list[int]]:
    """Items of each micro-batch of this group, in the order of training: in each step the same, however many groups."""
    size, accumulation = split_batch(training, layout)
    for number in range(training.steps * accumulation):
        start = (number * layout.replicas + layout.replica) * size
        yield list(range(start, start + size))


def evaluation_batches(total: int, size: int, layout: Layout) -> Sequence[list[int]]:
    """Items that this group evaluates; every group has as many batches, some of which may be empty."""
    rounds = -(-total // (size * layout.replicas))
    starts = [(number * layout.replicas + layout.replica) * size for number in range(rounds)]
    return [list(range(start, min(start + size, total))) for start in starts]


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of the encoder."""
    encoder: Any = model.base_model.encoder
    return list(encoder.layers)


def spread(model: PreTrainedModel, sharding: str, layout: Layout) -> nn.Module:
    """What a process trains of a model: the whole of it on its device (several, with DDP), or its share (FSDP2).

    Weights, gradients and optimiser state are shared out layer by layer. What layers share (the projections of
    ``layerwise``, the embeddings) belongs to the model as a whole.
    """
    device = layout.device
    if layout.world == 1:
        return model.to(device)  # type: ignore[arg-type]  (a decorator hides the signature)
    if sharding == "full":
        mesh = init_device_mesh(device.type, (layout.world,))
        for layer in layers_of(model):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model
    return DistributedDataParallel(model.to(device), device_ids=None if device.type == "cpu" else [device])  # type: ignore[arg-type]
