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
from onnxcam.exporter.scores.table import (
    apart,
    before_rounding,
    before_squashing,
    chosen,
    index_input,
    together,
    top_ranks,
)
from onnxcam.methods import Head


def class_score(output: ir.Value, *, explained: int = 1) -> ClassScore:
    """The scores behind the model's class output [N, classes], stepping back over a final softmax or sigmoid.

    Axes of length 1 may follow the classes. Raises `ExportError` where the output is no table of class scores, or has
    fewer than are to be ``explained``.
    """
    shape = output.shape
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int) or any(dim != 1 for dim in shape[2:]):
        raise ExportError(
            f"the output '{output.name}' has the shape {shape_text(shape)}, and a classifier's is [N, classes]: "
            "choose another output, or export a model that returns one row of class scores per image"
        )
    if explained > shape[1]:
        raise ExportError(f"{explained} classes of each image cannot be explained: the model has {shape[1]}")
    found = before_squashing(output)
    return ClassScore(
        info=ScoreInfo(output=output.name or "", activation=found.activation, classes=shape[1], explained=explained),
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
        """The classes that the optional input `CLASS_INDEX` chooses, ranks replaced by the classes they name."""
        top = top_ranks(self.info.explained, DEFAULT_CLASS_INDEX)
        found = chosen(op, index_input(op, CLASS_INDEX, top), self.table(op), self.value)
        return [OneClass(self, explained) for explained in apart(op, found)]

    def outputs(self, op: OpBuilder, subjects: Sequence[Subject]) -> dict[str, ir.Value]:
        return {EXPLAINED_CLASS: together(op, [subject.explained for subject in subjects if subject.explained])}

    def trial(self, batch: int) -> dict[str, np.ndarray]:
        """The top classes of the first image, those from the second class on of the others."""
        count = self.info.explained
        first = np.minimum(np.arange(1, batch + 1), 2)[:, None]
        ranks = -((first + np.arange(count) - 1) % self.classes + 1)
        return {CLASS_INDEX: ranks if count > 1 else ranks[:, 0]}

    def adjoints(self, feed: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """1 at the explained class, 0 elsewhere."""
        axes = (1,) * (len(self.value.shape or ()) - 2)
        columns = got[EXPLAINED_CLASS].reshape(-1, self.info.explained).T
        return [np.eye(self.classes)[column].reshape(-1, self.classes, *axes) for column in columns]


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
