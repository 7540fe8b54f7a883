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
from torch.distributed.fsdp import fully_shard
from torch.utils.data import Sampler
from transformers import PreTrainedModel

from linformers.attention.parallel import sequence_parallel
from linformers.training.recipe import TrainingRecipe


@dataclass(frozen=True, kw_only=True)
class Layout:
    """This process among the others.

    Args:
        rank: number of this process.
        world: number of processes.
        members: processes that share each sequence.
        group: those of them that this one belongs to.
    """

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

    def total(self, *numbers: float, device: torch.device) -> list[float]:
        """Sums over all processes, in float64."""
        if self.world == 1:
            return list(numbers)
        kind = torch.float64 if device.type != "mps" else torch.float32
        tensor = torch.tensor(numbers, dtype=kind, device=device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it is true on any process."""
        return self.total(float(flag), device=device)[0] > 0

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


def lay_out(members: int) -> Layout:
    """The layout of the processes that a launcher has started; all must call.

    Raises:
        ValueError: ``members`` does not divide their number.
    """
    started = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if started else (0, 1)
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
    return Layout(rank=rank, world=world, members=members, group=group)


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


class StepBatches(Sampler[list[int]]):
    """Items of each micro-batch of one group of processes, in the order of training.

    Args:
        count: micro-batches in the run.
        size: items in each.
        replica: number of the group.
        replicas: number of groups.
    """

    def __init__(self, count: int, size: int, *, replica: int = 0, replicas: int = 1) -> None:
        self.count, self.size, self.replica, self.replicas = count, size, replica, replicas

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self.count):
            start = (number * self.replicas + self.replica) * self.size
            yield list(range(start, start + self.size))


def evaluation_batches(total: int, size: int, layout: Layout) -> Sequence[list[int]]:
    """Items that this group evaluates; every group has as many batches, some of which may be empty."""
    rounds = -(-total // (size * layout.replicas))
    starts = [(number * layout.replicas + layout.replica) * size for number in range(rounds)]
    return [list(range(start, min(start + size, total))) for start in starts]


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of the encoder."""
    encoder: Any = model.base_model.encoder
    return list(encoder.layers)


def shard(model: PreTrainedModel) -> None:
    """Spread weights, gradients and optimiser state over all processes (FSDP2), layer by layer.

    What layers share (the projections of ``layerwise``, the embeddings) belongs to the model as a whole.
    """
    for layer in layers_of(model):
        fully_shard(layer)
    fully_shard(model)
