"""A last linear layer behind a feature map, and the classic CAM head."""

from __future__ import annotations

__all__ = ["Linear", "class_rows", "find_head", "last_linear"]

from dataclasses import dataclass

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.errors import MethodError
from onnxcam.exporter.layers import Target, behind_identity, is_weight
from onnxcam.exporter.layout import Layout
from onnxcam.exporter.scores.table import skip
from onnxcam.methods import Head


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A last linear layer ``x · W (+ b)``: the classes lie along ``class_axis`` of ``weight``.

    It may be a 1×1 convolution on one place; the other axes of ``weight`` are then those of ``x`` without the batch.
    """

    x: ir.Value
    weight: ir.Value
    class_axis: int
    alpha: float


def find_head(op: OpBuilder, score: ir.Value, classes: int, explained: ir.Value, target: Target) -> Head:
    """The classic CAM head between the target and the scores: pooling over its places, then one linear layer or none.

    Raises `MethodError` where something else lies between them.
    """
    linear = last_linear(score, classes)
    pooled = skip(linear.x if linear else score)
    pool = pooled.producer()
    if (
        pool is None
        or pool.inputs[0] is None
        or not _pools(pool, target.layout)
        or behind_identity(pool.inputs[0]) is not target.value
    ):
        between = "nothing" if pool is None else f"{pool.op_type} '{pool.name}'"
        raise MethodError(
            "'cam' needs global average pooling and at most one linear layer behind the feature map, and this model "
            f"has {between} there: take 'gradcam', which equals CAM where CAM exists"
        )
    return Head(weights=op.Flatten(class_rows(op, linear, explained)) if linear else None)


def last_linear(score: ir.Value, classes: int) -> Linear | None:
    """The linear layer that gives the scores, if its weights do not depend on the picture."""
    value = skip(score)
    if value.shape is None or list(value.shape[1:]) != [classes, *[1] * (len(value.shape) - 2)]:
        return None
    node = value.producer()
    if node is not None and node.op_type == "Add" and not node.domain:
        terms = [x for x in node.inputs if x is not None and not is_weight(x)]
        node = terms[0].producer() if len(terms) == 1 else None
        if node is None or node.op_type != "MatMul":
            return None
    if node is None or node.domain or node.op_type not in {"Gemm", "MatMul", "Conv"}:
        return None
    x, weight, *bias = node.inputs
    if x is None or weight is None or x.shape is None or weight.shape is None:
        return None
    if not all(is_weight(v) for v in (weight, *bias) if v is not None):
        return None
    attributes = node.attributes
    if node.op_type == "Conv":
        if len(x.shape) != 4 or list(weight.shape[1:]) != list(x.shape[1:]) or list(x.shape[2:]) != [1, 1]:
            return None  # several places, groups, or a larger kernel
        return Linear(x=x, weight=weight, class_axis=0, alpha=1.0)
    if len(x.shape) != 2 or len(weight.shape) != 2 or attributes.get_int("transA", False):
        return None
    return Linear(
        x=x,
        weight=weight,
        class_axis=0 if attributes.get_int("transB", 0) else 1,
        alpha=attributes.get_float("alpha", 1.0),
    )


def class_rows(op: OpBuilder, linear: Linear, explained: ir.Value) -> ir.Value:
    """dy^c/dx of the linear layer for each image's class: [N, features]."""
    rows: ir.Value = op.Gather(linear.weight, explained, axis=linear.class_axis)
    if linear.class_axis == 1:
        rows = op.Transpose(rows, perm=[1, 0])
    if linear.alpha != 1.0:
        rows = op.Mul(rows, linear.alpha)
    return rows


def _pools(node: ir.Node, layout: Layout) -> bool:
    """Whether ``node`` is global average pooling over all places of its input, and nothing but places."""
    x = node.inputs[0]
    if x is None or x.shape is None or layout.extra_tokens:
        return False
    if node.op_type == "ReduceMean":
        axes = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
        found = axes.numpy().tolist() if axes is not None else node.attributes.get_ints("axes", ())
        return sorted(axis % len(x.shape) for axis in found) == _PLACES[layout.kind]
    if layout.kind not in ("NCHW", "NCDHW"):
        return False
    if node.op_type == "AveragePool":
        return list(node.attributes.get_ints("kernel_shape", ())) == list(x.shape[2:])
    return node.op_type == "GlobalAveragePool"


_PLACES = {"NCHW": [2, 3], "NHWC": [1, 2], "NCDHW": [2, 3, 4], "tokens": [1]}
"""The axes of the places in each layout."""
