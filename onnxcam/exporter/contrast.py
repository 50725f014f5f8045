"""Scores that set a class apart from others: where their differentiation starts."""

from __future__ import annotations

__all__ = ["contrast_seed", "finer_seed", "other_class"]

from typing import Final

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.contract import AGAINST_INDEX, DEFAULT_AGAINST_INDEX
from onnxcam.errors import ExportError
from onnxcam.exporter.score import ClassScore, Seed, class_input, class_table, seed

_FAR: Final = 1e30
_COMPARED: Final = 3
"""As many classes Finer-CAM compares with."""


def other_class(op: OpBuilder, score: ClassScore, explained: ir.Value) -> ir.Value:
    """Add the optional input `AGAINST_INDEX` and resolve it: int64 [N], ranks among the classes but ``explained``."""
    _refuse_alone(score)
    others = op.Sub(_wide(op, score), op.Mul(_marked(op, score, explained), _FAR))
    return class_input(op, AGAINST_INDEX, DEFAULT_AGAINST_INDEX, others, score)


def contrast_seed(op: OpBuilder, score: ClassScore, explained: ir.Value, other: ir.Value) -> Seed:
    """The adjoint of y_c - y_d."""
    one, two = seed(op, score, explained), seed(op, score, other)
    return Seed(value=one.value, adjoint=_as(one.adjoint, op.Sub(one.adjoint, two.adjoint)))


def finer_seed(op: OpBuilder, score: ClassScore, explained: ir.Value) -> Seed:
    """The adjoint of y_c - ȳ, ȳ = Σ_d p_d y_d / Σ_d p_d over the classes d whose scores are nearest to y_c.

    p_d / Σ p = w_d is a softmax over the few, and it is differentiated as well: dȳ/dy_d = w_d (1 + y_d - ȳ).
    """
    _refuse_alone(score)
    table = _wide(op, score)
    count = min(_COMPARED, score.classes - 1)
    own = op.GatherElements(table, op.Unsqueeze(explained, [1]), axis=1)
    distance = op.Add(op.Abs(op.Sub(table, own)), op.Mul(_marked(op, score, explained), _FAR))
    _, nearest = op.TopK(distance, [count], largest=0, _outputs=2)
    y = op.GatherElements(table, nearest, axis=1)
    weights = op.Softmax(y, axis=1)
    mean = op.ReduceSum(op.Mul(weights, y), [1], keepdims=1)
    slopes = op.Mul(weights, op.Add(1.0, op.Sub(y, mean)))
    start = seed(op, score, explained)
    adjoint = start.adjoint
    rank = 2 if adjoint.shape is None else len(adjoint.shape)
    for k in range(count):
        compared = op.Squeeze(op.Slice(nearest, [k], [k + 1], [1]), [1])
        compared.dtype, compared.shape = explained.dtype, explained.shape
        slope = op.Slice(slopes, [k], [k + 1], [1])
        if rank > 2:
            slope = op.Unsqueeze(slope, list(range(2, rank)))
        term = op.Mul(op.CastLike(slope, start.adjoint), seed(op, score, compared).adjoint)
        adjoint = _as(start.adjoint, op.Sub(adjoint, term))
    return Seed(value=start.value, adjoint=adjoint)


def _refuse_alone(score: ClassScore) -> None:
    if score.classes < 2:
        raise ExportError("the model has one class only, and none to set it apart from: explain 'class' instead")


def _wide(op: OpBuilder, score: ClassScore) -> ir.Value:
    """The scores [N, classes] in float32."""
    wide: ir.Value = op.Cast(class_table(op, score), to=ir.DataType.FLOAT)
    return wide


def _marked(op: OpBuilder, score: ClassScore, explained: ir.Value) -> ir.Value:
    """1 at the explained class of each image, [N, classes]."""
    marked: ir.Value = op.Cast(op.OneHot(explained, [score.classes], [0.0, 1.0], axis=-1), to=ir.DataType.FLOAT)
    return marked


def _as(x: ir.Value, y: ir.Value) -> ir.Value:
    y.type, y.shape = x.type, x.shape
    return y
