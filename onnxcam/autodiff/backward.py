"""Reverse-mode differentiation of an ONNX graph, by an ONNX graph.

The driver knows no operator: it finds the nodes between the score and the targets, walks them backwards, adds
the adjoints up, and sums over broadcast axes once for all rules.
"""

from __future__ import annotations

__all__ = ["RefusedError", "gradients", "pull_back"]

from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.autodiff.emitter import emitter, exchange, functions
from onnxcam.autodiff.expansion import function_body
from onnxcam.autodiff.registry import (
    Exchange,
    Rule,
    Site,
    describe,
    find_rule,
    has_adjoint,
    quantizes,
    static_shape,
    sum_to,
)
from onnxcam.autodiff.subgraphs import captures, remove
from onnxcam.autodiff.weights import write_out_weights
from onnxcam.errors import AutodiffError, IndependentError, UnsupportedOperatorError

_FLOATING = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def gradients(
    model: ir.Model,
    *,
    of: ir.Value,
    wrt: Sequence[ir.Value],
    seed: ir.Value | None = None,
    exchange: Exchange | None = None,
) -> list[ir.Value]:
    """The gradients of ``of`` with respect to each value of ``wrt``, as new values of the model's graph.

    The nodes that compute them are appended to ``model.graph`` (standard operators only); the graph's outputs
    stay as they are. For an ``of`` that is no scalar, the result is the vector–Jacobian product ``seedᵀ J``.

    of: a floating-point value of the main graph.
    wrt: values of the main graph on the way to ``of``. Shapes must be inferred at least up to the rank.
    seed: the adjoint of ``of``, of its shape and type; ones where None.
    exchange: called with the site and the rule of each node on the way, gives the rule to take in its place, or None to
        leave it: what comes out are then no gradients, but what such rules make of the adjoints
        (`onnxcam.autodiff.Rectifiers`).
    Returns one value for each of ``wrt``, of its shape and type.

    Raises `UnsupportedOperatorError` naming every node on the path that no rule covers, `IndependentError` where ``of``
    does not depend on one of ``wrt``, and `AutodiffError` where a rule does not apply to a node.

    ::

        model = onnx_ir.load("model.onnx")
        (gradient,) = gradients(model, of=model.graph.outputs[0], wrt=[model.graph.inputs[0]])
        model.graph.outputs.append(gradient)
    """
    graph = model.graph
    path, depends = _path(graph, [of], wrt)
    if of not in depends:
        names = ", ".join(f"'{x.name}'" for x in wrt)
        raise IndependentError(f"'{of.name}' does not depend on {names}: choose a layer on the way to the score")
    if seed is not None:
        _check_seed(seed, of)
    before = len(graph), set(graph.initializers)
    op = emitter(graph, "gradient", model.functions, exchange)
    try:
        adjoints = _walk(op, path, {of: _ones_like(op, of) if seed is None else seed})
    except RefusedError as refused:
        _discard(graph, *before)
        raise UnsupportedOperatorError(
            f"{len(refused.reasons)} node(s) between the layer and the score cannot be differentiated: "
            + "; ".join(refused.reasons)
            + ". Choose a layer behind them, or add a rule with onnxcam.autodiff.rule"
        ) from None
    if missing := [f"'{x.name}'" for x in wrt if x not in adjoints]:
        _discard(graph, *before)
        raise IndependentError(f"'{of.name}' does not depend on {', '.join(missing)} in a differentiable way")
    found = _distinct(op, [adjoints[x] for x in wrt], seed)
    write_out_weights(op, behind=before[0])
    _drop_unread(graph, before[0], {of, *found})
    return found


def pull_back(
    op: OpBuilder, nodes: Sequence[ir.Node], seeds: Mapping[ir.Value, ir.Value], wrt: Sequence[ir.Value]
) -> dict[ir.Value, ir.Value]:
    """Adjoints by value, from those of some values, ``seeds``, back through ``nodes`` to ``wrt``.

    A value that the seeds do not depend on is not among them. Raises `RefusedError`, which names every node in the way.
    """
    path, _ = _path(nodes, seeds, wrt)
    return _walk(op, path, seeds)


