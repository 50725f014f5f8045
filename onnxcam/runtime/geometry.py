"""Where the model looked: which pixels of a picture reached its input, and back from its map to those pixels."""

from __future__ import annotations

__all__ = ["Placement", "Rectangle", "interpolation", "place", "project"]

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from onnxcam.contract import Preprocess


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Whole pixels ``[top, top + height) × [left, left + width)``."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """To cut the rectangle out of an array [H, W, ...]."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True, slots=True)
class Placement:
    """A picture of ``height × width`` pixels, of which ``source`` fills ``target`` in an input of
    ``input_height × input_width``. What lies outside ``source`` the model did not see."""

    height: int
    width: int
    source: Rectangle
    input_height: int
    input_width: int
    target: Rectangle


def place(height: int, width: int, preprocess: Preprocess) -> Placement:
    """Where a picture of ``height × width`` pixels goes under ``preprocess`` (its docstring defines the modes)."""
    input_height, input_width = preprocess.height, preprocess.width
    source = Rectangle(0, 0, height, width)
    target = Rectangle(0, 0, input_height, input_width)
    if preprocess.resize == "crop":
        ratio = preprocess.crop_ratio * min(height / input_height, width / input_width)
        source = _centred(input_height * ratio, input_width * ratio, within=source)
    elif preprocess.resize == "letterbox":
        ratio = min(input_height / height, input_width / width)
        target = _centred(height * ratio, width * ratio, within=target)
    return Placement(height, width, source, input_height, input_width, target)


def _centred(height: float, width: float, *, within: Rectangle) -> Rectangle:
    rows = min(max(round(height), 1), within.height)
    columns = min(max(round(width), 1), within.width)
    return Rectangle((within.height - rows) // 2, (within.width - columns) // 2, rows, columns)


def project(cam: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """``cam`` [h, w] laid over the picture: float32 [H, W], 0 where the model saw nothing.

    The map covers the whole model input, a cell being ``input_height/h × input_width/w`` input pixels with its value
    at its centre (``align_corners=False``). Between centres it is bilinear, beyond the outermost ones constant.
    Letterbox padding is cut off at sub-cell precision.
    """
    source, target = placement.source, placement.target
    rows = interpolation(cam.shape[0], placement.input_height, target.top, target.height, source.height)
    columns = interpolation(cam.shape[1], placement.input_width, target.left, target.width, source.width)
    heat = np.zeros((placement.height, placement.width), np.float32)
    heat[source.slices] = rows @ cam @ columns.T
    return heat


@lru_cache(maxsize=16)
def interpolation(cells: int, input_size: int, start: float, size: float, pixels: int) -> NDArray[np.float32]:
    """One axis of a bilinear map as a matrix [pixels, cells]: the pixels span ``start … start + size`` of the input.

    Two small matrix products are exact for every placement. (OpenCV's warpAffine rounds positions to 1/32 of a cell:
    steps one can see in a 7×7 map.)
    """
    position = (start + (np.arange(pixels) + 0.5) * size / pixels) * cells / input_size - 0.5
    position = position.clip(0, cells - 1)
    matrix: NDArray[np.float32] = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells))).astype(np.float32)
    matrix.flags.writeable = False
    return matrix
