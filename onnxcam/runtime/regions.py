"""A box, a point or a mask in a picture, as the part of the model's output that lies there."""

from __future__ import annotations

__all__ = ["Box", "Point", "box_region", "mask_region", "point_region"]

from collections.abc import Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import InputError
from onnxcam.runtime.geometry import Placement

Box: TypeAlias = Sequence[float]
"""Left, top, width and height in pixels of the picture."""
Point: TypeAlias = Sequence[float]
"""Column and row of a pixel of the picture, from 0 on."""


def box_region(box: Box, placement: Placement, height: int, width: int) -> NDArray[np.float32]:
    """The share of each of ``height × width`` output pixels that ``box`` covers, float32 0-1.

    Raises `InputError` for a box that does not lie within the picture, has no extent, or that the model did not see.
    """
    if len(box) != 4:
        raise InputError(f"a box is x, y, width and height, not {list(box)}")
    left, top, across, down = (float(each) for each in box)
    size = f"the picture is {placement.width}×{placement.height}"
    if not (across > 0 and down > 0):
        raise InputError(f"the box {_text(box)} has no extent: give a width and a height above 0")
    if left < 0 or top < 0 or left + across > placement.width or top + down > placement.height:
        raise InputError(f"the box {_text(box)} lies outside the picture: {size}")
    x, y = _to_input([left, left + across], [top, top + down], placement)
    rows = _covered(y, placement.target.top, placement.target.height, placement.input_height, height)
    columns = _covered(x, placement.target.left, placement.target.width, placement.input_width, width)
    return _seen(np.outer(rows, columns), f"the box {_text(box)}", placement)


def point_region(point: Point, placement: Placement, height: int, width: int) -> NDArray[np.float32]:
    """1 at the one of ``height × width`` output pixels that ``point`` lies in. Raises `InputError` as `box_region`."""
    if len(point) != 2:
        raise InputError(f"a point is x and y, not {list(point)}")
    x, y = (float(each) for each in point)
    if not (0 <= x < placement.width and 0 <= y < placement.height):
        size = f"the picture is {placement.width}×{placement.height}"
        raise InputError(f"the point {_text(point)} lies outside the picture: {size}")
    (column,), (row,) = _to_input([x + 0.5], [y + 0.5], placement)
    region = np.zeros((height, width))
    target = placement.target
    if target.left <= column < target.left + target.width and target.top <= row < target.top + target.height:
        region[int(row * height / placement.input_height), int(column * width / placement.input_width)] = 1
    return _seen(region, f"the point {_text(point)}", placement)


def mask_region(mask: NDArray[Any], placement: Placement, height: int, width: int) -> NDArray[np.float32]:
    """The share of each of ``height × width`` output pixels that ``mask`` [H, W], not 0, covers.

    Raises `InputError` for a mask of another size than the picture, an empty one, or one that the model did not see.
    """
    mask = np.asarray(mask)
    if mask.shape != (placement.height, placement.width):
        raise InputError(
            f"the mask has the shape {list(mask.shape)}, and the picture is {placement.height}×{placement.width} "
            "(rows, columns): give a mask of that size"
        )
    if not mask.any():
        raise InputError("the mask is empty: mark at least one pixel")
    canvas = np.zeros((placement.input_height, placement.input_width), np.float32)
    target = placement.target
    cut = (mask[placement.source.slices] != 0).astype(np.float32)
    canvas[target.slices] = cv2.resize(cut, (target.width, target.height), interpolation=cv2.INTER_AREA)
    return _seen(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), "the mask", placement)


def _to_input(x: Sequence[float], y: Sequence[float], placement: Placement) -> tuple[list[float], list[float]]:
    """Columns and rows of the picture as those of the model's input."""
    source, target = placement.source, placement.target
    columns = [target.left + (each - source.left) * target.width / source.width for each in x]
    rows = [target.top + (each - source.top) * target.height / source.height for each in y]
    return columns, rows


def _covered(ends: Sequence[float], start: int, size: int, input_size: int, cells: int) -> NDArray[np.float64]:
    """The share of each of ``cells`` along one axis of the input that lies between ``ends`` and within the picture."""
    low, high = max(ends[0], start), min(ends[1], start + size)
    edges = np.arange(cells + 1) * input_size / cells
    inside = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    found: NDArray[np.float64] = inside.clip(0) * cells / input_size
    return found


def _seen(region: NDArray[Any], what: str, placement: Placement) -> NDArray[np.float32]:
    if not (region > 0).any():
        source = placement.source
        raise InputError(
            f"{what} lies where the model does not look: of this picture it sees columns {source.left} to "
            f"{source.left + source.width - 1} and rows {source.top} to {source.top + source.height - 1}"
        )
    return region.astype(np.float32)


def _text(numbers: Sequence[float]) -> str:
    return ",".join(f"{each:g}" for each in numbers)
