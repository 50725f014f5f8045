"""A detector's boxes: how likely each class is at each, and where they lie in the picture."""

from __future__ import annotations

__all__ = ["class_likelihoods", "distinct", "picture_boxes"]

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxcam.contract import BoxInfo, ScoreInfo
from onnxcam.runtime.geometry import Placement
from onnxcam.runtime.probabilities import probabilities

_SIDES = 4
_SAME = 0.5
"""Intersection over union from which two boxes are taken for the same thing."""


def class_likelihoods(output: NDArray[Any], info: ScoreInfo) -> NDArray[np.float32]:
    """How likely each class is at each box of one picture, float32 [boxes, classes]."""
    boxes = info.boxes or BoxInfo()
    rows = output.T if boxes.axis == 1 else output
    scores = probabilities(rows, info.activation)[:, boxes.first : boxes.first + info.classes]
    return scores * rows[:, _SIDES : _SIDES + 1].astype(np.float32) if boxes.objectness else scores


def picture_boxes(
    sides: NDArray[Any], marked: NDArray[np.bool_], info: BoxInfo, placement: Placement
) -> NDArray[np.float32]:
    """Left, top, right and bottom of the ``marked`` boxes in pixels of the picture, float32 [boxes, 4]."""
    rows = sides.T if info.first and info.axis == 1 else sides  # else they have an output of their own
    found = rows[marked, :_SIDES].astype(np.float64)
    if not info.corners:
        centre, half = found[:, :2], found[:, 2:] / 2
        found = np.concatenate([centre - half, centre + half], axis=1)
    if info.relative:
        found *= np.array([placement.input_width, placement.input_height] * 2)
    source, target = placement.source, placement.target
    across, down = source.width / target.width, source.height / target.height
    found[:, ::2] = source.left + (found[:, ::2] - target.left) * across
    found[:, 1::2] = source.top + (found[:, 1::2] - target.top) * down
    return found.astype(np.float32)


def distinct(boxes: NDArray[np.float32], likely: NDArray[np.float32]) -> NDArray[np.intp]:
    """Which of ``boxes`` overlap no likelier one by half or more: a detector gives many for each thing."""
    if len(boxes) < 2:
        return np.arange(len(boxes))
    sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxes(sizes.tolist(), likely.tolist(), 0.0, _SAME)
    return np.sort(np.asarray(kept, np.intp).ravel())
