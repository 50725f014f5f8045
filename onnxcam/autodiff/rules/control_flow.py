"""Rules of operators that run subgraphs: If, Scan and Loop.

What a subgraph computes cannot be read outside it. So the adjoint has a subgraph of its own: a copy of the forward
one, with the way back through it appended. The forward node stays as it is.
"""

from __future__ import annotations

__all__: list[str] = []

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.autodiff.backward import RefusedError, pull_back
from onnxcam.autodiff.registry import ALL, Adjoint, Site, describe, rule
from onnxcam.autodiff.rules.movement import zeros
from onnxcam.autodiff.subgraphs import close, copied, discard, several


@rule("If", versions=(13, 16, 19, 21, 23, 24, 25), inputs=ALL)
def if_(at: Site, *dys: ir.Value | None) -> Sequence[Adjoint | None]:
    """``If(condition, dx of then_branch, dx of else_branch)``; a branch that does not read x has zeros for it."""
    wanted = [x for x, active in zip(at.captured, at.active[1:], strict=True) if active]

    def way_back(branch: Site, graph: ir.Graph) -> list[ir.Value]:
        dxs = pull_back(branch.op, list(graph), _seeds(branch.op, graph.outputs, dys), wanted)
        return [dxs[x] if x in dxs else _zeros(branch, x) for x in wanted]

    @functools.cache
    def dxs() -> Mapping[ir.Value, ir.Value]:
        branches = _rebuilt(at, ("then_branch", "else_branch"), way_back)
        found = at.op.If(at.input(0), **branches, _outputs=len(wanted))
        return dict(zip(wanted, several(found), strict=True))

    return [None, *(functools.partial(lambda x: dxs()[x], x) for x in at.captured)]


def _rebuilt(
    at: Site, names: Sequence[str], outputs: Callable[[Site, ir.Graph], Sequence[ir.Value]]
) -> dict[str, ir.Graph]:
    """Copies of the node's subgraphs ``names``, each with what ``outputs`` emits into it as its outputs."""
    graphs: dict[str, ir.Graph] = {}
    reasons: list[str] = []
    for name in names:
        inner = copied(at.op, at.node.attributes[name].as_graph(), name)
        graph = inner.builder.graph
        forward = list(graph)
        try:
            made = outputs(dataclasses.replace(at, op=inner), graph)
        except RefusedError as refused:
            discard(graph)
            reasons += [f"{reason} (in {name} of {describe(at.node)})" for reason in refused.reasons]
        else:
            graphs[name] = close(inner, forward, made)
    if reasons:
        for graph in graphs.values():
            discard(graph)
        raise RefusedError(reasons)
    return graphs


def _seeds(op: OpBuilder, outputs: Sequence[ir.Value], dys: Sequence[ir.Value | None]) -> dict[ir.Value, ir.Value]:
    """The adjoints of a subgraph's outputs, added up where one value is several of them."""
    seeds: dict[ir.Value, ir.Value] = {}
    for y, dy in zip(outputs, dys, strict=True):
        if dy is not None:
            seeds[y] = op.Add(seeds[y], dy) if y in seeds else dy
    return seeds


def _zeros(at: Site, like: ir.Value) -> ir.Value:
    """Zeros of the type and shape of ``like``, also as far as known when the graph is built."""
    made = zeros(at, like)
    made.type, made.shape = like.type, like.shape
    return made
