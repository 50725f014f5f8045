"""What the nodes of an explanation can do without: each pass keeps the values, up to rounding, and saves time.

Small models notice every node, and ONNX Runtime some shapes: what each pass saves is said beside it, of one thread of a
server's CPU.
"""

from __future__ import annotations

__all__ = ["mean_before_spread", "ranked_constants", "simplify"]

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxcam.exporter.blocked import blocked_masks

_ELEMENTWISE: Final = frozenset(
    {"Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Pow", "Sub"}
)


def simplify(graph: ir.Graph, forward: int) -> None:
    """Run every pass on the nodes that stand behind the first ``forward``."""
    mean_before_spread(graph, list(graph)[forward:])
    ranked_constants(graph, list(graph)[forward:])
    nodes = list(graph)
    blocked_masks(graph, nodes[forward:], nodes[:forward])


def mean_before_spread(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """mean(v · c) = v · mean(c) where v is the same all over the axes: c is constant then, and so is its mean.

    Grad-CAM takes the mean over places of what a global pool's adjoint has spread over them. Saves a pass over the
    feature map, and spreads nothing where nobody asked for the gradient.
    """
    for node in nodes:
        if node.op_type != "ReduceMean" or node.domain or not node.attributes.get_int("keepdims", 1):
            continue
        axes, product = _constant(node.inputs[1] if len(node.inputs) > 1 else None), node.inputs[0]
        spread = None if product is None else product.producer()
        if axes is None or spread is None or spread.op_type != "Mul" or node.outputs[0].is_graph_output():
            continue
        for value, factor in (spread.inputs, spread.inputs[::-1]):
            if value is None or factor is None or not _is_one(value, axes.reshape(-1).tolist(), product):
                continue
            old = node.outputs[0]
            of_factor, mean = ir.Value(name=f"{old.name}_of_factor"), ir.Value(name=f"{old.name}_of_product")
            mean.type, mean.shape = old.type, old.shape
            new = [
                ir.node("ReduceMean", [factor, node.inputs[1]], {"keepdims": 1}, outputs=[of_factor]),
                ir.node("Mul", [value, of_factor], outputs=[mean]),
            ]
            for each in new:
                each.name = f"{node.name}_{each.op_type}"
            graph.insert_before(node, new)
            ir.convenience.replace_all_uses_with(old, mean)
            break


def _is_one(value: ir.Value, axes: Sequence[int], product: ir.Value | None) -> bool:
    """Whether ``value`` has the rank of ``product``, and one element along ``axes``."""
    shape = value.shape
    same = shape is not None and product is not None and product.shape is not None and len(shape) == len(product.shape)
    return same and shape is not None and all(shape[axis] == 1 for axis in axes)


def ranked_constants(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """Give single numbers the rank of what they meet, where that ends in axes of length 1.

    ONNX Runtime goes through [N, 1024, 1, 1] element by element to meet a scalar, in 20 µs where 1 would do.
    """
    for node in nodes:
        if node.op_type not in _ELEMENTWISE or node.domain or len(node.inputs) != 2:
            continue
        for i, (number, other) in enumerate(zip(node.inputs, node.inputs[::-1], strict=True)):
            array = None if number is None or number.is_graph_input() else number.const_value
            if number is None or array is None or other is None or other.shape is None:
                continue
            rank = len(other.shape)
            if array.size != 1 or len(array.shape) >= rank or rank < 2 or other.shape[-1] != 1:
                continue
            name = f"{number.name}_of_rank_{rank}"
            if name not in graph.initializers:
                tensor = ir.tensor(array.numpy().reshape([1] * rank), dtype=array.dtype, name=name)
                ranked = ir.Value(name=name, type=number.type, shape=ir.Shape([1] * rank), const_value=tensor)
                graph.register_initializer(ranked)
            node.replace_input_with(i, graph.initializers[name])


def _constant(value: ir.Value | None) -> np.ndarray | None:
    if value is None or value.const_value is None or value.is_graph_input():  # an input may be given otherwise
        return None
    return value.const_value.numpy()
