"""The score of a class at a detector's boxes: at one of them, or at all that are likely enough."""

from __future__ import annotations

__all__ = ["BoxesScore", "boxes_score"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.contract import (
    BOX_INDEX,
    BOX_THRESHOLD,
    CLASS_INDEX,
    DEFAULT_BOX_INDEX,
    DEFAULT_BOX_THRESHOLD,
    DEFAULT_CLASS_INDEX,
    EXPLAINED_BOXES,
    EXPLAINED_CLASS,
    Activation,
    BoxInfo,
    ScoreInfo,
)
from onnxcam.errors import ExportError
from onnxcam.exporter.layout import shape_text
from onnxcam.exporter.scores.joined import before_joining, refuse_chosen
from onnxcam.exporter.scores.protocol import Score, Seed, Subject
from onnxcam.exporter.scores.table import apart, before_squashing, chosen, index_input, together, top_ranks

_SIDES: Final = 4
"""Numbers that a box has."""


def boxes_score(graph: ir.Graph, output: str | None, info: BoxInfo, *, explained: int = 1) -> BoxesScore:
    """The class scores at boxes that ``graph`` gives: YOLO-like in one output, or DETR-like in two.

    YOLO-like is [N, 4 + C, boxes] or [N, boxes, 4 + C], with the objectness behind the sides where ``info`` says so.
    DETR-like is [N, boxes, C], with boxes [N, boxes, 4] in another output, and a last column for no object where
    ``info`` says so. Both step back over a softmax or sigmoid, and over the joining of classes to sides. Raises
    `ExportError` where neither is found.
    """
    values = {y.name or "": y for y in graph.outputs}
    if output is not None and output not in values:
        raise ExportError(f"the model has no output '{output}': it has {', '.join(values)}")
    tables = {name: y for name, y in values.items() if y.shape is not None and len(y.shape) == 3 and _floating(y)}
    sides = [name for name, y in tables.items() if y.shape[2] == _SIDES and name != output]  # type: ignore[index]
    scores = [name for name in tables if name not in sides] if output is None else [output]
    if len(scores) != 1 or scores[0] not in tables:
        found = ", ".join(f"'{name}' {shape_text(y.shape)}" for name, y in values.items())
        raise ExportError(
            "a detector's output is [N, 4 + classes, boxes] or [N, boxes, 4 + classes], or it has one of class scores "
            f"[N, boxes, classes] and one of boxes [N, boxes, 4], and the outputs here are {found}: name that of the "
            "class scores with --output"
        )
    table = tables[scores[0]]
    refuse_chosen(table)
    known = info.output or (sides[0] if len(sides) == 1 else table.name)
    return _yolo(table, info, explained) if known == table.name else _detr(table, str(known), info, explained)


def _detr(table: ir.Value, sides: str, info: BoxInfo, explained: int) -> BoxesScore:
    columns = _fixed(table, 2)
    found = before_squashing(table, reshaped=False)
    raw: Activation = "softmax" if info.background else "sigmoid"
    activation = found.activation if found.stepped_over else raw
    return BoxesScore(
        info=ScoreInfo(
            kind="boxes",
            output=table.name or "",
            activation=activation,
            classes=_enough(columns - info.background, explained),
            explained=explained,
            boxes=info.completed(output=sides, axis=2, first=0, relative=True),
        ),
        table=table,
        value=found.value,
        axis=2,
        first=0,
        stepped_over=found.stepped_over,
    )


def _yolo(table: ir.Value, info: BoxInfo, explained: int) -> BoxesScore:
    shape = table.shape
    assert shape is not None
    known = [axis for axis in (1, 2) if isinstance(shape[axis], int)]
    axis = info.axis or min(known, key=lambda axis: shape[axis], default=1)  # type: ignore[arg-type, return-value]
    first = _SIDES + info.objectness
    classes = _fixed(table, axis) - first
    if classes < 1:
        raise ExportError(
            f"the output '{table.name}' has the shape {shape_text(shape)}, in which no class scores follow the "
            f"{first} numbers of a box: choose another with --output"
        )
    before = before_joining(table, axis, classes)
    return BoxesScore(
        info=ScoreInfo(
            kind="boxes",
            output=table.name or "",
            activation="identity",
            classes=_enough(classes, explained),
            explained=explained,
            boxes=info.completed(output=table.name or "", axis=axis, first=first, relative=False),
        ),
        table=table,
        value=before[0] if before else table,
        axis=before[1] if before else axis,
        first=0 if before else first,
        stepped_over="Sigmoid" if before else None,
    )


def _fixed(table: ir.Value, axis: int) -> int:
    size = None if table.shape is None else table.shape[axis]
    if not isinstance(size, int):
        raise ExportError(f"how many classes the output '{table.name}' has is open: export the model with it fixed")
    return size


def _enough(classes: int, explained: int) -> int:
    if explained > classes:
        raise ExportError(f"{explained} classes of each image cannot be explained: the model has {classes}")
    return classes


def _floating(y: ir.Value) -> bool:
    return y.dtype is None or y.dtype.is_floating_point()


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxesScore(Score):
    """y_c = Σ value_c over the boxes chosen. A class is ranked by its likeliest box, a box by how likely the class is.

    table: the output with the classes, which tells how likely they are.
    axis, first: along which axis of ``value`` the numbers of a box lie, and which is that of the first class.
    """

    info: ScoreInfo
    table: ir.Value
    value: ir.Value
    axis: int
    first: int
    stepped_over: str | None

    @property
    def boxes(self) -> BoxInfo:
        assert self.info.boxes is not None
        return self.info.boxes

    @property
    def columns(self) -> int:
        """How many numbers ``value`` has of a box."""
        return _fixed(self.value, self.axis)

    def subjects(self, op: OpBuilder) -> Sequence[Subject]:
        """The classes that `CLASS_INDEX` chooses, at the box that `BOX_INDEX` does, or all above `BOX_THRESHOLD`."""
        likely = self._likely(op)
        best = op.ReduceMax(likely, [2], keepdims=0)
        index = index_input(op, CLASS_INDEX, top_ranks(self.info.explained, DEFAULT_CLASS_INDEX))
        classes = apart(op, chosen(op, index, best, self.value))
        bounds = _threshold_input(op) if self.boxes.every else index_input(op, BOX_INDEX, [DEFAULT_BOX_INDEX])
        found = []
        for explained in classes:
            of_class = op.GatherND(likely, op.Unsqueeze(explained, [1]), batch_dims=1)
            if self.boxes.every:
                marked = op.Greater(of_class, op.Unsqueeze(bounds, [1]))
            else:
                one = chosen(op, bounds, of_class, self.value)
                count = op.Squeeze(op.Shape(of_class, start=1, end=2), [0])
                marked = op.Equal(op.Unsqueeze(op.Range(0, count, 1), [0]), op.Unsqueeze(one, [1]))
            marked.dtype = ir.DataType.BOOL
            assert self.table.shape is not None
            marked.shape = ir.Shape([self.table.shape[0], self.table.shape[3 - self.boxes.axis]])
            found.append(_AtBoxes(self, explained, marked))
        return found

    def outputs(self, op: OpBuilder, subjects: Sequence[Subject]) -> dict[str, ir.Value]:
        marked = [subject.marked for subject in subjects if isinstance(subject, _AtBoxes)]
        return {
            EXPLAINED_CLASS: together(op, [subject.explained for subject in subjects if subject.explained]),
            EXPLAINED_BOXES: together(op, marked),
        }

    def trial(self, batch: int) -> dict[str, np.ndarray]:
        """All boxes there are, where not one alone is explained."""
        return {BOX_THRESHOLD: np.full(1, -1, np.float32)} if self.boxes.every else {}

    def adjoints(self, feed: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """1 at the explained class of the explained boxes, 0 elsewhere."""
        classes = got[EXPLAINED_CLASS].reshape(-1, self.info.explained)
        marked = got[EXPLAINED_BOXES].reshape(*classes.shape, -1)
        found = []
        for k in range(classes.shape[1]):
            hot = np.eye(self.columns)[classes[:, k] + self.first]
            pairs = hot[:, :, None] * marked[:, k, None]
            found.append(pairs if self.axis == 1 else pairs.transpose(0, 2, 1))
        return found

    def _likely(self, op: OpBuilder) -> ir.Value:
        """How likely each class is at each box, float32 [N, classes, boxes]."""
        info, boxes = self.info, self.boxes
        values = op.Cast(self.table, to=ir.DataType.FLOAT)
        if info.activation == "softmax":
            values = op.Softmax(values, axis=boxes.axis)
        elif info.activation == "sigmoid":
            values = op.Sigmoid(values)
        likely: ir.Value = op.Slice(values, [boxes.first], [boxes.first + info.classes], [boxes.axis])
        if boxes.objectness:
            likely = op.Mul(likely, op.Slice(values, [_SIDES], [_SIDES + 1], [boxes.axis]))
        return likely if boxes.axis == 1 else op.Transpose(likely, perm=[0, 2, 1])


class _AtBoxes(Subject):
    """The score of one class of each image at the boxes ``marked``, bool [N, boxes]."""

    def __init__(self, score: BoxesScore, explained: ir.Value, marked: ir.Value) -> None:
        self.score: BoxesScore = score
        self.explained: ir.Value = explained
        self.marked = marked

    def seed(self, op: OpBuilder, of: ir.Value | None = None) -> Seed:
        value, axis = self.score.value, self.score.axis
        column = op.Add(self.explained if of is None else of, [self.score.first])
        hot = op.OneHot(column, [self.score.columns], [0.0, 1.0], axis=-1)
        marked = op.Cast(self.marked, to=ir.DataType.FLOAT)
        assert value.dtype is not None
        adjoint = op.Cast(op.Mul(op.Unsqueeze(hot, [3 - axis]), op.Unsqueeze(marked, [axis])), to=value.dtype)
        adjoint.dtype, adjoint.shape = value.dtype, value.shape
        return Seed(value=value, adjoint=adjoint)

    def table(self, op: OpBuilder) -> ir.Value:
        value, axis, first, classes = self.score.value, self.score.axis, self.score.first, self.score.info.classes
        marked = op.Unsqueeze(op.Cast(self.marked, to=ir.DataType.FLOAT), [axis])
        totals = op.ReduceSum(op.Mul(op.Cast(value, to=ir.DataType.FLOAT), marked), [3 - axis], keepdims=0)
        found: ir.Value = op.Slice(totals, [first], [first + classes], [1])
        assert value.shape is not None
        found.dtype, found.shape = ir.DataType.FLOAT, ir.Shape([value.shape[0], classes])
        return found


def _threshold_input(op: OpBuilder) -> ir.Value:
    """Add the optional input `BOX_THRESHOLD`."""
    graph = op.builder.graph
    threshold = ir.Value(
        name=BOX_THRESHOLD,
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape([f"{BOX_THRESHOLD}_size"]),
        const_value=ir.tensor([DEFAULT_BOX_THRESHOLD], dtype=ir.DataType.FLOAT, name=BOX_THRESHOLD),
    )
    graph.inputs.append(threshold)
    graph.register_initializer(threshold)
    return threshold
