"""What is explained of a subject: its score, the score's negative, or what sets a class apart from others."""

from __future__ import annotations

__all__ = ["Explained", "other_classes", "reading_of", "seed_of", "value_of"]

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Literal

import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.contract import AGAINST_INDEX, DEFAULT_AGAINST_INDEX, Explain
from onnxcam.errors import ExportError
from onnxcam.exporter.scores.protocol import Seed, Subject
from onnxcam.exporter.scores.table import apart, chosen, index_input

Explained = Explain | Literal["finer"]

_FAR: Final = 1e30
_COMPARED: Final = 3
"""As many classes Finer-CAM compares with."""


def other_classes(op: OpBuilder, subjects: Sequence[Subject]) -> list[ir.Value]:
    """Add the optional input `AGAINST_INDEX`, and give for each subject the class to set it apart from, int64 [N].

    Ranks count the classes but the one explained.
    """
    tables = [_compared(op, subject) for subject in subjects]
    index = index_input(op, AGAINST_INDEX, [DEFAULT_AGAINST_INDEX] * len(subjects))
    found = []
    for subject, table, column in zip(subjects, tables, apart(op, index), strict=True):
        others = op.Sub(table, op.Mul(_marked(op, subject, table), _FAR))
        found.append(chosen(op, column, others, table))
    return found


def seed_of(op: OpBuilder, subject: Subject, explained: Explained, other: ir.Value | None = None) -> Seed:
    """Where differentiation starts; a ``contrast`` is from the class ``other`` [N]."""
    if explained == "finer":
        return _finer_seed(op, subject)
    return _explained(op, partial(subject.seed, op), explained, other)


def reading_of(op: OpBuilder, subject: Subject, explained: Explain, other: ir.Value | None = None) -> Seed:
    """The same to read what is explained at other values: see `Subject.reading`."""
    return _explained(op, partial(subject.reading, op), explained, other)


def _explained(
    op: OpBuilder, start: Callable[[ir.Value | None], Seed], explained: Explain, other: ir.Value | None
) -> Seed:
    own = start(None)
    if explained == "class":
        return own
    if explained == "counterfactual":
        return replace(own, adjoint=_as(own.adjoint, op.Neg(own.adjoint)))
    return replace(own, adjoint=_as(own.adjoint, op.Sub(own.adjoint, start(other).adjoint)))


def value_of(op: OpBuilder, subject: Subject, explained: Explain, other: ir.Value | None = None) -> ir.Value:
    """What is explained of a class: y_c, -y_c or y_c - y_d, float32 [N, 1]."""
    assert subject.explained is not None
    table = subject.table(op)
    own: ir.Value = op.GatherElements(table, op.Unsqueeze(subject.explained, [1]), axis=1)
    if explained == "counterfactual":
        own = op.Neg(own)
    if explained == "contrast":
        own = op.Sub(own, op.GatherElements(table, op.Unsqueeze(other, [1]), axis=1))
    return own


def _finer_seed(op: OpBuilder, subject: Subject) -> Seed:
    """The adjoint of y_c - ȳ, ȳ = Σ_d p_d y_d / Σ_d p_d over the classes d whose scores are nearest to y_c.

    p_d / Σ p = w_d is a softmax over the few, and it is differentiated as well: dȳ/dy_d = w_d (1 + y_d - ȳ).
    """
    table = _compared(op, subject)
    explained = subject.explained
    assert explained is not None
    count = min(_COMPARED, _classes(table) - 1)
    own = op.GatherElements(table, op.Unsqueeze(explained, [1]), axis=1)
    distance = op.Add(op.Abs(op.Sub(table, own)), op.Mul(_marked(op, subject, table), _FAR))
    _, nearest = op.TopK(distance, [count], largest=0, _outputs=2)
    y = op.GatherElements(table, nearest, axis=1)
    weights = op.Softmax(y, axis=1)
    mean = op.ReduceSum(op.Mul(weights, y), [1], keepdims=1)
    slopes = op.Mul(weights, op.Add(1.0, op.Sub(y, mean)))
    start = subject.seed(op)
    adjoint = start.adjoint
    rank = 2 if adjoint.shape is None else len(adjoint.shape)
    for k in range(count):
        compared = op.Squeeze(op.Slice(nearest, [k], [k + 1], [1]), [1])
        compared.dtype, compared.shape = explained.dtype, explained.shape
        slope = op.Slice(slopes, [k], [k + 1], [1])
        if rank > 2:
            slope = op.Unsqueeze(slope, list(range(2, rank)))
        term = op.Mul(op.CastLike(slope, start.adjoint), subject.seed(op, compared).adjoint)
        adjoint = _as(start.adjoint, op.Sub(adjoint, term))
    return Seed(value=start.value, adjoint=adjoint)


def _compared(op: OpBuilder, subject: Subject) -> ir.Value:
    """The scores of all classes, float32 [N, classes]. Raises `ExportError` where there is one only."""
    table = subject.table(op)
    if _classes(table) < 2:
        raise ExportError("the model has one class only, and none to set it apart from: explain 'class' instead")
    return table


def _classes(table: ir.Value) -> int:
    assert table.shape is not None
    count = table.shape[1]
    assert isinstance(count, int)
    return count


def _marked(op: OpBuilder, subject: Subject, table: ir.Value) -> ir.Value:
    """1 at the explained class of each image, [N, classes]."""
    assert subject.explained is not None
    marked: ir.Value = op.Cast(
        op.OneHot(subject.explained, [_classes(table)], [0.0, 1.0], axis=-1), to=ir.DataType.FLOAT
    )
    return marked


def _as(x: ir.Value, y: ir.Value) -> ir.Value:
    y.type, y.shape = x.type, x.shape
    return y
