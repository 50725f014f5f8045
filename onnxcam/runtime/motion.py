"""How what is seen moved from one frame to the next, so that heat can go with it."""

from __future__ import annotations

__all__ = ["Motion"]

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxcam.runtime.geometry import Placement
from onnxcam.runtime.preprocess import Picture

Floats = NDArray[np.float32]

_SIDE = 96
"""Pixels of a side of what is looked at: several for each cell of most maps, and done in 0.3 ms. (OpenCV's search reads
beyond the end of pictures of fewer than 32.)"""
_SAMPLES = 2  # pixels along a side of each of its own: reading all of a large picture would take a millisecond


class Motion:
    """The dense optical flow between the last two frames, all over the model's input.

    Kroeger et al., Fast Optical Flow using Dense Inverse Search, arXiv 1603.03590, 2016, as OpenCV has it.
    """

    def __init__(self) -> None:
        self._search: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._placement: Placement | None = None
        self._before: Picture | None = None
        self._flow: Floats | None = None

    def follow(self, picture: Picture, placement: Placement) -> None:
        """Take the next frame (uint8 BGR [H, W, 3]). After one of another size or place it is the first."""
        now = _thumbnail(picture, placement)
        known = self._before is not None and placement == self._placement
        self._flow = self._search.calc(now, self._before, None) if known else None
        self._placement, self._before = placement, now

    def carried(self, cam: Floats) -> Floats:
        """The map ``cam`` [h, w] of the frame before, each value moved to where that which it lay on is now."""
        if self._flow is None:
            return cam
        height, width = cam.shape
        flow = cv2.resize(self._flow, (width, height), interpolation=cv2.INTER_AREA)
        left, top = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        left += flow[..., 0] * np.float32(width / _SIDE)
        top += flow[..., 1] * np.float32(height / _SIDE)
        return np.asarray(cv2.remap(cam, left, top, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _thumbnail(picture: Picture, placement: Placement) -> Picture:
    """The model's input in grey, `_SIDE` pixels high and wide; black where the picture does not reach."""
    seen, target = picture[placement.source.slices], placement.target
    top, bottom = (round(row * _SIDE / placement.input_height) for row in (target.top, target.top + target.height))
    left, right = (round(x * _SIDE / placement.input_width) for x in (target.left, target.left + target.width))
    grey: Picture = np.zeros((_SIDE, _SIDE), np.uint8)
    if bottom > top and right > left:
        step = max(min(seen.shape[0], seen.shape[1]) // (_SAMPLES * _SIDE), 1)
        green = np.ascontiguousarray(seen[::step, ::step, 1])  # most of brightness, and a third of the bytes
        grey[top:bottom, left:right] = cv2.resize(green, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return grey
