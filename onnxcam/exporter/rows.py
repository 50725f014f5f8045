"""Some rows of a value: cut out of what the model computes, computed alone from what only an explanation needs."""

from __future__ import annotations

__all__ = ["Rows", "RowsOf", "reduced_axes"]

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxcam.exporter.rewriting import ELEMENTWISE, added, constant, initializer, sizes

_REDUCTIONS: Final = frozenset({"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"})


@dataclass(frozen=True, slots=True)
class Rows:
    """``size`` of the ``total`` rows along ``axis``, from ``begin`` on."""

    axis: int
    begin: int
    size: int
    total: int

    def among(self, shape: Sequence[int | ir.SymbolicDim]) -> list[int | ir.SymbolicDim]:
        """The shape of these rows of what has ``shape``."""
        return [self.size if i == self.axis else size for i, size in enumerate(shape)]

    def of_operand(self, x: ir.Value | None, node: ir.Node) -> Rows:
        """These rows of the result of ``node`` as rows of its operand ``x``, which is broadcast; of an axis below 0
        where it has fewer."""
        return replace(self, axis=self.axis - len(sizes(node.outputs[0])) + (0 if x is None else len(sizes(x))))


class RowsOf:
    """Gives rows of values of ``graph``, each once. ``nodes``: those that an explanation added to the model's."""

    def __init__(self, graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
        self._graph = graph
        self._nodes = frozenset(nodes)
        self._taken: dict[tuple[ir.Value, Rows], ir.Value] = {}

    def __call__(self, x: ir.Value | None, rows: Rows, before: ir.Node) -> ir.Value | None:
        """The ``rows`` of ``x``, by nodes in front of ``before``; itself where it has none along that axis, None where
        nobody knows how many it has."""
        if x is None or x.shape is None:
            return None
        if rows.axis < 0 or x.shape[rows.axis] == 1:
            return x
        if x.shape[rows.axis] != rows.total:
            return None
        if (x, rows) not in self._taken:
            self._taken[x, rows] = self._computed(x, rows, before) or self._sliced(x, rows, before)
        return self._taken[x, rows]

    def _computed(self, x: ir.Value, rows: Rows, before: ir.Node) -> ir.Value | None:
        """From the rows of what ``x`` is computed from, where this is not the model's own."""
        node = x.producer()
        if node is None or node not in self._nodes or node.domain:
            return None
        taken: list[ir.Value | None]
        if node.op_type in ELEMENTWISE:
            taken = [self(y, rows.of_operand(y, node), before) for y in node.inputs]
        elif node.op_type in _REDUCTIONS and node.attributes.get_int("keepdims", 1) == 1:
            axes = reduced_axes(node)
            if axes is None or rows.axis in axes:
                return None
            taken = [self(node.inputs[0], rows, before), node.inputs[1]]
        elif node.op_type == "Transpose" and (permutation := node.attributes.get_ints("perm")) is not None:
            taken = [self(node.inputs[0], replace(rows, axis=permutation[rows.axis]), before)]
        else:
            return None
        if None in taken:
            return None
        name, shape = f"{x.name}_rows_{rows.axis}_{rows.begin}", rows.among(sizes(x))
        return added(self._graph, before, node.op_type, taken, name, shape, like=x, attributes=node.attributes)

    def _sliced(self, x: ir.Value, rows: Rows, before: ir.Node) -> ir.Value:
        bounds = {"begin": rows.begin, "end": rows.begin + rows.size, "axis": rows.axis}
        given = [initializer(self._graph, f"explanation.{at}_{n}", np.array([n])) for at, n in bounds.items()]
        name, shape = f"{x.name}_rows_{rows.axis}_{rows.begin}", rows.among(sizes(x))
        return added(self._graph, before, "Slice", [x, *given], name, shape, like=x)


def reduced_axes(node: ir.Node) -> frozenset[int] | None:
    """What a reduction reduces; None where nobody knows, or it is everything."""
    x, given = node.inputs[0], constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if x is None or x.shape is None or given is None or not given.size:
        return None
    return frozenset(int(axis) % len(x.shape) for axis in given.reshape(-1))
