"""Scores of no class: a weighting of the output that the user gives, or the output itself."""

from __future__ import annotations

__all__ = ["NumberScore", "WeightsScore", "number_score", "weights_score"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.contract import SCORE, SCORE_WEIGHTS, ScoreInfo
from onnxcam.errors import ExportError
from onnxcam.exporter.layout import shape_text
from onnxcam.exporter.scores.protocol import Score, Seed, Subject
from onnxcam.exporter.scores.table import before_squashing


def weights_score(output: ir.Value) -> WeightsScore:
    """y = Σ weights · output, before a final softmax or sigmoid. Raises `ExportError` where its rank is unknown."""
    _refuse_unknown(output)
    found = before_squashing(output, reshaped=False)
    return WeightsScore(
        info=ScoreInfo(kind="weights", output=output.name or "", activation="identity", classes=0),
        value=found.value,
        stepped_over=found.stepped_over,
        shape=output.shape or ir.Shape([]),
    )


def number_score(output: ir.Value) -> NumberScore:
    """y is the output, one number an image: [N], or with axes of length 1. Raises `ExportError` for another shape."""
    _refuse_unknown(output)
    if any(dim != 1 for dim in (output.shape or ())[1:]):
        raise ExportError(
            f"the output '{output.name}' has the shape {shape_text(output.shape)}, and one number an image is [N]: "
            "choose another output, or explain a weighting of it with --score weights"
        )
    return NumberScore(
        info=ScoreInfo(kind="number", output=output.name or "", activation="identity", classes=0),
        value=output,
        stepped_over=None,
    )


def _refuse_unknown(output: ir.Value) -> None:
    if not output.shape or (output.dtype is not None and not output.dtype.is_floating_point()):
        raise ExportError(
            f"the output '{output.name}' is {output.dtype} of the shape {shape_text(output.shape)}, which cannot be "
            "differentiated: choose another with --output"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsScore(Score):
    """y = Σ weights · value. ``shape`` is the output's."""

    info: ScoreInfo
    value: ir.Value
    stepped_over: str | None
    shape: ir.Shape

    def subjects(self, op: OpBuilder) -> Sequence[Subject]:
        """What the input `SCORE_WEIGHTS` weighs."""
        fixed = [dim if axis and isinstance(dim, int) else None for axis, dim in enumerate(self.shape)]
        dims = [f"{SCORE_WEIGHTS}_{axis}" if dim is None else dim for axis, dim in enumerate(fixed)]
        weights = ir.Value(name=SCORE_WEIGHTS, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(dims))
        op.builder.graph.inputs.append(weights)
        return [_Weighted(self, op.Expand(weights, op.Shape(self.value)))]

    def outputs(self, op: OpBuilder, subjects: Sequence[Subject]) -> dict[str, ir.Value]:
        (subject,) = subjects
        return {SCORE: _sum(op, self.value, subject.seed(op).adjoint)}

    def trial(self, batch: int) -> dict[str, np.ndarray]:
        """Weights drawn at random, one for all of an axis whose size is open."""
        sizes = [dim if isinstance(dim, int) else 1 for dim in self.shape[1:]]
        return {SCORE_WEIGHTS: np.random.default_rng(0).standard_normal((batch, *sizes)).astype(np.float32)}

    def adjoints(self, feed: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [np.broadcast_to(feed[SCORE_WEIGHTS], got[self.info.output].shape).astype(np.float64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberScore(Score):
    """y = value."""

    info: ScoreInfo
    value: ir.Value
    stepped_over: str | None

    def subjects(self, op: OpBuilder) -> Sequence[Subject]:
        return [_Weighted(self, op.Expand([1.0], op.Shape(self.value)))]

    def outputs(self, op: OpBuilder, subjects: Sequence[Subject]) -> dict[str, ir.Value]:
        """None: the model's own output says it all."""
        return {}

    def trial(self, batch: int) -> dict[str, np.ndarray]:
        return {}

    def adjoints(self, feed: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [np.ones(got[self.info.output].shape)]


class _Weighted(Subject):
    """The sum of the score's value times ``weights``, float32 and as large."""

    def __init__(self, score: Score, weights: ir.Value) -> None:
        self.score = score
        self.explained = None
        self._weights = weights

    def seed(self, op: OpBuilder, of: ir.Value | None = None) -> Seed:
        value = self.score.value
        assert value.dtype is not None
        adjoint = self._weights if value.dtype == ir.DataType.FLOAT else op.Cast(self._weights, to=value.dtype)
        adjoint.dtype, adjoint.shape = value.dtype, value.shape
        return Seed(value=value, adjoint=adjoint)


def _sum(op: OpBuilder, value: ir.Value, weights: ir.Value) -> ir.Value:
    """Σ weights · value over all axes but the images', float32 [N]."""
    terms = op.Mul(op.Cast(value, to=ir.DataType.FLOAT), op.Cast(weights, to=ir.DataType.FLOAT))
    total: ir.Value = op.ReduceSum(op.Flatten(terms, axis=1), [1], keepdims=0)
    assert value.shape is not None
    total.dtype, total.shape = ir.DataType.FLOAT, ir.Shape(value.shape[:1])
    return total
