"""What is explained: a score is one number an image, y = Σ weights · output, and each kind of score has a module.

`protocol` says what a kind states; `table` and `linear` are what several of them stand on.
"""

from __future__ import annotations

__all__ = ["Score", "Seed", "Subject", "find_score", "known_score"]

import onnx_ir as ir

from onnxcam.contract import ScoreInfo
from onnxcam.exporter.scores.classes import class_score
from onnxcam.exporter.scores.protocol import Score, Seed, Subject


def find_score(output: ir.Value, *, classes: int = 1) -> Score:
    """The score that the model's ``output`` gives. Raises `ExportError` where it has not the shape for it.

    classes: how many classes of each image are explained.
    """
    return class_score(output, explained=classes)


def known_score(graph: ir.Graph, info: ScoreInfo) -> Score:
    """The score that ``info``, the metadata of an artifact, says its ``graph`` has."""
    return find_score(next(y for y in graph.outputs if y.name == info.output), classes=info.explained)
