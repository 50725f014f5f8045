"""Nodes of a graph once more, on another value."""

from __future__ import annotations

__all__ = ["repeated"]

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.autodiff.emitter import scopes
from onnxcam.autodiff.registry import describe
from onnxcam.autodiff.subgraphs import subgraphs
from onnxcam.errors import MethodError


def repeated(op: OpBuilder, nodes: Sequence[ir.Node], x: ir.Value, other: ir.Value) -> Mapping[ir.Value, ir.Value]:
    """By what ``nodes`` give, what copies of them give, which read ``other`` in the place of ``x``.

    The copies are appended to the graph, and read the same weights. Raises `MethodError` for one with a graph inside.
    """
    graph = op.builder.graph
    values = {x: other}
    for node in nodes:
        if subgraphs(node):
            raise MethodError(f"{describe(node)} stands behind the last layer, and is not run again on others")
        copy = ir.Node(
            node.domain,
            node.op_type,
            [None if read is None else values.get(read, read) for read in node.inputs],
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=f"{'/'.join(scopes(op))}/{graph.num_nodes()}/{node.name or node.op_type}",
        )
        for y, made in zip(node.outputs, copy.outputs, strict=True):
            made.name = f"{'.'.join(scopes(op))}.{graph.num_nodes()}.{y.name}" if y.name else ""
            made.type, made.shape = y.type, y.shape
            values[y] = made
        graph.append(copy)
    return values
