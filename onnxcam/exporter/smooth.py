"""A graph of which finite differences can be taken: in float32, without the steps of quantisation."""

from __future__ import annotations

__all__ = ["smooth"]

from collections.abc import Collection
from typing import Final

import numpy as np
import onnx_ir as ir

_HALF: Final = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_WIDE: Final = ir.DataType.FLOAT


def smooth(model: ir.Model, *, ends_clipped: Collection[str] = ()) -> None:
    """Widen half precision to float32, in place, and let quantised values keep their fractions.

    QuantizeLinear only clips then what would round to another step than the lowest to the highest, and what it gives
    stays a floating-point number of steps until DequantizeLinear; that of weights, which are whole numbers, stays as it
    is. So do both where they work in blocks or on float8.

    ends_clipped: names of quantised values of which the straight-through gradient counts the lowest and the highest
        step as clipped.
    """
    _widen(model.graph)
    _without_steps(model.graph, ends_clipped)


def _without_steps(graph: ir.Graph, ends_clipped: Collection[str]) -> None:
    """Let values between QuantizeLinear and DequantizeLinear keep their fractions."""
    stepless: set[ir.Value] = set()
    for node in list(graph):
        blocks = node.attributes.get_int("block_size", 0)
        if node.op_type == "QuantizeLinear" and not blocks and (limits := _limits(node)) is not None:
            x, scale, zero = _operands(graph, node)
            steps = _before(graph, node, "Div", [x, scale])
            steps = steps if zero is None else _before(graph, node, "Add", [steps, zero])
            name = node.outputs[0].name
            half = -0.5 if name in ends_clipped else 0.5  # what rounds to the lowest or highest step
            low = _constant(graph, f"{name}.low", np.float32(limits[0] - half))
            high = _constant(graph, f"{name}.high", np.float32(limits[1] + half))
            y = _before(graph, node, "Clip", [steps, low, high])
            stepless.add(y)
        elif node.op_type == "DequantizeLinear" and not blocks and node.inputs[0] in stepless:
            x, scale, zero = _operands(graph, node)
            y = _before(graph, node, "Mul", [x if zero is None else _before(graph, node, "Sub", [x, zero]), scale])
        else:
            if any(x in stepless for x in node.inputs):  # Reshape, MaxPool and the like between the two
                moved = [y for y in node.outputs if y.dtype in _WHOLE]
                stepless.update(moved)
                for y in moved:
                    y.type = ir.TensorType(_WIDE)
            continue
        y.shape, y.type = node.outputs[0].shape, ir.TensorType(_WIDE)
        ir.convenience.replace_all_uses_with(node.outputs[0], y, replace_graph_outputs=True)
        graph.remove(node, safe=True)


_WHOLE: Final = frozenset(
    {ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16}
)


def _limits(node: ir.Node) -> tuple[float, float] | None:
    """The smallest and largest whole number that QuantizeLinear ``node`` gives; None where it gives none."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    dtype = zero.dtype if zero is not None else ir.DataType(node.attributes.get_int("output_dtype", 0) or 2)
    if dtype not in _WHOLE:
        return None
    bits = dtype.bitwidth
    low = -(2.0 ** (bits - 1)) if dtype.is_signed() else 0.0
    return low, low + 2.0**bits - 1


def _operands(graph: ir.Graph, node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    """x, scale and zero point in float32; the latter two so that they fit the axis they belong to."""
    x, scale, zero = (*node.inputs, None)[:3]
    assert x is not None
    assert scale is not None
    if zero is not None:
        zero = _before(graph, node, "Cast", [zero], to=int(_WIDE))
    rank = None if x.shape is None else len(x.shape)
    if scale.shape is not None and len(scale.shape) == 1 and scale.shape[0] != 1 and rank is not None:
        behind = rank - 1 - node.attributes.get_int("axis", 1) % rank
        axis = _constant(graph, f"{node.outputs[0].name}.axis", np.array([-1, *[1] * behind], np.int64))
        scale = _before(graph, node, "Reshape", [scale, axis])
        zero = None if zero is None else _before(graph, node, "Reshape", [zero, axis])
    return x, scale, zero


def _before(graph: ir.Graph, node: ir.Node, op_type: str, inputs: list[ir.Value], **attributes: int) -> ir.Value:
    """The output of a new node in front of ``node``."""
    new = ir.node(op_type, inputs, attributes)
    graph.insert_before(node, new)
    return new.outputs[0]


def _constant(graph: ir.Graph, name: str, array: np.ndarray | np.float32) -> ir.Value:
    array = np.asarray(array)
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
    graph.register_initializer(value)
    return value


def _widen(graph: ir.Graph) -> None:
    for value in graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype in _HALF:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(_WIDE)
    for value in (*graph.inputs, *(y for node in graph.all_nodes() for y in node.outputs)):
        if value.dtype in _HALF:
            value.type = ir.TensorType(_WIDE)  # a new one: other graphs may share the old
    for node in graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.INT and name in ("to", "dtype") and attribute.value in _HALF:
                node.attributes[name] = ir.AttrInt64(name, int(_WIDE))
            elif attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in _HALF:
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(attribute.value.numpy().astype(np.float32)))
