"""What lies behind a value in a graph, copied to run again on another."""

from __future__ import annotations

__all__ = ["Behind", "behind"]

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.autodiff.emitter import scopes
from onnxcam.autodiff.subgraphs import captures, subgraphs


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """The part of a graph between ``value`` and ``result``.

    nodes: those that depend on ``value``, in forward order.
    shapes: those that do not, and are made of shapes of what varies with the pictures, alone.
    beside: what else varies with the pictures, and is read: skip connections from before ``value``.
    """

    value: ir.Value
    result: ir.Value
    nodes: Sequence[ir.Node]
    shapes: Sequence[ir.Node]
    beside: Sequence[ir.Value]

    def copied(
        self,
        op: OpBuilder,
        value: ir.Value,
        images: ir.Value | None = None,
        alongside: Callable[[ir.Value], ir.Value] | None = None,
    ) -> ir.Value:
        """``result`` with ``value`` in the place of its own, by copies of the nodes that ``op`` appends.

        images: which picture each row of ``value`` is of, int64 [B]: what is beside is then repeated for them, and
            shapes are those of B pictures. Where None, the rows are the pictures.
        alongside: what becomes of the other half of a residual block around ``value``: of a skip connection past it,
            and of its normalisation where ``value`` is the skip connection.
        """
        values = {self.value: value}
        halves = self._halves() if alongside is not None else []
        nodes = [(node, False) for node in self.nodes]
        if images is not None:
            values |= {x: _typed_as(x, op.Gather(x, images, axis=0)) for x in dict.fromkeys([*self.beside, *halves])}
            nodes = [*((node, True) for node in self.shapes), *nodes]
        if alongside is not None:
            values |= {x: alongside(values.get(x, x)) for x in halves}
        for node, is_shape in nodes:
            if images is not None and is_shape and node.op_type == "Shape" and node.inputs[0] not in values:
                values[node.outputs[0]] = _shape_of_rows(op, node, images)
            elif node.outputs[0] not in values:
                _copy(op, node, values)
        return values[self.result]

    def _halves(self) -> list[ir.Value]:
        """The other half of a residual block around ``value``, or behind it."""
        skipped = [x for x in self.beside if _is_alike(x, self.value)]
        return [*skipped, *_normalised(self.value, set(self.nodes))]


def behind(graph: ir.Graph, value: ir.Value, result: ir.Value) -> Behind | None:
    """What lies between ``value`` and ``result``; None where that does not depend on it."""
    needed = _ancestors(result)
    depends, varies = {value}, {x for x in graph.inputs if not x.is_initializer()}
    nodes = []
    for node in graph:
        reads = _reads(node)
        if node in needed and any(x in depends for x in reads):
            nodes.append(node)
            depends.update(node.outputs)
        if any(x in varies for x in reads):
            varies.update(node.outputs)
    if result not in depends:
        return None
    outside = list(dict.fromkeys(x for node in nodes for x in _reads(node) if x in varies and x not in depends))
    shapes: set[ir.Node] = set()
    beside = []
    for x in outside:
        made = _of_shapes(x, varies)
        if made is None:
            beside.append(x)
        else:
            shapes |= made
    return Behind(
        value=value, result=result, nodes=nodes, shapes=[node for node in graph if node in shapes], beside=beside
    )


def _reads(node: ir.Node) -> list[ir.Value]:
    return [x for x in (*node.inputs, *captures(node)) if x is not None]


def _ancestors(value: ir.Value) -> set[ir.Node]:
    found: set[ir.Node] = set()
    stack = [value]
    while stack:
        node = stack.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            stack += _reads(node)
    return found


def _of_shapes(value: ir.Value, varies: set[ir.Value]) -> set[ir.Node] | None:
    """The nodes that make ``value`` of shapes and constants alone; None where it takes more."""
    found: set[ir.Node] = set()
    stack = [value]
    while stack:
        x = stack.pop()
        node = x.producer()
        if x not in varies or node in found:
            continue
        if node is None:
            return None
        found.add(node)
        if node.op_type != "Shape" or node.domain:
            stack += _reads(node)
    return found


