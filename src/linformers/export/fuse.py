"""Attention as the one operator of ONNX, in the form that ONNX Runtime takes and runs fastest."""

import onnx_ir
from onnx_ir import tape

SWAP = [0, 2, 1, 3]  # (batch, seq, heads, head_dim) and (batch, heads, seq, head_dim)


def fuse_attention(graph: onnx_ir.Graph) -> None:
    """Give each ``Attention`` a mask with a row per query, and heads that stay where the linear layers leave them.

    ONNX lets one row of a mask stand for all queries, ONNX Runtime does not. And it reads (batch, seq, heads *
    head_dim) as well, which spares copies of queries, keys, values and output.
    """
    for node in list(graph):
        if node.op_type == "Attention":
            _expand_mask(graph, node)
            _leave_heads(graph, node)


def _expand_mask(graph: onnx_ir.Graph, node: onnx_ir.Node) -> None:
    query, mask = node.inputs[0], node.inputs[3] if len(node.inputs) > 3 else None
    if query is None or mask is None or mask.shape is None or mask.shape[-2] != 1:
        return
    new = tape.Tape()
    length, one = new.op("Shape", [query], {"start": 2, "end": 3}), new.op("Constant", [], {"value_ints": [1]})
    node.replace_input_with(3, new.op("Expand", [mask, new.op("Concat", [one, one, length, one], {"axis": 0})]))
    graph.insert_before(node, new.nodes)


def _leave_heads(graph: onnx_ir.Graph, node: onnx_ir.Node) -> None:
    sources, uses = [_swapped(value) for value in node.inputs[:3]], list(node.outputs[0].uses())
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if None in sources or shape is None or len(uses) != 1 or _swapped(uses[0].node.outputs[0]) is None:
        return
    heads, features = shape[1], shape[3]
    if not isinstance(heads, int) or not isinstance(features, int):
        return
    new = tape.Tape()
    together = new.op("Constant", [], {"value_ints": [0, 0, heads * features]})
    apart = new.op("Constant", [], {"value_ints": [0, 0, heads, features]})
    inputs = [new.op("Reshape", [value, together]) for value in sources] + list(node.inputs[3:])
    read = new.op("Attention", inputs, {**node.attributes, "q_num_heads": heads, "kv_num_heads": heads})
    read = new.op("Reshape", [read, apart])
    graph.insert_before(node, new.nodes)
    uses[0].node.outputs[0].replace_all_uses_with(read)


def _swapped(value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    """What a value is, with its heads and its tokens swapped; None if it was not swapped."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Transpose" or list(node.attributes["perm"].as_ints()) != SWAP:
        return None
    return node.inputs[0]
