"""Real feature maps for quantised models that have only integers."""

from __future__ import annotations

__all__ = ["dequantize_operators"]

import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxcam.autodiff.emitter import emitter
from onnxcam.autodiff.registry import Site, find_rule
from onnxcam.exporter.shapes import infer_shapes


def dequantize_operators(model: ir.Model) -> int:
    """Write each operator on quantised values as DequantizeLinear, the real operator, QuantizeLinear; give how many.

    A model of such operators (QLinearConv, QLinearAdd, QGemm …) has no real feature map to look at, and this form of
    it has one behind each. ONNX Runtime makes the same integer kernels of it when it loads. Values keep their names.

    Raises `AutodiffError` for an operator in a form that cannot be written so.
    """
    graph = model.graph
    found = [node for node in graph if node.op_type.startswith("QLinear") or node.op_type == "QGemm"]
    if not found:
        return 0
    infer_shapes(model)
    op = emitter(graph, "dequantized")
    written = 0
    for node in found:
        opset = graph.opset_imports.get(node.domain, 1)
        rule = find_rule(node, opset=opset, active=[])
        if isinstance(rule, str) or rule[0].build is None:
            continue
        (y,) = rule[0].build(Site(op, node, rule[1], ()))
        (old,) = node.outputs
        assert y is not None
        y.type, y.shape = old.type, old.shape
        name = old.name
        ir.convenience.replace_all_uses_with(old, y, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        y.name = name
        written += 1
    graph.sort()
    passes.CommonSubexpressionEliminationPass()(model)  # one real value for each quantised one, however often read
    infer_shapes(model)
    return written
