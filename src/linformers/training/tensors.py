"""Weights and optimiser state by name, as safetensors: nothing is ever unpickled.

Names do not depend on how a run is spread over processes, so a run may go on with another number of them.
"""

from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.safetensors"


def _gather(tensors: Iterable[tuple[str, Tensor]], keep: bool) -> dict[str, Tensor]:
    """Copies on the CPU; sharded tensors are gathered one by one, for which all processes must call."""
    gathered = {}
    for name, tensor in tensors:
        tensor = tensor.detach()
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        if keep:
            gathered[name] = tensor.to("cpu", copy=True).contiguous()
    return gathered


def model_tensors(model: PreTrainedModel, *, keep: bool) -> dict[str, Tensor]:
    """All weights and buffers; tied weights once, as ``save_pretrained`` stores them.

    Args:
        model: sharded or not.
        keep: on the process that writes; the others only take part in gathering.
    """
    tied = set(model.all_tied_weights_keys)
    return _gather(((name, tensor) for name, tensor in model.state_dict().items() if name not in tied), keep)


def save_model(model: PreTrainedModel, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write what ``from_pretrained`` reads."""
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    plain = next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))  # sharding makes a new class
    model.config.architectures = [plain.__name__]
    model.config.save_pretrained(folder)


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Fill a model in place, before it is wrapped or sharded.

    Raises:
        ValueError: the file does not hold this model's weights.
    """
    result = model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    missing = set(result.missing_keys) - set(model.all_tied_weights_keys)
    if missing or result.unexpected_keys:
        names = ", ".join(sorted(missing | set(result.unexpected_keys))[:3])
        raise ValueError(f"{folder / WEIGHTS} holds another model's weights: {names}, ... do not match")


def optimizer_tensors(model: nn.Module, optimizer: Optimizer, *, keep: bool) -> dict[str, Tensor]:
    """The optimiser's state, as ``<parameter>/<key>``; see ``model_tensors``."""
    state = optimizer.state
    named = (
        (f"{name}/{key}", value)
        for name, parameter in model.named_parameters()
        if parameter in state  # a parameter that never had a gradient has none
        for key, value in state[parameter].items()
    )
    return _gather(named, keep)


def load_optimizer(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Fill an optimiser's state, sharded like its parameters.

    Raises:
        ValueError: the file holds the state of other parameters.
    """
    parameters = dict(model.named_parameters())
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    for full_name, value in load_file(folder / OPTIMIZER).items():
        name, _, key = full_name.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or parameter not in groups:
            raise ValueError(f"{folder / OPTIMIZER} holds {full_name}, which is no parameter of this model")
        on_device = groups[parameter].get("fused") or groups[parameter].get("capturable")
        if key != "step":
            value = value.to(parameter.device)
            if isinstance(parameter, DTensor):
                value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
        elif on_device:  # where torch's AdamW keeps the count of steps
            value = value.to(parameter.device)
        optimizer.state[parameter][key] = value


def save_optimizer(tensors: dict[str, Tensor], folder: Path) -> None:
    """Write the optimiser's state."""
    save_file(tensors, folder / OPTIMIZER)
