"""Reverse-mode differentiation of an ONNX graph, by an ONNX graph.

The driver knows no operator: it finds the nodes between the score and the targets, walks them backwards, adds
the adjoints up, and sums over broadcast axes once for all rules.
"""

from __future__ import annotations

__all__ = ["gradients"]

from collections.abc import Iterator, Sequence

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.autodiff import rules as _rules  # noqa: F401  registers every rule
from onnxcam.autodiff.emitter import emitter
from onnxcam.autodiff.registry import Rule, Site, describe, find_rule
from onnxcam.errors import AutodiffError, UnsupportedOperatorError

_FLOATING = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def gradients(
    model: ir.Model, *, of: ir.Value, wrt: Sequence[ir.Value], seed: ir.Value | None = None
) -> list[ir.Value]:
    """The gradients of ``of`` with respect to each value of ``wrt``, as new values of the model's graph.

    The nodes that compute them are appended to ``model.graph`` (standard operators only); the graph's outputs
    stay as they are. For an ``of`` that is no scalar, the result is the vector–Jacobian product ``seedᵀ J``.

    of: a floating-point value of the main graph.
    wrt: values of the main graph on the way to ``of``. Shapes must be inferred at least up to the rank.
    seed: the adjoint of ``of``, of its shape and type; ones where None.
    Returns one value for each of ``wrt``, of its shape and type.

    Raises `UnsupportedOperatorError` naming every node on the path that no rule covers, and `AutodiffError`
    where ``of`` does not depend on one of ``wrt``, or a rule does not apply to a node.

    ::

        model = onnx_ir.load("model.onnx")
        (gradient,) = gradients(model, of=model.graph.outputs[0], wrt=[model.graph.inputs[0]])
        model.graph.outputs.append(gradient)
    """
    path = _path(model.graph, of, wrt)
    plan = _plan(model.graph, path)
    op = emitter(model.graph, "gradient")
    adjoints = {of: seed if seed is not None else _ones_like(op, of)}
    for node, active, rule, version in plan:
        dys = [adjoints.get(y) for y in node.outputs]
        if all(dy is None for dy in dys):
            continue
        site = Site(op, node, version, active)
        for x, wanted, adjoint in zip(node.inputs, active, _per_input(rule, site, dys), strict=False):
            if x is None or not wanted or adjoint is None:
                continue
            dx = adjoint()
            if rule.broadcasts:
                dx = _sum_to(op, dx, x, node.outputs[0])
            if x in adjoints:
                dx = op.Add(adjoints[x], dx)
            dx.type, dx.shape = x.type, x.shape
            adjoints[x] = dx
    missing = [f"'{x.name}'" for x in wrt if x not in adjoints]
    if missing:
        raise AutodiffError(f"'{of.name}' does not depend on {', '.join(missing)} in a differentiable way")
    return [adjoints[x] for x in wrt]


def _path(graph: ir.Graph, of: ir.Value, wrt: Sequence[ir.Value]) -> list[tuple[ir.Node, tuple[bool, ...]]]:
    """The nodes that depend on ``wrt`` and lead to ``of``, in forward order, with the active inputs of each."""
    needed: set[ir.Node] = set()
    stack = [of]
    while stack:
        producer = stack.pop().producer()
        if producer is not None and producer not in needed:
            needed.add(producer)
            stack += _reads(producer)
    depends = set(wrt)
    path = []
    for node in graph:
        if node not in needed or not any(x in depends for x in _reads(node)):
            continue
        path.append((node, tuple(x is not None and x in depends for x in node.inputs)))
        depends.update(y for y in node.outputs if y.dtype is None or y.dtype in _FLOATING)
    if of not in depends:
        names = ", ".join(f"'{x.name}'" for x in wrt)
        raise AutodiffError(f"'{of.name}' does not depend on {names}: choose a layer on the way to the score")
    return path


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """The values a node reads: its inputs, and what its subgraphs capture."""
    yield from (x for x in node.inputs if x is not None)
    for attribute in node.attributes.values():
        bodies = {ir.AttributeType.GRAPH: [attribute.value], ir.AttributeType.GRAPHS: attribute.value}
        for body in bodies.get(attribute.type, ()):
            inner = list(ir.traversal.RecursiveGraphIterator(body))
            made = {y for n in inner for y in n.outputs} | set(body.inputs)
            yield from (x for n in inner for x in n.inputs if x is not None and x not in made)
            yield from (x for x in body.outputs if x not in made)


def _plan(
    graph: ir.Graph, path: list[tuple[ir.Node, tuple[bool, ...]]]
) -> list[tuple[ir.Node, tuple[bool, ...], Rule, int]]:
    """The path backwards with the rule of each node; every node without one is named in one error."""
    plan, refused = [], []
    for node, active in reversed(path):
        if not any(y.dtype is None or y.dtype in _FLOATING for y in node.outputs):
            continue
        found = find_rule(node, opset=graph.opset_imports.get(node.domain, 1), active=active)
        if isinstance(found, str):
            refused.append(f"{describe(node)} {found}")
        else:
            plan.append((node, active, *found))
    if refused:
        raise UnsupportedOperatorError(
            f"{len(refused)} node(s) between the layer and the score cannot be differentiated: "
            + "; ".join(reversed(refused))
            + ". Choose a layer behind them, or add a rule with onnxcam.autodiff.rule"
        )
    return plan


def _per_input(rule: Rule, site: Site, dys: list[ir.Value | None]) -> list[object]:
    """The rule's adjoint callables, laid out by input."""
    found = list(rule.vjp(site, *dys))
    if isinstance(rule.inputs, str):
        return found
    by_input: list[object] = [None] * len(site.node.inputs)
    for index, adjoint in zip(rule.inputs, found, strict=True):
        if index < len(by_input):
            by_input[index] = adjoint
    return by_input


def _ones_like(op: OpBuilder, value: ir.Value) -> ir.Value:
    ones = op.Expand(op.CastLike(1.0, value), op.Shape(value))
    ones.type, ones.shape = value.type, value.shape
    return ones


def _sum_to(op: OpBuilder, dx: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    """Sum ``dx``, of the shape of ``y``, over the axes along which ``x`` was broadcast to ``y``."""
    if x.shape is None or y.shape is None:
        raise AutodiffError(f"the rank of '{(x if x.shape is None else y).name}' is unknown: run shape inference first")
    lead = len(y.shape) - len(x.shape)
    if lead:
        dx = op.ReduceSum(dx, list(range(lead)), keepdims=0)
    pairs = list(zip(x.shape, y.shape[lead:], strict=True))
    if any(_may_broadcast(a, b) for a, b in pairs if not isinstance(a, int)):
        axes = op.Squeeze(op.NonZero(op.Equal(op.Shape(x), [1])), [0])
        return op.ReduceSum(dx, axes, keepdims=1, noop_with_empty_axes=1)
    axes = [i for i, (a, b) in enumerate(pairs) if _may_broadcast(a, b)]
    return op.ReduceSum(dx, axes, keepdims=1) if axes else dx


def _may_broadcast(x: int | ir.SymbolicDim, y: int | ir.SymbolicDim) -> bool:
    """Whether an axis of size ``x`` may have been stretched to size ``y``."""
    if isinstance(x, int):
        return x == 1 and y != 1
    return x.value is None or x != y
