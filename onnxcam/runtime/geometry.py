"""Where the model looked: which pixels of a picture reached its input, and back from its map to those pixels."""

from __future__ import annotations

__all__ = ["BAND", "Placement", "Rectangle", "bands", "fit", "interpolation", "place", "project"]

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from onnxcam.contract import Preprocess

BAND = 64
"""Rows of a picture that are drawn at a time."""


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
        target = fit(height, width, input_height, input_width)
    return Placement(height, width, source, input_height, input_width, target)


def fit(height: int, width: int, within_height: int, within_width: int) -> Rectangle:
    """Where a picture of ``height × width`` pixels lies, as large as it can be, in the middle of others."""
    ratio = min(within_height / height, within_width / width)
    return _centred(height * ratio, width * ratio, within=Rectangle(0, 0, within_height, within_width))


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
    heat = np.zeros((placement.height, placement.width), np.float32)
    for _ in bands(cam, placement, into=heat):
        pass
    return heat


def bands(
    cam: NDArray[np.float32], placement: Placement, *, into: NDArray[np.float32] | None = None
) -> Iterator[tuple[tuple[slice, slice], NDArray[np.float32]]]:
    """`project`, `BAND` rows at a time: where in the picture, and the heat there; left out where the model saw nothing.

    A band stays in the processor's cache, and needs no memory that the system would hand out, and take back, for each
    frame. into: an array [H, W] that they are written to.
    """
    source, target = placement.source, placement.target
    rows, down = _between(cam.shape[0], placement.input_height, target.top, target.height, source.height)
    columns, right = _between(cam.shape[1], placement.input_width, target.left, target.width, source.width)
    padded = np.pad(cam, (0, 1), "edge")
    wide = padded.take(columns, axis=1) * right[:, 0] + padded.take(columns + 1, axis=1) * right[:, 1]
    edges = np.flatnonzero(np.diff(rows)) + 1
    across = slice(source.left, source.left + source.width)
    for top in range(0, source.height, BAND):
        bottom = min(top + BAND, source.height)
        where = slice(source.top + top, source.top + bottom), across
        band = np.empty((bottom - top, source.width), np.float32) if into is None else into[where]
        within = edges[np.searchsorted(edges, top, "right") : np.searchsorted(edges, bottom)].tolist()
        for upper, lower in pairwise([top, *within, bottom]):  # the pixels between two cells of the map
            cell = rows[upper]
            np.einsum("pk,kx->px", down[upper:lower], wide[cell : cell + 2], out=band[upper - top : lower - top])
        yield where, band


@lru_cache(maxsize=16)
def _between(
    cells: int, input_size: int, start: float, size: float, pixels: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each of the pixels that span ``start … start + size`` of one axis of the input: the cell of the map before
    it, and the shares of that and of the next, float32 [pixels, 2].

    (Matrices would do it too, but NumPy's BLAS keeps a core busy for 20 ms after each product, waiting for the next;
    and OpenCV's warpAffine rounds positions to 1/32 of a cell: steps one can see in a 7×7 map.)
    """
    position = ((start + (np.arange(pixels) + 0.5) * size / pixels) * cells / input_size - 0.5).clip(0, cells - 1)
    before = position.astype(np.intp)
    after = position - before
    shares = np.stack([1 - after, after], axis=1).astype(np.float32)
    before.flags.writeable = shares.flags.writeable = False
    return before, shares


@lru_cache(maxsize=16)
def interpolation(cells: int, input_size: int, start: float, size: float, pixels: int) -> NDArray[np.float32]:
    """The same as a matrix [pixels, cells], for small maps."""
    before, shares = _between(cells, input_size, start, size, pixels)
    matrix = np.zeros((pixels, cells + 1), np.float32)
    each = np.arange(pixels)
    matrix[each, before], matrix[each, before + 1] = shares.T
    matrix = np.ascontiguousarray(matrix[:, :cells])
    matrix.flags.writeable = False
    return matrix