def _shape_of_rows(op: OpBuilder, node: ir.Node, images: ir.Value) -> ir.Value:
    """What the Shape ``node`` would give were there as many pictures as ``images``."""
    sizes = op.Concat(op.Shape(images), op.Shape(node.inputs[0], start=1), axis=0)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", 2**31)
    if (start, end) != (0, 2**31):
        sizes = op.Slice(sizes, [start], [end], [0])
    sizes.dtype = ir.DataType.INT64
    return sizes  # type: ignore[no-any-return]


def _is_alike(x: ir.Value, y: ir.Value) -> bool:
    """Whether each picture's ``x`` has the sizes of ``y``."""
    if x.shape is None or y.shape is None or not x.shape[1:]:
        return False
    return list(x.shape[1:]) == list(y.shape[1:])


def _normalised(value: ir.Value, nodes: Collection[ir.Node]) -> list[ir.Value]:
    """What layer normalisation among ``nodes`` makes of ``value``, by one operator or by its steps."""
    found = []
    for node in _readers(value, nodes):
        if node.op_type == "LayerNormalization" and node.inputs[0] is value:
            found.append(node.outputs[0])
        elif node.op_type == "Sub" and node.inputs[0] is value and _is_mean(node.inputs[1], value):
            divided = [after for after in _readers(node.outputs[0], nodes) if after.op_type == "Div"]
            found.extend(_scaled(after.outputs[0], nodes) for after in divided)
    return found


def _is_mean(x: ir.Value | None, of: ir.Value) -> bool:
    node = None if x is None else x.producer()
    return node is not None and node.op_type == "ReduceMean" and node.inputs[0] is of


def _scaled(value: ir.Value, nodes: Collection[ir.Node]) -> ir.Value:
    """What ``value`` times weights, plus weights is, where that follows."""
    for op_type in ("Mul", "Add"):
        after = _readers(value, nodes)
        if [node.op_type for node in after] == [op_type]:
            other = [x for x in after[0].inputs if x is not None and x is not value]
            value = after[0].outputs[0] if all(x.is_initializer() for x in other) else value
    return value


def _readers(value: ir.Value, nodes: Collection[ir.Node]) -> list[ir.Node]:
    return [node for node in value.consumers() if node in nodes]


def _copy(op: OpBuilder, node: ir.Node, values: dict[ir.Value, ir.Value]) -> None:
    """Append a copy of ``node`` that reads ``values`` in the place of their keys, and add what it makes to them."""
    graph = op.builder.graph
    prefix = f"{'.'.join(scopes(op))}.{graph.num_nodes()}"
    copy = ir.Node(
        node.domain,
        node.op_type,
        [x if x is None else values.get(x, x) for x in node.inputs],
        [_copied_attribute(attribute, values) for attribute in node.attributes.values()],
        overload=node.overload,
        num_outputs=len(node.outputs),
        name=f"{'/'.join(scopes(op))}/{node.name or node.op_type}",
    )
    for y, made in zip(node.outputs, copy.outputs, strict=True):
        made.name, made.type = f"{prefix}.{y.name}" if y.name else "", y.type
        values[y] = made
    graph.append(copy)


def _copied_attribute(attribute: ir.Attr, values: Mapping[ir.Value, ir.Value]) -> ir.Attr:
    if attribute.type != ir.AttributeType.GRAPH:
        return attribute
    body = attribute.as_graph().clone(allow_outer_scope_values=True)
    for inside in ir.traversal.RecursiveGraphIterator(body):
        for index, x in enumerate(inside.inputs):
            if x is not None and x in values:
                inside.replace_input_with(index, values[x])
        for inner in subgraphs(inside):
            _replace_outputs(inner, values)
    _replace_outputs(body, values)
    return ir.AttrGraph(attribute.name, body)


def _replace_outputs(body: ir.Graph, values: Mapping[ir.Value, ir.Value]) -> None:
    body.outputs[:] = [values.get(y, y) for y in body.outputs]


def _typed_as(x: ir.Value, y: ir.Value) -> ir.Value:
    y.type = x.type
    return y
