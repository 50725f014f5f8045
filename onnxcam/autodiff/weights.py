"""Quantised weights as the backward pass reads them."""

from __future__ import annotations

__all__ = ["write_out_weights"]

import onnx_ir as ir
from onnxscript import OpBuilder


def write_out_weights(op: OpBuilder, *, behind: int) -> None:
    """Let the nodes behind the first ``behind`` read weights that a session folds to constants when it loads.

    ONNX Runtime leaves DequantizeLinear of a constant to every run, for the integer kernels of the forward pass; a Conv
    of the backward pass is twice as fast with a constant weight. And a MatMul behind DequantizeLinear it may run on
    integers: what rounds scores to a step rounds gradients to noise. The file holds the integers only, as before.
    """
    graph = op.builder.graph
    nodes = list(graph)
    real: dict[ir.Value, ir.Value] = {}
    for node in nodes[behind:]:
        for index, x in enumerate(node.inputs):
            made = None if x is None else x.producer()
            if x is None or made is None or made.op_type != "DequantizeLinear" or not _is_constant(made):
                continue
            if x not in real:
                real[x] = _written_out(op, made)
            node.replace_input_with(index, real[x])
    added = list(graph)[len(nodes) :]
    if added:
        graph.remove(added)
        graph.insert_before(nodes[behind], added)


def _is_constant(node: ir.Node) -> bool:
    """Whether all that a DequantizeLinear reads is in the file, and no blocks are in it."""
    inputs = [x for x in node.inputs if x is not None]
    known = all(ir.convenience.get_const_tensor(x) is not None and not x.is_graph_input() for x in inputs)
    return known and not node.attributes.get_int("block_size", 0)


def _written_out(op: OpBuilder, node: ir.Node) -> ir.Value:
    """scale (x - zero) in operators that are folded."""
    x, scale, zero = (*node.inputs, None)[:3]
    (y,) = node.outputs
    dtype = y.dtype or ir.DataType.FLOAT
    assert x is not None
    assert scale is not None
    assert x.shape is not None
    rank = len(x.shape)
    trailing = list(range(1, rank - node.attributes.get_int("axis", 1) % rank)) if rank else []

    def along(parameter: ir.Value) -> ir.Value:
        tensor = ir.convenience.get_const_tensor(parameter)
        single = tensor is None or tensor.size == 1
        return parameter if single or not trailing else op.Unsqueeze(parameter, trailing)

    def real(value: ir.Value) -> ir.Value:
        return op.Cast(value, to=dtype)  # type: ignore[no-any-return]

    steps = real(x) if zero is None else op.Sub(real(x), real(along(zero)))
    written: ir.Value = op.Mul(steps, along(scale) if scale.dtype == dtype else real(along(scale)))
    written.type, written.shape = y.type, y.shape
    return written
