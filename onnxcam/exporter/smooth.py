"""A graph of which finite differences can be taken: in float32, without the steps of quantisation."""

from __future__ import annotations

__all__ = ["smooth"]

from typing import Final

import numpy as np
import onnx_ir as ir

_HALF: Final = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_WIDE: Final = ir.DataType.FLOAT


def smooth(model: ir.Model) -> None:
    """Widen half precision to float32, in place, and let quantised values keep their fractions.

    QuantizeLinear only clips then, and what it gives stays a floating-point number of steps.
    """
    _widen(model.graph)


def _widen(graph: ir.Graph) -> None:
    for value in graph.initializers.values():
        if value.dtype in _HALF and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.dtype = _WIDE
    for value in (*graph.inputs, *(y for node in graph.all_nodes() for y in node.outputs)):
        if value.dtype in _HALF:
            value.dtype = _WIDE
    for node in graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.INT and name in ("to", "dtype") and attribute.value in _HALF:
                node.attributes[name] = ir.AttrInt64(name, int(_WIDE))
            elif attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in _HALF:
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(attribute.value.numpy().astype(np.float32)))
