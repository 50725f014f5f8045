"""What is zero but for a few rows is computed for those rows: zeros are put around them where something else is added.

A transformer that answers from its class token gives every other token the gradient 0, up to the attention of its last
block, and the adjoint of taking one token of 197 pads the other 196.
"""

from __future__ import annotations

__all__ = ["pad_late"]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxcam.exporter.rewriting import added, constant, initializer, sizes
from onnxcam.exporter.rows import Rows, RowsOf, reduced_axes

_ZERO_AT_ZERO: Final = frozenset({"Abs", "Cast", "Erf", "Identity", "Neg", "Relu", "Sign", "Tanh"})


@dataclass(frozen=True, slots=True)
class _Part:
    """The ``rows`` of a value that is 0 in all the others."""

    value: ir.Value
    rows: Rows


def pad_late(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """Compute what follows from a padded value, where it stays 0, for the rows that are not padding.

    Saves ViT-tiny most of the way through its last block: the gradient at what the block takes costs 0.03 of the
    model's time, where it cost 0.09.
    """
    padding = _Padding(graph, nodes)
    for node in nodes:
        if not node.domain and len(node.outputs) == 1 and node.outputs[0].shape is not None:
            padding.visit(node)


class _Padding:
    """Which values of ``graph`` are zero but for some rows, and the values of those rows."""

    def __init__(self, graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
        self._graph = graph
        self._rows_of = RowsOf(graph, nodes)
        self._parts: dict[ir.Value, _Part] = {}
        self._padded: dict[ir.Value, ir.Value] = {}
        self._carry: Mapping[str, Callable[[ir.Node], _Part | ir.Value | None]] = {
            "Add": self._sum,
            "Div": self._quotient,
            "MatMul": self._product_of_matrices,
            "Mul": self._product,
            "Pad": self._pad,
            "ReduceMean": self._reduced,
            "ReduceSum": self._reduced,
            "Reshape": self._reshaped,
            "Squeeze": self._with_axes,
            "Sub": self._sum,
            "Transpose": self._transposed,
            "Unsqueeze": self._with_axes,
        }

    def visit(self, node: ir.Node) -> None:
        """Carry on what is known of the inputs to the result, or else give ``node`` its inputs in full."""
        result, found = node.outputs[0], None
        if node.op_type == "Pad" or any(x in self._parts for x in node.inputs):
            carry = self._each if node.op_type in _ZERO_AT_ZERO else self._carry.get(node.op_type)
            found = None if carry is None else carry(node)
        if isinstance(found, _Part) and (node.op_type == "Pad" or not result.is_graph_output()):
            self._parts[result] = found
        elif isinstance(found, ir.Value) and not result.is_graph_output():
            ir.convenience.replace_all_uses_with(result, found)
        else:
            for i, x in enumerate(node.inputs):
                if x is not None and x in self._parts:
                    node.replace_input_with(i, self._in_full(x, node))

    def _in_full(self, value: ir.Value, before: ir.Node) -> ir.Value:
        """``value`` with its zeros, put there last of all."""
        made = value.producer()
        if made is not None and made.op_type == "Pad" and made.inputs[0] is self._parts[value].value:
            return value
        if value not in self._padded:
            part, rows = self._parts[value].value, self._parts[value].rows
            pads = np.zeros((2, len(sizes(value))), np.int64)
            pads[:, rows.axis] = rows.begin, rows.total - rows.begin - rows.size
            around, name = initializer(self._graph, f"{value.name}_pads", pads.reshape(-1)), f"{value.name}_in_full"
            full = added(self._graph, before, "Pad", [part, around], name, sizes(value), like=value)
            self._padded[value] = full
        return self._padded[value]

    def _pad(self, node: ir.Node) -> _Part | None:
        """Zeros along one axis; or along others of what is zero already."""
        x, result = node.inputs[0], node.outputs[0]
        pads = constant(node.inputs[1])
        value = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
        plain = len(node.inputs) < 4 and node.attributes.get_string("mode", "constant") == "constant"
        if (
            x is None
            or x.shape is None
            or pads is None
            or value is None
            or value.any()
            or not plain
            or (pads < 0).any()
        ):
            return None
        before, after = pads.reshape(2, -1)
        if x in self._parts:
            rows = self._parts[x].rows
            if before[rows.axis] or after[rows.axis]:
                return None
            return self._like(node, [self._parts[x].value, *node.inputs[1:]], rows)
        axes = np.flatnonzero(before + after)
        if len(axes) != 1:
            return None
        axis = int(axes[0])
        size, total = x.shape[axis], sizes(result)[axis]
        if not isinstance(size, int) or not isinstance(total, int):
            return None
        return _Part(x, Rows(axis, int(before[axis]), size, total))

    def _each(self, node: ir.Node) -> _Part | None:
        (x,) = node.inputs
        assert x is not None
        return self._like(node, [self._parts[x].value], self._parts[x].rows)

    def _sum(self, node: ir.Node) -> _Part | None:
        """Of values that are zero in the same rows."""
        rows = [self._rows_in(x, node) for x in node.inputs]
        if rows[0] is None or any(other != rows[0] for other in rows):
            return None
        return self._like(node, [self._parts[x].value for x in node.inputs if x is not None], rows[0])

    def _product(self, node: ir.Node) -> _Part | None:
        rows = next((rows for x in node.inputs if (rows := self._rows_in(x, node)) is not None), None)
        return None if rows is None else self._with_rows_of(node, node.inputs, rows)

    def _quotient(self, node: ir.Node) -> _Part | None:
        rows = self._rows_in(node.inputs[0], node)
        if rows is None or node.inputs[1] in self._parts:
            return None
        return self._with_rows_of(node, node.inputs, rows)

    def _with_rows_of(self, node: ir.Node, inputs: Sequence[ir.Value | None], rows: Rows) -> _Part | None:
        taken = [self._taken(x, rows.of_operand(x, node), node) for x in inputs]
        return None if None in taken else self._like(node, taken, rows)

    def _taken(self, x: ir.Value | None, rows: Rows, before: ir.Node) -> ir.Value | None:
        if x in self._parts and self._parts[x].rows == rows:
            return self._parts[x].value
        return self._rows_of(x, rows, before)

    def _product_of_matrices(self, node: ir.Node) -> _Part | ir.Value | None:
        x, y = node.inputs
        result = node.outputs[0]
        if x is None or y is None or len(sizes(x)) < 2 or len(sizes(y)) < 2:
            return None
        rank = len(sizes(result))
        if x in self._parts and y not in self._parts:
            rows, last = self._parts[x].rows, len(sizes(x)) - 1
            if rows.axis == last:
                other = self._rows_of(y, replace(rows, axis=len(sizes(y)) - 2), node)
                return None if other is None else self._dense(node, [self._parts[x].value, other])
            if rows.axis == last - 1:
                return self._like(node, [self._parts[x].value, y], replace(rows, axis=rank - 2))
        if y in self._parts and x not in self._parts:
            rows, last = self._parts[y].rows, len(sizes(y)) - 1
            if rows.axis == last - 1:
                other = self._rows_of(x, replace(rows, axis=len(sizes(x)) - 1), node)
                return None if other is None else self._dense(node, [other, self._parts[y].value])
            if rows.axis == last:
                return self._like(node, [x, self._parts[y].value], replace(rows, axis=rank - 1))
        return None

    def _reduced(self, node: ir.Node) -> _Part | ir.Value | None:
        x = node.inputs[0]
        axes = reduced_axes(node)
        if x is None or axes is None or node.attributes.get_int("keepdims", 1) != 1:
            return None
        part, rows = self._parts[x].value, self._parts[x].rows
        if rows.axis not in axes:
            return self._like(node, [part, node.inputs[1]], rows)
        return self._dense(node, [part, node.inputs[1]]) if node.op_type == "ReduceSum" else None

    def _transposed(self, node: ir.Node) -> _Part | None:
        (x,) = node.inputs
        permutation = node.attributes.get_ints("perm")
        if x is None or permutation is None:
            return None
        rows = self._parts[x].rows
        return self._like(node, [self._parts[x].value], replace(rows, axis=list(permutation).index(rows.axis)))

    def _with_axes(self, node: ir.Node) -> _Part | None:
        """Squeeze and Unsqueeze: axes of size 1 go or come."""
        x, axes = node.inputs[0], constant(node.inputs[1]) if len(node.inputs) > 1 else None
        if x is None or axes is None:
            return None
        rows, comes = self._parts[x].rows, node.op_type == "Unsqueeze"
        longer = sizes(node.outputs[0]) if comes else sizes(x)
        changed = {int(axis) % len(longer) for axis in axes.reshape(-1)}
        kept = [axis for axis in range(len(longer)) if axis not in changed]
        if not comes and rows.axis in changed:
            return None
        axis = kept[rows.axis] if comes else kept.index(rows.axis)
        return self._like(node, [self._parts[x].value, node.inputs[1]], replace(rows, axis=axis))

    def _reshaped(self, node: ir.Node) -> _Part | None:
        """Where the rows stay an axis of their own: all that stands behind them has as many numbers as before."""
        x, shape, result = node.inputs[0], constant(node.inputs[1]), node.outputs[0]
        if x is None or shape is None or node.attributes.get_int("allowzero", 0) == 1:
            return None
        rows, after = self._parts[x].rows, sizes(result)
        behind = _count(sizes(x)[rows.axis + 1 :])
        same = (i for i, size in enumerate(after) if size == rows.total and _count(after[i + 1 :]) == behind)
        axis = next(same, None)
        copied = [i for i, size in enumerate(shape) if size == 0 and i != axis]
        if axis is None or behind is None or rows.axis in copied:
            return None
        fewer = shape.copy()
        fewer[axis] = rows.size
        wanted = initializer(self._graph, f"{result.name}_sizes", fewer)
        return self._like(node, [self._parts[x].value, wanted], replace(rows, axis=axis))

    def _rows_in(self, x: ir.Value | None, node: ir.Node) -> Rows | None:
        """Those of ``x`` as axes of the result of ``node``, whose operands are broadcast."""
        if x is None or x not in self._parts:
            return None
        rows = self._parts[x].rows
        axis = rows.axis + len(sizes(node.outputs[0])) - len(sizes(x))
        return replace(rows, axis=axis) if sizes(node.outputs[0])[axis] == rows.total else None

    def _like(self, node: ir.Node, inputs: Sequence[ir.Value | None], rows: Rows) -> _Part:
        """The result of ``node`` from these inputs: some of its rows."""
        return _Part(self._result(node, inputs, "part", rows.among(sizes(node.outputs[0]))), rows)

    def _dense(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Value:
        """The whole result of ``node`` from these inputs."""
        return self._result(node, inputs, "of_part", sizes(node.outputs[0]))

    def _result(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], suffix: str, shape: Sequence[int | ir.SymbolicDim]
    ) -> ir.Value:
        old = node.outputs[0]
        name = f"{old.name}_{suffix}"
        return added(self._graph, node, node.op_type, inputs, name, shape, like=old, attributes=node.attributes)


def _count(axes: Sequence[int | ir.SymbolicDim]) -> int | None:
    """How many numbers they hold; None where one is open."""
    known = [size for size in axes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(axes) else None
