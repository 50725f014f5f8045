"""The score of a class: y_c, before any softmax."""

from __future__ import annotations

__all__ = ["ClassScore", "class_score"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.contract import CLASS_INDEX, DEFAULT_CLASS_INDEX, EXPLAINED_CLASS, ScoreInfo
from onnxcam.errors import ExportError
from onnxcam.exporter.layers import Target
from onnxcam.exporter.layout import shape_text
from onnxcam.exporter.scores.linear import class_rows, find_head, last_linear
from onnxcam.exporter.scores.protocol import Score, Seed, Subject
from onnxcam.exporter.scores.table import before_rounding, before_squashing, chosen, index_input
from onnxcam.methods import Head


def class_score(output: ir.Value) -> ClassScore:
    """The scores behind the model's class output [N, classes], stepping back over a final softmax or sigmoid.

    Axes of length 1 may follow the classes. Raises `ExportError` where the output is no table of class scores.
    """
    shape = output.shape
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int) or any(dim != 1 for dim in shape[2:]):
        raise ExportError(
            f"the output '{output.name}' has the shape {shape_text(shape)}, and a classifier's is [N, classes]: "
            "choose another output, or export a model that returns one row of class scores per image"
        )
    found = before_squashing(output)
    return ClassScore(
        info=ScoreInfo(output=output.name or "", activation=found.activation, classes=shape[1]),
        value=found.value,
        stepped_over=found.stepped_over,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore(Score):
    """The scores y [N, classes] before any softmax."""

    info: ScoreInfo
    value: ir.Value
    stepped_over: str | None

    @property
    def classes(self) -> int:
        return self.info.classes

    @property
    def start(self) -> ir.Value:
        """Of a quantised score, the value before its rounding is differentiated."""
        return before_rounding(self.value)

    def table(self, op: OpBuilder) -> ir.Value:
        """The scores as [N, classes], in a type that ONNX Runtime ranks."""
        value = self.value
        if value.shape is not None and len(value.shape) != 2:
            value = op.Flatten(value)
        return op.Cast(value, to=ir.DataType.FLOAT) if value.dtype == ir.DataType.BFLOAT16 else value

    def subjects(self, op: OpBuilder) -> Sequence[OneClass]:
        """The class that the optional input `CLASS_INDEX` chooses, ranks replaced by the classes they name."""
        index = index_input(op, CLASS_INDEX, [DEFAULT_CLASS_INDEX])
        return [OneClass(self, chosen(op, index, self.table(op), self.value))]

    def outputs(self, op: OpBuilder, subjects: Sequence[Subject]) -> dict[str, ir.Value]:
        (subject,) = subjects
        assert subject.explained is not None
        return {EXPLAINED_CLASS: subject.explained}

    def trial(self, batch: int) -> dict[str, np.ndarray]:
        """The top class of the first image, the second class of the others."""
        ranks = -np.arange(1, batch + 1, dtype=np.int64)
        return {CLASS_INDEX: np.maximum(ranks, -min(2, self.classes))}

    def adjoints(self, feed: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """1 at the explained class, 0 elsewhere."""
        axes = (1,) * (len(self.value.shape or ()) - 2)
        return [np.eye(self.classes)[got[EXPLAINED_CLASS]].reshape(-1, self.classes, *axes)]


class OneClass(Subject):
    """The score of one class of each image, ``explained`` [N]."""

    def __init__(self, score: ClassScore, explained: ir.Value) -> None:
        self.score: ClassScore = score
        self.explained: ir.Value = explained

    def seed(self, op: OpBuilder, of: ir.Value | None = None) -> Seed:
        """The adjoint of y_c, taken through the last linear layer by reading one row of its weights.

        With y = x Wᵀ + b, dy_c/dx is row c of W: a lookup, where a one-hot product would read all of W.
        """
        score, explained = self.score, self.explained if of is None else of
        linear = last_linear(score.value, score.classes)
        if linear is None:
            return Seed(value=score.start, adjoint=_one_hot(op, score, explained))
        row = class_rows(op, linear, explained)
        row.type, row.shape = linear.x.type, linear.x.shape
        return Seed(value=linear.x, adjoint=row)

    def table(self, op: OpBuilder) -> ir.Value:
        wide: ir.Value = op.Cast(self.score.table(op), to=ir.DataType.FLOAT)
        assert self.score.value.shape is not None
        wide.dtype, wide.shape = ir.DataType.FLOAT, ir.Shape([self.score.value.shape[0], self.score.classes])
        return wide

    def head(self, op: OpBuilder, target: Target) -> Head:
        return find_head(op, self.score.value, self.score.classes, self.explained, target)


def _one_hot(op: OpBuilder, score: ClassScore, explained: ir.Value) -> ir.Value:
    """1 at the explained class of each image, 0 elsewhere, shaped and typed as the score."""
    assert score.value.dtype is not None
    values: ir.Value = op.Cast(op.OneHot(explained, [score.classes], [0.0, 1.0], axis=-1), to=score.value.dtype)
    if score.value.shape is not None and len(score.value.shape) > 2:
        values = op.Unsqueeze(values, list(range(2, len(score.value.shape))))
    values.dtype, values.shape = score.value.dtype, score.value.shape
    return values
