"""What is explained: a score is one number an image, y = Σ weights · output, and each kind of score has a module.

`protocol` says what a kind states; `table` and `linear` are what several of them stand on.
"""

from __future__ import annotations

__all__ = ["Score", "Seed", "Subject", "find_score", "known_score"]

import onnx_ir as ir

from onnxcam.contract import BoxInfo, ScoreInfo, ScoreKind
from onnxcam.errors import ExportError
from onnxcam.exporter.scores.boxes import boxes_score
from onnxcam.exporter.scores.classes import class_score
from onnxcam.exporter.scores.outputs import class_output, is_table, only_output
from onnxcam.exporter.scores.protocol import Score, Seed, Subject
from onnxcam.exporter.scores.segmentation import segmentation_score
from onnxcam.exporter.scores.similarity import similarity_score
from onnxcam.exporter.scores.whole import number_score, weights_score


def find_score(
    graph: ir.Graph,
    *,
    kind: ScoreKind = "class",
    output: str | None = None,
    classes: int = 1,
    boxes: BoxInfo | None = None,
) -> Score:
    """The score of that ``kind`` that ``graph`` has. Raises `ExportError` where it has none.

    output: the name of the one that it is read from; the only one that fits where None.
    classes: how many classes of each image are explained.
    boxes: how a detector gives them.
    """
    if kind == "class":
        return class_score(class_output(graph, output), explained=classes)
    if kind == "segmentation":
        return segmentation_score(only_output(graph, output, _is_dense, "a segmentation"), explained=classes)
    if kind == "boxes":
        return boxes_score(graph, output, boxes or BoxInfo(), explained=classes)
    _refuse_several(kind, classes)
    if kind == "similarity":
        return similarity_score(only_output(graph, output, is_table, "an embedding"))
    floating = only_output(graph, output, _is_floating, "what is explained")
    return weights_score(floating) if kind == "weights" else number_score(floating)


def _refuse_several(kind: ScoreKind, classes: int) -> None:
    if classes != 1:
        raise ExportError(f"the score '{kind}' is of no class, and {classes} were asked for: leave --classes out")


def _is_dense(y: ir.Value) -> bool:
    return _is_floating(y) and y.shape is not None and len(y.shape) == 4 and isinstance(y.shape[1], int)


def _is_floating(y: ir.Value) -> bool:
    return y.dtype is None or y.dtype.is_floating_point()


def known_score(graph: ir.Graph, info: ScoreInfo) -> Score:
    """The score that ``info``, the metadata of an artifact, says its ``graph`` has."""
    return find_score(graph, kind=info.kind, output=info.output, classes=info.explained, boxes=info.boxes)
