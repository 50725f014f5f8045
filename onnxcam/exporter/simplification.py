"""What the nodes of an explanation can do without: each pass keeps the values, up to rounding, and saves time.

Small models notice every node, and ONNX Runtime some shapes: what each pass saves is said beside it, of one thread of a
server's CPU.
"""

from __future__ import annotations

__all__ = ["casts_to_types", "ranked_constants", "simplify", "sums_as_products"]

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxcam.exporter.blocked import blocked_masks, blocked_sums
from onnxcam.exporter.padding import pad_late
from onnxcam.exporter.rewriting import constant, initializer, made_by, put_in_place
from onnxcam.exporter.spread import spread_late

_OF_TWO: Final = frozenset(
    {"Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Pow", "Sub"}
)


def simplify(graph: ir.Graph, forward: int) -> None:
    """Run every pass on the nodes that stand behind the first ``forward``."""
    casts_to_types(graph, list(graph)[forward:])
    pad_late(graph, list(graph)[forward:])
    spread_late(graph, list(graph)[forward:])
    sums_as_products(graph, list(graph)[forward:])
    ranked_constants(graph, list(graph)[forward:])
    nodes = list(graph)
    blocked_masks(graph, nodes[forward:], nodes[:forward])
    blocked_sums(graph, list(graph)[forward:])


def casts_to_types(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """A CastLike of which the type is known is a Cast, which reads what it casts alone.

    So the passes behind can take it elementwise: Grad-CAM++ of EfficientNet-lite0 casts 1280 numbers then, and not as
    many feature maps.
    """
    for node in nodes:
        type_ = node.outputs[0].dtype
        if node.op_type == "CastLike" and not node.domain and type_ is not None:
            cast = ir.node("Cast", node.inputs[:1], {"to": ir.AttrInt64("to", type_)})
            put_in_place(graph, node, [cast])


def sums_as_products(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """Σ_c v_c x_c of v [N, C, 1, 1]: the row v times the matrix x, where it was a row of ones times that of v · x.

    Saves a pass over the feature map: 0.05 ms for LayerCAM of EfficientNet-lite0, whose gradient is such a v.
    """
    for node in nodes:
        ones = constant(node.inputs[0]) if node.op_type == "MatMul" and not node.domain else None
        flat = None if ones is None or ones.ndim != 1 or (ones != 1).any() else made_by(node.inputs[1], "Reshape")
        product = None if flat is None else made_by(flat.inputs[0], "Mul")
        if ones is None or flat is None or product is None:
            continue
        for v, x in (product.inputs, product.inputs[::-1]):
            if v is None or x is None or v.shape is None or x.shape is None or len(x.shape) != 4:
                continue
            if list(v.shape[1:]) == [ones.size, 1, 1] and x.shape[1] == ones.size:
                size = initializer(graph, "explanation.one_row", np.array([0, 1, -1]))
                row, matrix = ir.node("Reshape", [v, size]), ir.node("Reshape", [x, flat.inputs[1]])
                total = ir.node("MatMul", [row.outputs[0], matrix.outputs[0]])
                only = ir.node("Squeeze", [total.outputs[0], initializer(graph, "explanation.the_row", np.array([1]))])
                put_in_place(graph, node, [row, matrix, total, only])
                break


def ranked_constants(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """Give single numbers the rank of what they meet, where that ends in axes of length 1.

    ONNX Runtime goes through [N, 1024, 1, 1] element by element to meet a scalar, in 20 µs where 1 would do.
    """
    for node in nodes:
        if node.op_type not in _OF_TWO or node.domain or len(node.inputs) != 2:
            continue
        for i, (number, other) in enumerate(zip(node.inputs, node.inputs[::-1], strict=True)):
            array = constant(number)
            if number is None or array is None or other is None or other.shape is None:
                continue
            rank = len(other.shape)
            if array.size == 1 and array.ndim < rank and rank > 1 and other.shape[-1] == 1:
                name = f"{number.name}_of_rank_{rank}"
                node.replace_input_with(i, initializer(graph, name, array.reshape([1] * rank)))
