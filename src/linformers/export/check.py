"""Whether an ONNX graph computes what its model computes, and how far it is from it where it cannot."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from jaxtyping import Float
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from linformers.convert.interface import layer_slots
from linformers.convert.load import longest_input
from linformers.export.graph import random_inputs

TOLERANCE = 1e-4
TEXTS = 4
LONGEST_CHECK = 8192  # tokens: the check takes seconds at any maximum length
SCORES_IN_MEMORY = 2**28  # numbers of softmax attention, which ONNX Runtime writes out

# Keys that are masked out get weights that are no normal numbers, with which processors are many times slower.
SESSION_CONFIG = {"session.set_denormal_as_zero": "1"}

Outputs = dict[str, Float[np.ndarray, "batch ..."]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """The largest difference of an output at one shape, on the first of so many ``texts`` (batches) that agreed.

    ``padding`` says where padded tokens were.
    """

    batch: int
    length: int
    padding: str
    difference: float
    texts: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Session:
    """ONNX Runtime on the processor, with as many threads as torch."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        for name, value in SESSION_CONFIG.items():
            options.add_session_config_entry(name, value)
        self.session: Any = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.inputs: list[Any] = [one.name for one in self.session.get_inputs()]
        self.outputs: list[Any] = [one.name for one in self.session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """All outputs."""
        values = self.session.run(self.outputs, {name: inputs[name].numpy() for name in self.inputs})
        return dict(zip(self.outputs, values, strict=True))  # type: ignore[arg-type]


@torch.inference_mode()
def run(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Outputs:
    """All outputs of the model itself."""
    return {name: value.numpy() for name, value in model(**inputs).items()}


def kept_rows(model: PreTrainedModel, output: str, mask: Tensor) -> Any:
    """Which rows of an output mean something: of one with an axis of tokens those that are no padding."""
    whole = output == "pooler_output" or type(model).__name__.endswith(
        ("ForSequenceClassification", "ForMultipleChoice")
    )
    return slice(None) if whole else mask.bool().numpy()


def check(graph: onnx.ModelProto, model: PreTrainedModel) -> list[Check]:
    """Compare both at five shapes, on random tokens.

    A token that is equally near to two clusters may go to the other by the last digit, which moves all outputs of its
    text a little. A graph that is wrong is wrong on all texts: up to four are tried at each shape.

    Raises:
        ValueError: a difference above 1e-4.
    """
    session = Session(graph)
    checks = []
    for batch, length, padding in _shapes(model):
        for texts in range(1, TEXTS + 1):
            inputs = random_inputs(model, batch, length, seed=texts - 1)
            mask = inputs["attention_mask"] = _mask(inputs["attention_mask"], padding)
            expected, found = run(model, inputs), session(inputs)
            difference = max(
                float(np.abs(found[name] - x)[kept_rows(model, name, mask)].max()) for name, x in expected.items()
            )
            if difference <= TOLERANCE:
                break
        checks.append(Check(batch=batch, length=length, padding=padding, difference=difference, texts=texts))
    wrong = [one for one in checks if not one.difference <= TOLERANCE]  # NaN is wrong too
    if wrong:
        one = wrong[0]
        raise ValueError(
            f"the ONNX graph is not the model: outputs differ by {one.difference:.2g} at {one.length:,} tokens (batch "
            f"{one.batch}, padding: {one.padding}), more than {TOLERANCE:g}; nothing was written. Please report it "
            "with the model's config.json"
        )
    return checks


def checks_table(checks: list[Check]) -> Table:
    """What was compared."""
    table = Table(title="ONNX against torch, float32", title_justify="left")
    for name in ("batch", "tokens", "padding", "largest difference"):
        table.add_column(name, justify="left" if name == "padding" else "right")
    for one in checks:
        table.add_row(f"{one.batch}", f"{one.length:,}", one.padding, f"{one.difference:.1e}")
    return table


def _shapes(model: PreTrainedModel) -> Iterator[tuple[int, int, str]]:
    """Batch, length and padding: the shortest, around k, between, and the longest."""
    dims = layer_slots(model.config)
    longest = min(longest_input(model), LONGEST_CHECK)
    if None in dims:
        longest = min(longest, int((SCORES_IN_MEMORY / model.config.num_attention_heads) ** 0.5))
    slots = max((k for k in dims if k), default=64)
    for batch, length, padding in (
        (1, 1, "none"),
        (2, slots - 1, "right"),
        (3, slots + 1, "holes"),
        (2, min(longest // 2, 2048) + 3, "left"),
        (1, longest, "none"),
    ):
        yield batch, min(max(length, 1), longest), padding


def _mask(mask: Tensor, padding: str) -> Tensor:
    """Pad all rows but the first."""
    mask, length = mask.clone(), mask.shape[-1]
    if padding == "right":
        mask[1:, ..., length - length // 3 :] = 0
    if padding == "left":
        mask[1:, ..., : length // 3] = 0
    if padding == "holes":
        mask[1:, ..., 1::3] = 0
    return mask
