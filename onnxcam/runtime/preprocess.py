"""From a picture to the model's input, exactly as `onnxcam.contract.Preprocess` states it."""

from __future__ import annotations

__all__ = ["Picture", "Prepared", "as_bgr", "model_input"]

import math
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxcam.contract import Preprocess
from onnxcam.errors import InputError
from onnxcam.runtime.geometry import Placement

Picture: TypeAlias = NDArray[Any]
"""uint8 BGR [H, W, 3]. (OpenCV's stubs type what it returns too loosely to say so here.)"""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A picture (uint8 BGR), where it lies in the model's input, and that input without its batch axis."""

    picture: Picture
    placement: Placement
    tensor: NDArray[Any]


_INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}

_HALVED_FROM: Final = 5
"""Times the size wanted from which halving first costs nothing in quality."""
_BY_INTERPOLATING, _BY_BOTH = 1.0, 1.5
"""What bilinear interpolation, and with it halving, takes from a box's width squared: fitted to `cv2.INTER_AREA`."""


def as_bgr(image: NDArray[Any]) -> Picture:
    """``image`` as uint8 BGR [H, W, 3]: grey is repeated, 16 bits become 8, and what is transparent becomes white.

    image: uint8 or uint16, [H, W], [H, W, 1], BGR [H, W, 3] or BGRA [H, W, 4].
    Raises `InputError` for any other array.
    """
    if not isinstance(image, np.ndarray):
        raise InputError(f"an image is a NumPy array [H, W, 3], not {type(image).__name__}: see read_picture for files")
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in image.shape:
        raise InputError(f"an image has the shape [H, W], [H, W, 3] or [H, W, 4], not {list(image.shape)}")
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=1 / 257)
    if image.dtype != np.uint8:
        raise InputError(f"an image holds uint8 (0-255) or uint16 (0-65535), not {image.dtype}: convert it first")
    if channels == 4:
        return _on_white(image)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if channels == 1 else image


def _on_white(image_bgra: Picture) -> Picture:
    opacity = image_bgra[..., 3:].repeat(3, axis=2)
    shown = cv2.multiply(np.ascontiguousarray(image_bgra[..., :3]), opacity, scale=1 / 255)
    return cv2.add(shown, cv2.bitwise_not(opacity))


def model_input(picture: Picture, placement: Placement, preprocess: Preprocess) -> NDArray[Any]:
    """``picture`` (uint8 BGR) as one input without its batch axis: [C, h, w], or [h, w, C] for ``nhwc``."""
    target = placement.target
    image = _resized(picture[placement.source.slices], target.height, target.width, preprocess)
    if preprocess.color == "rgb":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    elif preprocess.color == "gray":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
    if (target.height, target.width) != (placement.input_height, placement.input_width):
        whole = np.full((placement.input_height, placement.input_width, image.shape[2]), preprocess.fill, np.uint8)
        whole[target.slices] = image
        image = whole
    if preprocess.dtype == "uint8":
        return np.ascontiguousarray(image.transpose(2, 0, 1) if preprocess.layout == "nchw" else image)
    values = _normalized(image, preprocess).astype(preprocess.dtype, copy=False)
    return values if preprocess.layout == "nchw" else np.ascontiguousarray(values.transpose(1, 2, 0))


def _normalized(image: Picture, preprocess: Preprocess) -> NDArray[np.float32]:
    """(pixel · scale - mean) / std in one multiplication and one subtraction: [C, h, w], of ``image`` [h, w, C]."""
    std = np.asarray(preprocess.std, np.float64)
    factors = (preprocess.scale / std).astype(np.float32)
    offsets = (np.asarray(preprocess.mean, np.float64) / std).astype(np.float32)
    planes = np.empty((image.shape[2], *image.shape[:2]), np.float32)
    for plane, pixels, factor, offset in zip(planes, cv2.split(image), factors, offsets, strict=True):
        np.multiply(pixels, factor, out=plane, dtype=np.float32)  # a plane at a time is six times as fast
        plane -= offset
    return planes


def _resized(image: Picture, height: int, width: int, preprocess: Preprocess) -> Picture:
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    if shrinks and preprocess.antialias and preprocess.interpolation != "nearest":
        return _shrunk(image, height, width)
    return cv2.resize(image, (width, height), interpolation=_INTERPOLATION[preprocess.interpolation])


def _shrunk(image: Picture, height: int, width: int) -> Picture:
    """``image`` at that size, each pixel the mean over the area it covers.

    `cv2.INTER_AREA` is slow where that is no whole number of pixels: from 720 and 2160 rows to 224 it takes 1.6 and
    11 ms. To halve as often as can be, blur by a box, and interpolate takes 0.4 and 2.9, and comes as near to Pillow's
    bicubic. The box is a little narrower than what a pixel covers: its width squared is less by what the others blur.
    """
    ratios = [image.shape[0] / height, image.shape[1] / width]
    blur = _BY_INTERPOLATING
    while min(ratios) >= _HALVED_FROM and not (image.shape[0] % 2 or image.shape[1] % 2):
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
        ratios = [ratio / 2 for ratio in ratios]
        blur = _BY_BOTH
    if not 2 <= min(ratios) < 2 * _HALVED_FROM or all(ratio.is_integer() for ratio in ratios):
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    vertical, horizontal = (_box(math.sqrt(ratio**2 - blur)) for ratio in ratios)
    blurred = cv2.sepFilter2D(image, -1, horizontal, vertical, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)


def _box(width: float) -> NDArray[np.float64]:
    """The weights, 1 in all, of the pixels that a box of ``width``, 1 or more, covers around the middle of one."""
    whole = int((width - 1) / 2)
    edge = (width - 1) / 2 - whole
    return np.array([edge, *[1.0] * (2 * whole + 1), edge]) / width
