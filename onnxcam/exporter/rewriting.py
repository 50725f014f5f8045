"""What the passes on a finished graph share: reading constants, making initializers, putting nodes in place of one."""

from __future__ import annotations

__all__ = ["ELEMENTWISE", "added", "constant", "initializer", "made_by", "put_in_place", "sizes"]

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx_ir as ir

ELEMENTWISE: Final = frozenset(
    {
        "Abs", "Add", "And", "Cast", "Div", "Equal", "Exp", "Greater", "GreaterOrEqual", "Less",
        "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Sign", "Sqrt",
        "Sub", "Where",
    }
)  # fmt: skip
"""Standard operators that take the numbers at one place of all inputs, which are broadcast, to that of the result."""


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The number or numbers, where they are in the file; an input that has a default may be given otherwise."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that gives ``value``, if it is a standard one of ``op_type``."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and not node.domain else None


def initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """The one of ``name`` that holds ``array``, a new one if there is none; where another has the name, of the next."""
    for free in itertools.chain([name], (f"{name}_{count}" for count in itertools.count(2))):
        known = graph.initializers.get(free)
        if known is None:
            break
        held = constant(known)
        if held is not None and held.dtype == array.dtype and np.array_equal(held, array):
            return known
    tensor = ir.tensor(array, name=free)
    value = ir.Value(name=free, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def sizes(value: ir.Value) -> list[int | ir.SymbolicDim]:
    """Of the axes; none where the shape is not known."""
    return [] if value.shape is None else list(value.shape)


def added(
    graph: ir.Graph,
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    shape: Sequence[int | ir.SymbolicDim],
    *,
    like: ir.Value,
    attributes: Mapping[str, ir.Attr] = MappingProxyType({}),
) -> ir.Value:
    """The result of a new node in front of ``before``, of the type of ``like``."""
    value = ir.Value(name=name, type=like.type, shape=ir.Shape(shape))
    node = ir.Node("", op_type, inputs, attributes=tuple(attributes.values()), outputs=[value], name=name)
    graph.insert_before(before, node)
    return value


def put_in_place(graph: ir.Graph, node: ir.Node, new: Sequence[ir.Node]) -> None:
    """Let the last of ``new`` give what ``node`` gave; name, type and shape of the result come from it."""
    old = node.outputs[0]
    for i, each in enumerate(new):
        each.name = each.outputs[0].name = f"{old.name}_{each.op_type}_{i}"
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [old], [new[-1].outputs[0]])
