"""Graphs inside nodes: what they capture, and copies of them to build on."""

from __future__ import annotations

__all__ = ["captures", "close", "copied", "discard", "prune", "remove", "scan", "several", "subgraphs"]

from collections.abc import Callable, Iterable, Iterator, Sequence

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.autodiff.emitter import nested, scopes


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """The graphs that ``node`` has as attributes."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def captures(node: ir.Node) -> list[ir.Value]:
    """The values of outer graphs that the subgraphs of ``node`` read, each once."""
    if not (bodies := subgraphs(node)):
        return []
    inner = [inside for inside in _nested_nodes(node) if inside is not node]
    graphs = [*bodies, *(graph for inside in inner for graph in subgraphs(inside))]
    read = [x for inside in inner for x in inside.inputs] + [y for graph in graphs for y in graph.outputs]
    return list(dict.fromkeys(x for x in read if x is not None and x.graph not in graphs))


def copied(op: OpBuilder, body: ir.Graph, scope: str) -> OpBuilder:
    """A builder that appends to a copy of ``body``, to be an attribute of the node that ``op`` emits next.

    The copy keeps the names of ``body``, which errors state, until `close` makes them names of its own.
    """
    graph = body.clone(allow_outer_scope_values=True)
    graph.opset_imports.update(op.builder.graph.opset_imports)
    return nested(op, graph, scope)


def close(op: OpBuilder, forward: Iterable[ir.Node], outputs: Sequence[ir.Value]) -> ir.Graph:
    """The graph that ``op`` appends to, with ``outputs``, and without the nodes that they do not need.

    forward: the nodes that were copied: they and what they make are named after ``op`` and their old name.
    """
    graph = op.builder.graph
    graph.name = ".".join(scopes(op))
    prefix = f"v_{graph.name}.body."
    copies = [inside for node in forward for inside in _nested_nodes(node)]
    graphs = [graph, *(body for node in copies for body in subgraphs(node))]
    for node in copies:
        node.name = f"{'/'.join(scopes(op))}/body/{node.name or node.outputs[0].name}"
    for value in [x for body in graphs for x in (*body.inputs, *body.initializers.values())]:
        value.name = f"{prefix}{value.name}"
    for value in [y for node in copies for y in node.outputs if y.name]:
        value.name = f"{prefix}{value.name}"
    own: list[ir.Value] = []
    for value in outputs:  # each is made in this graph, and stands once
        plain = value.producer() is not None and value.graph is graph and value not in own
        own.append(value if plain else _copy(op, value))
    graph.outputs[:] = own
    prune(graph)
    return graph


def scan(
    op: OpBuilder,
    step: Callable[[OpBuilder, Sequence[ir.Value], Sequence[ir.Value]], tuple[Sequence[ir.Value], Sequence[ir.Value]]],
    states: Sequence[ir.Value],
    elements: Sequence[ir.Value],
) -> Sequence[ir.Value]:
    """The last states, then the stacked results, of ``step`` along the first axis of ``elements``, by a Scan.

    step: from the states and one element of each of ``elements`` to the next states and what is stacked.
    """
    xs = [ir.Value(name=f"state_{i}", type=x.type, shape=x.shape) for i, x in enumerate(states)]
    for i, x in enumerate(elements):
        xs.append(ir.Value(name=f"element_{i}", type=x.type, shape=None if x.shape is None else ir.Shape(x.shape[1:])))
    graph = ir.Graph(xs, [], nodes=[], opset_imports=op.builder.graph.opset_imports)
    inner = nested(op, graph, "step")
    following, stacked = step(inner, xs[: len(states)], xs[len(states) :])
    body = close(inner, (), [*following, *stacked])
    return several(op.Scan(*states, *elements, body=body, num_scan_inputs=len(elements), _outputs=len(graph.outputs)))


def several(found: ir.Value | Sequence[ir.Value]) -> Sequence[ir.Value]:
    """The outputs of a node, which a builder gives bare where there is one."""
    return [found] if isinstance(found, ir.Value) else found


def _nested_nodes(node: ir.Node) -> Iterator[ir.Node]:
    """``node`` and the nodes of its subgraphs."""
    yield node
    for body in subgraphs(node):
        yield from ir.traversal.RecursiveGraphIterator(body)


def _copy(op: OpBuilder, value: ir.Value) -> ir.Value:
    copy: ir.Value = op.Identity(value)
    copy.type, copy.shape = value.type, value.shape
    return copy


def prune(graph: ir.Graph) -> None:
    """Take away every node of ``graph`` that its outputs do not need; what only their subgraphs read goes too."""
    for node in reversed(graph):
        if not any(y.uses() or y.is_graph_output() for y in node.outputs):
            remove(graph, [node])


def discard(graph: ir.Graph) -> None:
    """Empty ``graph``: what it reads forgets it."""
    graph.outputs.clear()
    remove(graph, graph)


def remove(graph: ir.Graph, nodes: Iterable[ir.Node]) -> None:
    """Take ``nodes``, which no other node reads, out of ``graph``; what they and their subgraphs read forgets them."""
    nodes = list(nodes)
    for node in nodes:
        for body in subgraphs(node):
            discard(body)
    graph.remove(nodes, safe=True)
