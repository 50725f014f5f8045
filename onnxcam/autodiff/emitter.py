"""Appending nodes to a graph under names that nothing else in it has."""

from __future__ import annotations

__all__ = ["emitter", "exchange", "functions", "nested", "scopes"]

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnxscript import GraphBuilder, OpBuilder

if TYPE_CHECKING:
    from onnxcam.autodiff.registry import Exchange

Functions = Mapping[ir.OperatorIdentifier, ir.Function]


def emitter(
    graph: ir.Graph, scope: str, functions: Functions | None = None, exchange: Exchange | None = None
) -> OpBuilder:
    """An operator builder that appends to ``graph``; node, value and constant names start with ``scope``.

    functions, exchange: the model's own functions and the exchange of rules, which the functions of these names give to
        whoever has the builder.
    Where an earlier emitter has used ``scope``, the next free one of ``scope_2``, ``scope_3``, … is taken.
    """
    taken = {str(node.name).partition("/")[0] for node in graph}
    names = itertools.chain([scope], (f"{scope}_{count}" for count in itertools.count(2)))
    free = next(name for name in names if name not in taken)
    return _ScopedBuilder(graph, [free], functions or {}, exchange).op


def nested(op: OpBuilder, graph: ir.Graph, scope: str) -> OpBuilder:
    """An operator builder that appends to ``graph``, which is to be a subgraph of the node that ``op`` emits next.

    Its names start with those of ``op`` and ``scope``; its constants stand in the main graph.
    """
    outer = op.builder
    names = [*scopes(op), f"{scope}_{outer.graph.num_nodes()}"]
    return _ScopedBuilder(graph, names, functions(op), exchange(op), outer).op


def functions(op: OpBuilder) -> Functions:
    """The functions of the model that ``op`` builds on."""
    assert isinstance(op.builder, _ScopedBuilder)
    return op.builder.local


def exchange(op: OpBuilder) -> Exchange | None:
    """What exchanges rules while ``op`` differentiates."""
    assert isinstance(op.builder, _ScopedBuilder)
    return op.builder.exchange


def scopes(op: OpBuilder) -> list[str]:
    """What the names that ``op`` gives start with, from the main graph inwards."""
    assert isinstance(op.builder, _ScopedBuilder)
    return op.builder.scopes


class _ScopedBuilder(GraphBuilder):
    """A builder whose constants bear its scope too, so that two of them can work on one graph."""

    def __init__(
        self,
        graph: ir.Graph,
        scopes: Sequence[str],
        local: Functions,
        exchange: Exchange | None = None,
        parent: GraphBuilder | None = None,
    ) -> None:
        super().__init__(graph, parent=parent)
        self.local = local
        self.exchange = exchange
        self.scopes = list(scopes)
        for scope in scopes:
            self.push_module(scope)

    def initializer(self, tensor: ir.TensorProtocol, name: str | None = None, *, qualify: bool = True) -> ir.Value:
        return super().initializer(tensor, name, qualify=True)
