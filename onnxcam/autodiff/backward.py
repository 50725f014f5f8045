"""Reverse-mode differentiation of an ONNX graph, by an ONNX graph.

The driver knows no operator: it finds the nodes between the score and the targets, walks them backwards, adds
the adjoints up, and sums over broadcast axes once for all rules.
"""

from __future__ import annotations

__all__ = ["gradients"]

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.autodiff import rules as _rules  # noqa: F401  registers every rule
from onnxcam.autodiff.emitter import emitter
from onnxcam.autodiff.expansion import function_body
from onnxcam.autodiff.registry import Site, describe, find_rule, has_adjoint, static_shape, sum_to
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
    graph = model.graph
    path = _path(graph, [of], wrt)
    if of not in wrt and not any(of in node.outputs for node, _ in path):
        names = ", ".join(f"'{x.name}'" for x in wrt)
        raise AutodiffError(f"'{of.name}' does not depend on {names}: choose a layer on the way to the score")
    if seed is not None:
        _check_seed(seed, of)
    before = len(graph), set(graph.initializers)
    op = emitter(graph, "gradient")
    adjoints = {of: _ones_like(op, of) if seed is None else seed}
    refused = _Walk(op, model).back(path, adjoints)
    if refused:
        _discard(graph, *before)
        raise UnsupportedOperatorError(
            f"{len(refused)} node(s) between the layer and the score cannot be differentiated: "
            + "; ".join(reversed(refused))
            + ". Choose a layer behind them, or add a rule with onnxcam.autodiff.rule"
        )
    if missing := [f"'{x.name}'" for x in wrt if x not in adjoints]:
        _discard(graph, *before)
        raise AutodiffError(f"'{of.name}' does not depend on {', '.join(missing)} in a differentiable way")
    found = _distinct(op, [adjoints[x] for x in wrt], seed)
    _drop_unread(graph, before[0], {of, *found})
    return found


def _path(graph: ir.Graph, of: Sequence[ir.Value], wrt: Sequence[ir.Value]) -> list[tuple[ir.Node, tuple[bool, ...]]]:
    """The nodes that depend on ``wrt`` and lead to one of ``of``, in forward order, with the active inputs of each."""
    needed: set[ir.Node] = set()
    stack = list(of)
    while stack:
        producer = stack.pop().producer()
        if producer is not None and producer not in needed:
            needed.add(producer)
            stack += _reads(producer)
    depends = set(wrt)
    path = []
    for node in graph:
        if node not in needed or not has_adjoint(node) or not any(x in depends for x in _reads(node)):
            continue
        path.append((node, tuple(x is not None and x in depends for x in node.inputs)))
        depends.update(y for y in node.outputs if y.dtype is None or y.dtype in _FLOATING)
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