class RefusedError(AutodiffError):
    """Nodes that cannot be differentiated: ``reasons`` has a sentence for each, in forward order."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


_Path = list[tuple[ir.Node, tuple[bool, ...]]]
"""Nodes in forward order, with the active operands of each."""


def _path(nodes: Iterable[ir.Node], of: Collection[ir.Value], wrt: Sequence[ir.Value]) -> tuple[_Path, set[ir.Value]]:
    """The nodes that depend on ``wrt`` and lead to ``of``, and all values that depend on ``wrt``."""
    within, needed = set(nodes), set[ir.Node]()
    stack = list(of)
    while stack:
        producer = stack.pop().producer()
        if producer in within and producer not in needed:
            needed.add(producer)
            stack += (x for x in _operands(producer) if x is not None)
    depends = set(wrt)
    path = []
    for node in nodes:
        reads = _operands(node) if node in needed and has_adjoint(node) else ()
        active = tuple(x is not None and x in depends and has_adjoint(node, i) for i, x in enumerate(reads))
        if any(active):
            path.append((node, active))
            moved = {x.dtype for x in reads if x is not None and x in depends}
            depends.update(y for y in node.outputs if y.dtype is None or y.dtype in _FLOATING or y.dtype in moved)
            if quantizes(node):
                depends.add(node.outputs[0])
    return path, depends


def _walk(op: OpBuilder, path: _Path, seeds: Mapping[ir.Value, ir.Value]) -> dict[ir.Value, ir.Value]:
    """The adjoints of all values along ``path``, from those of some, ``seeds``."""
    adjoints = dict(seeds)
    refused: list[str] = []
    for node, active in reversed(path):
        dys = [adjoints.get(y) for y in node.outputs]
        if all(dy is None for dy in dys):
            continue
        try:
            dxs = _differentiate(op, node, active, dys)
        except AutodiffError as error:  # stand-ins let the nodes before this one be looked at as well
            refused += reversed(error.reasons if isinstance(error, RefusedError) else [str(error)])
            dxs = [(x, ir.Value(type=x.type, shape=x.shape)) for x in _wanted(node, active)]
        for x, dx in dxs:
            adjoints[x] = _typed_as(x, op.Add(adjoints[x], dx)) if x in adjoints else dx
    if refused:
        raise RefusedError(refused[::-1])
    return adjoints


def _operands(node: ir.Node) -> Sequence[ir.Value | None]:
    """The values a node reads: its inputs, and then what its subgraphs capture."""
    captured = captures(node)
    return [*node.inputs, *captured] if captured else node.inputs


def _differentiate(
    op: OpBuilder, node: ir.Node, active: tuple[bool, ...], dys: list[ir.Value | None]
) -> list[tuple[ir.Value, ir.Value]]:
    """The active operands of ``node`` with what it adds to the adjoint of each."""
    opsets = op.builder.graph.opset_imports
    found = find_rule(node, opset=opsets.get(node.domain, 1), active=active)
    if isinstance(found, str):
        body = function_body(node, functions(op), opsets)
        if body is None:
            raise AutodiffError(f"{describe(node)} {found}")
        found = body, opsets.get(node.domain, 1)
    rule, version = found
    at = Site(op, node, version, active)
    other = exchange(op)
    rule = (other(at, rule) if other is not None else None) or rule
    if rule.vjp is None:
        return _through_body(rule, at, dys)
    dxs = []
    by_rule = rule.vjp(at, *dys)
    operands = _operands(node)
    covered = range(len(operands)) if isinstance(rule.inputs, str) else rule.inputs
    for index, adjoint in zip(covered, by_rule, strict=True):
        x = operands[index] if index < len(active) and active[index] else None
        if x is None or adjoint is None:
            continue
        dx = adjoint()
        if rule.broadcasts:
            dx = sum_to(at, dx, x, node.outputs[0])
        dxs.append((x, dx if dx in dys else _typed_as(x, dx)))
    return dxs


def _through_body(rule: Rule, at: Site, dys: list[ir.Value | None]) -> list[tuple[ir.Value, ir.Value]]:
    """The derivative of the operators that a rule emits in place of the node's.

    The node stays as it is: what its adjoints read of the body's results, they read of the node's own, and of the body
    only the values inside are left.
    """
    assert rule.build is not None
    graph = at.op.builder.graph
    before = len(graph)
    ys = rule.build(at)
    body = list(graph)[before:]
    seeds = {y: dy for y, dy in zip(ys, dys, strict=True) if y is not None and dy is not None}
    wanted = list(dict.fromkeys(_wanted(at.node, at.active)))
    dxs = pull_back(at.op, body, seeds, wanted)
    for y, forward in zip(ys, at.y, strict=True):
        if y is not None and y.producer() in body and y.dtype == forward.dtype:
            ir.convenience.replace_all_uses_with(y, forward)
    return [(x, dxs[x]) for x in wanted if x in dxs]


def _wanted(node: ir.Node, active: tuple[bool, ...]) -> list[ir.Value]:
    """The active operands of ``node``."""
    return [x for x, wanted in zip(_operands(node), active, strict=True) if wanted and x is not None]


def _typed_as(x: ir.Value, dx: ir.Value) -> ir.Value:
    """``dx`` with the shape of its primal ``x`` and the type, unless ``x`` is quantised: its adjoint is floating."""
    dx.shape = x.shape
    if x.dtype is None or x.dtype in _FLOATING:
        dx.type = x.type
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
    remove(graph, list(graph)[nodes:])
    for name in set(graph.initializers) - initializers:
        del graph.initializers[name]


def _drop_unread(graph: ir.Graph, nodes: int, kept: Collection[ir.Value]) -> None:
    """Take back those behind the first ``nodes`` nodes that nothing reads."""
    for node in list(graph)[: nodes - 1 if nodes else None : -1]:
        if not any(y.uses() or y in kept or y.is_graph_output() for y in node.outputs):
            remove(graph, [node])


def _ones_like(op: OpBuilder, value: ir.Value) -> ir.Value:
    """Ones of the type and shape of ``value``."""
    one = op.CastLike(1.0, value)
    if static_shape(value) == []:
        return _typed_as(value, one)
    return _typed_as(value, op.Expand(one, static_shape(value) or op.Shape(value)))
