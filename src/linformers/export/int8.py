"""Weights in int8: what ONNX Runtime makes fast and small without losing accuracy on any processor."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

SETTINGS = {
    "products": "weights int8 of 7 bits with a scale per column, inputs uint8 with a scale per tensor and call",
    "embeddings": "int8 with a scale per row",
}
SMALL_TABLE = 2**16  # numbers: below, a table is not worth three more nodes


def quantise(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with int8 weights in all products of activations and weights; inputs are quantised at each call.

    Seven bits of eight: without VNNI, processors add pairs of products in 16 bits, which eight bits overflow. One scale
    for each column of a matrix gives back more than the bit that is lost. Embeddings are stored in int8 too, and looked
    up before they are scaled.
    """
    prepared = onnx.ModelProto()
    prepared.CopyFrom(graph)
    add_pre_process_metadata(prepared)  # its own preparation is of no use to this graph; this spares a warning
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            prepared,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        made = onnx.load(path)
    del made.graph.value_info[:]
    _pack_tables(made.graph)
    return made


def float_products(graph: onnx.ModelProto) -> list[str]:
    """Products of activations and weights that are left in float32."""
    weights = {weight.name for weight in graph.graph.initializer}
    return [
        node.name for node in graph.graph.node if node.op_type in ("MatMul", "Gemm") and set(node.input[:2]) & weights
    ]


def _pack_tables(graph: onnx.GraphProto) -> None:
    """Embeddings as int8 with a scale per row."""
    nodes = {name: [node for node in graph.node if name in node.input] for name in (w.name for w in graph.initializer)}
    for weight in list(graph.initializer):
        table, lookups = numpy_helper.to_array(weight), nodes[weight.name]
        if table.ndim != 2 or table.size < SMALL_TABLE or {node.op_type for node in lookups} != {"Gather"}:
            continue
        scale = np.maximum(np.abs(table).max(1, keepdims=True), 1e-30) / 127
        codes, scales = f"{weight.name}_codes", f"{weight.name}_scales"
        graph.initializer.remove(weight)
        graph.initializer.append(numpy_helper.from_array(np.rint(table / scale).astype(np.int8), codes))
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), scales))
        for node in lookups:
            output, ids = node.output[0], node.input[1]
            where = list(graph.node).index(node)
            node.input[0], node.output[0] = codes, f"{output}_codes"
            for new in reversed(
                (
                    helper.make_node("Cast", [f"{output}_codes"], [f"{output}_float"], to=onnx.TensorProto.FLOAT),
                    helper.make_node("Gather", [scales, ids], [f"{output}_scales"]),
                    helper.make_node("Mul", [f"{output}_float", f"{output}_scales"], [output]),
                )
            ):
                graph.node.insert(where + 1, new)