@dataclass(frozen=True, slots=True)
class _Walk:
    """The way back over the nodes of one graph. ``op`` emits the adjoints."""

    op: OpBuilder
    model: ir.Model

    def back(self, path: Sequence[tuple[ir.Node, tuple[bool, ...]]], adjoints: dict[ir.Value, ir.Value]) -> list[str]:
        """Complete ``adjoints``, which holds those at the end of ``path``; gives what is refused, last first."""
        refused: list[str] = []
        for node, active in reversed(path):
            dys = [adjoints.get(y) for y in node.outputs]
            if all(dy is None for dy in dys):
                continue
            try:
                dxs = self._differentiate(node, active, dys)
            except AutodiffError as error:  # stand-ins let the nodes before this one be looked at as well
                refused.append(str(error))
                dxs = [(x, ir.Value(type=x.type, shape=x.shape)) for x in _wanted(node, active)]
            for x, dx in dxs:
                adjoints[x] = _typed_as(x, self.op.Add(adjoints[x], dx)) if x in adjoints else dx
        return refused

    def pull_back(self, dys: Mapping[ir.Value, ir.Value], xs: Sequence[ir.Value]) -> Mapping[ir.Value, ir.Value]:
        """The adjoints of ``xs`` given those of values that depend on them: see `Site.pull_back`."""
        adjoints = dict(dys)
        if refused := self.back(_path(self.op.builder.graph, list(dys), xs), adjoints):
            raise AutodiffError("; ".join(reversed(refused)))
        return {x: adjoints[x] for x in xs if x in adjoints}

    def _differentiate(
        self, node: ir.Node, active: tuple[bool, ...], dys: list[ir.Value | None]
    ) -> list[tuple[ir.Value, ir.Value]]:
        """The active inputs of ``node`` with what it adds to the adjoint of each."""
        opset = self.model.graph.opset_imports.get(node.domain, 1)
        found = find_rule(node, opset=opset, active=active)
        if isinstance(found, str):
            body = function_body(node, self.model)
            if body is None:
                raise AutodiffError(f"{describe(node)} {found}")
            found = body, opset
        rule, version = found
        dxs = []
        at = Site(self.op, node, version, active, self.pull_back)
        by_rule = rule.vjp(at, *dys)
        covered = range(len(node.inputs)) if isinstance(rule.inputs, str) else rule.inputs
        for index, adjoint in zip(covered, by_rule, strict=True):
            x = node.inputs[index] if index < len(active) and active[index] else None
            if x is None or adjoint is None:
                continue
            dx = adjoint()
            if rule.broadcasts:
                dx = sum_to(at, dx, x, node.outputs[0])
            dxs.append((x, dx if dx in dys else _typed_as(x, dx)))
        return dxs


def _wanted(node: ir.Node, active: tuple[bool, ...]) -> list[ir.Value]:
    """The active inputs of ``node``."""
    return [x for x, wanted in zip(node.inputs, active, strict=True) if wanted and x is not None]


def _typed_as(x: ir.Value, dx: ir.Value) -> ir.Value:
    """``dx`` with the type and shape of its primal ``x``."""
    dx.type, dx.shape = x.type, x.shape
    return dx


def _check_seed(seed: ir.Value, of: ir.Value) -> None:
    """Refuse a seed that cannot be the adjoint of ``of``."""
    same_type = seed.dtype is None or of.dtype is None or seed.dtype == of.dtype
    same_rank = seed.shape is None or of.shape is None or len(seed.shape) == len(of.shape)
    if not (same_type and same_rank):
        raise AutodiffError(
            f"the seed '{seed.name}' ({seed.dtype}, {seed.shape}) must have the type and shape "
            f"of '{of.name}' ({of.dtype}, {of.shape})"
        )


def _distinct(op: OpBuilder, values: list[ir.Value], seed: ir.Value | None) -> list[ir.Value]:
    """``values``, with copies where one stands twice or is the seed: each can be named and made an output."""
    seen = {seed}
    found = []
    for value in values:
        found.append(_typed_as(value, op.Identity(value)) if value in seen else value)
        seen.add(value)
    return found


def _discard(graph: ir.Graph, nodes: int, initializers: set[str]) -> None:
    """Take back what was appended behind the first ``nodes`` nodes and besides ``initializers``."""
    graph.remove(list(graph)[nodes:], safe=True)
    for name in set(graph.initializers) - initializers:
        del graph.initializers[name]


def _drop_unread(graph: ir.Graph, nodes: int, kept: Collection[ir.Value]) -> None:
    """Take back those behind the first ``nodes`` nodes that nothing reads."""
    for node in list(graph)[: nodes - 1 if nodes else None : -1]:
        if not any(y.uses() or y in kept or y.is_graph_output() for y in node.outputs):
            graph.remove(node, safe=True)


def _ones_like(op: OpBuilder, value: ir.Value) -> ir.Value:
    """Ones of the type and shape of ``value``."""
    one = op.CastLike(1.0, value)
    if static_shape(value) == []:
        return _typed_as(value, one)
    return _typed_as(value, op.Expand(one, static_shape(value) or op.Shape(value)))
