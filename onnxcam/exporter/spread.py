"""What is the same all over some axes is computed once: values are spread where they meet others, and not before.

The adjoint of a global pool gives every place the same gradient, and most of what methods make of it is the same at
every place as well. With v [N, C, 1, 1] and A [N, C, h, w]::

    g = Expand(v)        [N, C, h, w]            v
    p = Relu(g)          [N, C, h, w]    →       p = Relu(v)         [N, C, 1, 1]
    w = ReduceMean(g)    [N, C, 1, 1]            v itself
    L = p · A            [N, C, h, w]            p · A, which spreads p
"""

from __future__ import annotations

__all__ = ["spread_late"]

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxcam.exporter.rewriting import ELEMENTWISE, added, constant, initializer, made_by, sizes

_HALF: Final = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True, slots=True)
class _Once:
    """A value of size 1 along ``axes``, along which another is the same."""

    value: ir.Value
    axes: frozenset[int]


def spread_late(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """Compute from v what is elementwise in v repeated, or in v · c of a number c repeated; sum v · x as v · Σx.

    Saves a pass over the feature map for each operator: Grad-CAM spreads nothing where nobody asked for the gradient,
    and Grad-CAM++ of EfficientNet-lite0 takes 0.2 ms less.
    """
    spreading = _Spreading(graph)
    for node in nodes:
        if node.domain or len(node.outputs) != 1 or node.outputs[0].shape is None:
            continue
        if node.op_type in ("ReduceMean", "ReduceSum"):
            spreading.reduce(node)
        elif node.op_type in (*ELEMENTWISE, "Expand") and not (spreading.begin(node) or spreading.go_on(node)):
            spreading.end(node)


class _Spreading:
    """Which values of ``graph`` are the same along some axes, and the values that they are before they are spread."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._once: dict[ir.Value, _Once] = {}

    def begin(self, node: ir.Node) -> bool:
        """Note what ``node`` repeats: v, or v times a number that is repeated. Whether it does so."""
        once = self._expanded(node) if node.op_type == "Expand" else self._multiplied(node)
        if once is not None:
            self._once[node.outputs[0]] = once
        return once is not None

    def _expanded(self, node: ir.Node) -> _Once | None:
        v, shape = node.inputs[0], sizes(node.outputs[0])
        if v is None or len(sizes(v)) != len(shape):
            return None
        axes = frozenset(i for i, size in enumerate(sizes(v)) if size == 1 and shape[i] != 1)
        return _Once(v, axes) if axes else None

    def _multiplied(self, node: ir.Node) -> _Once | None:
        shape = sizes(node.outputs[0])
        for v, c in _pairs(node) if node.op_type == "Mul" else ():
            number, given = _repeated(c), sizes(v)
            if number is None or len(sizes(c)) != len(shape):
                continue
            axes = frozenset(i for i, size in enumerate(sizes(c)) if size != 1)
            if len(given) == len(shape) and axes and all(given[i] == 1 for i in axes):
                factor = self._number(f"{node.outputs[0].name}_factor", number, len(shape))
                return _Once(self._new(node, "Mul", [v, factor], axes), axes)
        return None

    def go_on(self, node: ir.Node) -> bool:
        """Compute the result of ``node`` once, if all that it reads is the same along some axes. Whether it is."""
        if node.op_type == "Expand":  # its shape is no operand
            return False
        axes = frozenset[int]().union(*(self._once[x].axes for x in node.inputs if x in self._once))
        rank = len(sizes(node.outputs[0]))
        if not axes or not all(x is not None and self._is_the_same(x, axes, rank) for x in node.inputs):
            return False
        inputs = [self._once[x].value if x in self._once else x for x in node.inputs if x is not None]
        self._once[node.outputs[0]] = _Once(self._new(node, node.op_type, inputs, axes, node.attributes), axes)
        return True

    def _is_the_same(self, value: ir.Value, axes: frozenset[int], rank: int) -> bool:
        if value in self._once:
            return self._once[value].axes == axes and len(sizes(value)) == rank
        return value.shape is not None and all(_size(value, axis, rank) == 1 for axis in axes)

    def end(self, node: ir.Node) -> None:
        """Let ``node`` spread the value itself, where it meets another of the full size."""
        shape = sizes(node.outputs[0])
        for i, value in enumerate(node.inputs):
            if value is None or value not in self._once or len(sizes(value)) != len(shape):
                continue
            once = self._once[value]
            full = (
                x is not None and x.shape is not None and x not in self._once
                and all(_size(x, axis, len(shape)) == shape[axis] != ir.SymbolicDim(None) for axis in once.axes)
                for x in node.inputs
            )  # fmt: skip
            if any(full):
                node.replace_input_with(i, once.value)

    def reduce(self, node: ir.Node) -> None:
        """A sum, or mean, over the axes of what is the same along them, or of a product with it."""
        old, x = node.outputs[0], node.inputs[0]
        given = constant(node.inputs[1] if len(node.inputs) > 1 else None)
        if x is None or x.shape is None or given is None or old.is_graph_output():
            return
        if not node.attributes.get_int("keepdims", 1):
            return
        axes = frozenset(int(axis) % len(x.shape) for axis in given.reshape(-1))
        if not axes:  # all of them, or none
            return
        new = self._total(node, x, axes) or self._factored(node, x, axes)
        if new is not None:
            ir.convenience.replace_all_uses_with(old, new)

    def _total(self, node: ir.Node, x: ir.Value, axes: frozenset[int]) -> ir.Value | None:
        if x not in self._once or self._once[x].axes != axes:
            return None
        once = self._once[x].value
        if node.op_type == "ReduceMean":
            return once
        known = [size for axis in axes if isinstance(size := sizes(x)[axis], int)]
        if len(known) < len(axes) or once.dtype is None or x.dtype in _HALF:  # float16 may not hold their number
            return None
        count = np.array(math.prod(known), once.dtype.numpy())
        return self._new(node, "Mul", [once, self._number(f"{node.outputs[0].name}_count", count, len(sizes(x)))])

    def _factored(self, node: ir.Node, x: ir.Value, axes: frozenset[int]) -> ir.Value | None:
        product = made_by(x, "Mul")
        if product is None:
            return None
        if node.op_type == "ReduceSum" and x.dtype in _HALF:  # Σx may be above what float16 holds where Σvx is not
            return None
        for v, rest in _pairs(product):
            given = sizes(v)
            if rest.shape == x.shape and len(given) == len(sizes(x)) and all(given[axis] == 1 for axis in axes):
                axes_input = node.inputs[1]
                assert axes_input is not None
                total = self._new(node, node.op_type, [rest, axes_input], axes, node.attributes)
                return self._new(node, "Mul", [v, total], axes)
        return None

    def _number(self, name: str, number: np.ndarray, rank: int) -> ir.Value:
        return initializer(self._graph, name, number.reshape([1] * rank))

    def _new(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value],
        axes: frozenset[int] = frozenset(),
        attributes: Mapping[str, ir.Attr] = MappingProxyType({}),
    ) -> ir.Value:
        """The result of a new node in front of ``before``: of the shape of its result, but for 1 along ``axes``."""
        old = before.outputs[0]
        shape = [1 if i in axes else size for i, size in enumerate(sizes(old))]
        name = f"{old.name}_once_{op_type}"
        return added(self._graph, before, op_type, inputs, name, shape, like=old, attributes=attributes)


def _pairs(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Both operands, in both orders."""
    x, y = node.inputs
    if x is not None and y is not None:
        yield from ((x, y), (y, x))


def _size(value: ir.Value, axis: int, rank: int) -> int | ir.SymbolicDim:
    """Along the axis of a result of ``rank``; 1 where the value has fewer."""
    shape = sizes(value)
    own = axis - (rank - len(shape))
    return shape[own] if own >= 0 else 1


def _repeated(value: ir.Value) -> np.ndarray | None:
    """The number that a constant repeats, of any shape."""
    expand = made_by(value, "Expand")
    if expand is not None:
        number = constant(expand.inputs[0])
        return number if number is not None and number.size == 1 else None
    number = constant(value)
    return None if number is None or number.size < 2 or np.ptp(number) != 0 else number.reshape(-1)[:1]
