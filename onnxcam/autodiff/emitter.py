"""Appending nodes to a graph under names that nothing else in it has."""

from __future__ import annotations

__all__ = ["emitter"]

import itertools

import onnx_ir as ir
from onnxscript import GraphBuilder, OpBuilder


def emitter(graph: ir.Graph, scope: str) -> OpBuilder:
    """An operator builder that appends to ``graph``; node, value and constant names start with ``scope``.

    Where an earlier emitter has used ``scope``, the next free one of ``scope_2``, ``scope_3``, … is taken.
    """
    taken = {str(node.name).partition("/")[0] for node in graph}
    scopes = itertools.chain([scope], (f"{scope}_{count}" for count in itertools.count(2)))
    free = next(name for name in scopes if name not in taken)
    builder = _ScopedBuilder(graph)
    builder.push_module(free)
    return builder.op


class _ScopedBuilder(GraphBuilder):
    """A builder whose constants bear its scope too, so that two of them can work on one graph."""

    def initializer(self, tensor: ir.TensorProtocol, name: str | None = None, *, qualify: bool = True) -> ir.Value:
        return super().initializer(tensor, name, qualify=True)
