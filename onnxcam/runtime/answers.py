"""What a model's output says of what was explained, for each kind of score."""

from __future__ import annotations

__all__ = ["Answer", "Detections", "answer"]

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.contract import Activation, ScoreInfo
from onnxcam.runtime.detections import class_likelihoods, distinct, picture_boxes
from onnxcam.runtime.geometry import Placement
from onnxcam.runtime.probabilities import probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """``score``, ``scores``, ``region``, ``boxes`` and ``box_scores`` of an `Explanation`."""

    score: float
    scores: NDArray[np.float32]
    region: NDArray[np.float32] | None = None
    boxes: NDArray[np.float32] | None = None
    box_scores: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """The output with a picture's boxes, which of them were explained, and where the picture lies in the input."""

    sides: NDArray[Any]
    marked: NDArray[np.bool_]
    placement: Placement


def answer(
    info: ScoreInfo,
    output: NDArray[Any],
    *,
    explained: int | None,
    number: float,
    region: NDArray[np.float32] | None,
    detections: Detections | None,
) -> Answer:
    """What ``output`` of one picture says of the class ``explained``, or where it is none, that y is ``number``.

    detections: of a detector.
    region: that was asked for, at the output's resolution; where negative, the class's own predicted mask counts.
    """
    if explained is None:
        return Answer(score=number, scores=np.zeros(0, np.float32))
    if info.kind == "segmentation":
        own = _predicted(output, info.activation, explained)
        found = own if region is None else np.where(region < 0, own, region)
        scores = _over(output, found, info.activation)
        return Answer(score=float(scores[explained]), scores=scores, region=found.astype(np.float32))
    if detections is not None and info.boxes is not None:
        likely = class_likelihoods(output, info)[detections.marked]
        scores = likely.max(0) if len(likely) else np.zeros(info.classes, np.float32)
        boxes = picture_boxes(detections.sides, detections.marked, info.boxes, detections.placement)
        at_each = likely[:, explained]
        kept = distinct(boxes, at_each)
        return Answer(score=float(scores[explained]), scores=scores, boxes=boxes[kept], box_scores=at_each[kept])
    scores = probabilities(output.reshape(1, -1)[:, : info.classes], info.activation)[0]
    return Answer(score=float(scores[explained]), scores=scores)


def _predicted(output: NDArray[Any], activation: Activation, explained: int) -> NDArray[np.float64]:
    """1 where the class scores highest; of one class alone, where it is likelier than not."""
    likely = output[0] > (0.5 if activation == "identity" else 0)
    return np.asarray(likely if len(output) == 1 else output.argmax(0) == explained, np.float64)


def _over(output: NDArray[Any], region: NDArray[Any], activation: Activation) -> NDArray[np.float32]:
    """The mean probability of each class over ``region``, 0 where that is empty."""
    weights = region[region > 0]
    if not len(weights):
        return np.zeros(len(output), np.float32)
    pixels = probabilities(output[:, region > 0].T, activation)
    found: NDArray[np.float32] = (weights @ pixels / weights.sum()).astype(np.float32)
    return found
