"""The score of a class in a segmentation: its scores summed over a region, by default where it is predicted."""

from __future__ import annotations

__all__ = ["SegmentationScore", "segmentation_score"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from onnxcam.contract import CLASS_INDEX, DEFAULT_CLASS_INDEX, EXPLAINED_CLASS, SCORE_REGION, ScoreInfo
from onnxcam.errors import ExportError
from onnxcam.exporter.layout import shape_text
from onnxcam.exporter.scores.protocol import Score, Seed, Subject
from onnxcam.exporter.scores.table import apart, before_squashing, chosen, index_input, together, top_ranks


def segmentation_score(output: ir.Value, *, explained: int = 1) -> SegmentationScore:
    """The scores [N, classes, H, W] before a final softmax or sigmoid. Raises `ExportError` for another shape."""
    shape = output.shape
    if shape is None or len(shape) != 4 or not isinstance(shape[1], int):
        raise ExportError(
            f"the output '{output.name}' has the shape {shape_text(shape)}, and a segmentation's is "
            "[N, classes, H, W]: choose another with --output"
        )
    if explained > shape[1]:
        raise ExportError(f"{explained} classes of each image cannot be explained: the model has {shape[1]}")
    found = before_squashing(output, reshaped=False)
    return SegmentationScore(
        info=ScoreInfo(
            kind="segmentation",
            output=output.name or "",
            activation=found.activation if shape[1] > 1 or found.stepped_over else "sigmoid",
            classes=shape[1],
            explained=explained,
        ),
        value=found.value,
        stepped_over=found.stepped_over,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationScore(Score):
    """y_c = Σ region · value_c, the region held as it is. A class is ranked by the pixels where it scores highest."""

    info: ScoreInfo
    value: ir.Value
    stepped_over: str | None

    def subjects(self, op: OpBuilder) -> Sequence[Subject]:
        """The classes that `CLASS_INDEX` chooses, each in `SCORE_REGION` or where it is predicted."""
        winner = self._winner(op)
        marked = op.OneHot(winner, [self.info.classes], [0.0, 1.0], axis=1)
        pixels = op.ReduceSum(marked, [2, 3], keepdims=0)
        index = index_input(op, CLASS_INDEX, top_ranks(self.info.explained, DEFAULT_CLASS_INDEX))
        region = _region_input(op)
        found = []
        for explained in apart(op, chosen(op, index, pixels, self.value)):
            own = op.Cast(op.Equal(winner, op.Unsqueeze(explained, [1, 2])), to=ir.DataType.FLOAT)
            found.append(_InRegion(self, explained, op.Where(op.Less(region, [0.0]), own, region)))
        return found

    def _winner(self, op: OpBuilder) -> ir.Value:
        """The predicted class of each pixel, int64 [N, H, W]; of one class alone, 1 where it is not."""
        found: ir.Value
        if self.info.classes > 1:
            found = op.ArgMax(self.value, axis=1, keepdims=0)
            return found
        unlikely = op.LessOrEqual(op.Cast(self.value, to=ir.DataType.FLOAT), [0.0])
        found = op.Cast(op.Squeeze(unlikely, [1]), to=ir.DataType.INT64)
        found.shape = None if self.value.shape is None else ir.Shape([self.value.shape[0], *self.value.shape[2:]])
        return found

    def outputs(self, op: OpBuilder, subjects: Sequence[Subject]) -> dict[str, ir.Value]:
        return {EXPLAINED_CLASS: together(op, [subject.explained for subject in subjects if subject.explained])}

    def trial(self, batch: int) -> dict[str, np.ndarray]:
        """The classes with the most pixels, where they are predicted."""
        return {}

    def adjoints(self, feed: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The region at the explained class, 0 elsewhere."""
        output = got[self.info.output]
        likely = output[:, 0] > (0.5 if self.info.activation == "identity" else 0)
        winner = output.argmax(1) if self.info.classes > 1 else 1 - likely
        region = feed.get(SCORE_REGION, np.full((1, 1, 1), -1.0))
        found = []
        for column in got[EXPLAINED_CLASS].reshape(-1, self.info.explained).T:
            mask = np.where(region < 0, winner == column[:, None, None], region)
            found.append(np.eye(self.info.classes)[column][:, :, None, None] * mask[:, None])
        return found


class _InRegion(Subject):
    """The score of one class of each image summed over ``region``, float32 [N, H, W]."""

    def __init__(self, score: SegmentationScore, explained: ir.Value, region: ir.Value) -> None:
        self.score: SegmentationScore = score
        self.explained: ir.Value = explained
        self._region = region

    def seed(self, op: OpBuilder, of: ir.Value | None = None) -> Seed:
        value = self.score.value
        assert value.dtype is not None
        explained = self.explained if of is None else of
        marked = op.Unsqueeze(op.OneHot(explained, [self.score.info.classes], [0.0, 1.0], axis=-1), [2, 3])
        adjoint = op.Cast(op.Mul(marked, op.Unsqueeze(self._region, [1])), to=value.dtype)
        adjoint.dtype, adjoint.shape = value.dtype, value.shape
        return Seed(value=value, adjoint=adjoint)

    def table(self, op: OpBuilder) -> ir.Value:
        value = self.score.value
        weighted = op.Mul(op.Cast(value, to=ir.DataType.FLOAT), op.Unsqueeze(self._region, [1]))
        found: ir.Value = op.ReduceSum(weighted, [2, 3], keepdims=0)
        assert value.shape is not None
        found.dtype, found.shape = ir.DataType.FLOAT, ir.Shape([value.shape[0], self.score.info.classes])
        return found


def _region_input(op: OpBuilder) -> ir.Value:
    """Add the optional input `SCORE_REGION`."""
    graph = op.builder.graph
    region = ir.Value(
        name=SCORE_REGION,
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape([f"{SCORE_REGION}_{what}" for what in ("size", "height", "width")]),
        const_value=ir.tensor([[[-1.0]]], dtype=ir.DataType.FLOAT, name=SCORE_REGION),
    )
    graph.inputs.append(region)
    graph.register_initializer(region)
    return region
