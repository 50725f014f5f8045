"""Pictures as video codecs have them: 8 bits, luma for each pixel and colour for each square of four (4:2:0).

Every value is rounded once, so that what goes through both ways comes out within 1 of 255. swscale takes longer, and
darkens by 1 whatever it reads.
"""

from __future__ import annotations

__all__ = ["picture_of", "yuv420p"]

from functools import cache
from typing import Any, Final

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from onnxcam.runtime.preprocess import Picture

_SMPTE170M: Final = 6  # AVCOL_SPC_SMPTE170M, which PyAV has no name for
_BT2020: Final = 9  # AVCOL_SPC_BT2020_NCL, which PyAV 17 has none for
_SHARES: Final = {
    Colorspace.ITU709: (0.2126, 0.0722),  # ITU-R BT.709, 3.2
    Colorspace.ITU601: (0.299, 0.114),  # ITU-R BT.601, 2.5.1, of 625 lines
    _SMPTE170M: (0.299, 0.114),  # and of 525
    _BT2020: (0.2627, 0.0593),  # ITU-R BT.2020, table 4
}
"""Of red and blue in luma, by FFmpeg's number of the matrix."""
_FULL_RANGE: Final = "yuvj420p"
"""The old name of yuv420p whose luma is 0-255, not 16-235."""


def yuv420p(picture: Picture) -> VideoFrame:
    """``picture`` (uint8 BGR, its sides even) by BT.709 in studio range; of four pixels the colour is the mean.

    Within 1 of 255 of the exact value.
    """
    height, width = picture.shape[:2]
    frame = VideoFrame(width, height, "yuv420p")
    luma, blue, red = _planes(frame)
    matrix = _from_bgr()
    coarse = cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    # extractChannel takes four times as long
    cv2.split(cv2.transform(picture, matrix), [luma, np.empty_like(luma), np.empty_like(luma)])
    cv2.split(cv2.transform(coarse, matrix), [np.empty_like(blue), blue, red])
    return frame


def picture_of(frame: VideoFrame, colorspace: int) -> Picture | None:
    """``frame`` as uint8 BGR [H, W, 3], with the colour of each square at its four pixels; within 1 of 255 of exact.

    colorspace: FFmpeg's number of its matrix. None where the frame is not of 8 bits in 4:2:0, or has another matrix.
    """
    if frame.format.name not in ("yuv420p", _FULL_RANGE) or colorspace not in _SHARES:
        return None
    luma, blue, red = _planes(frame)
    full = frame.format.name == _FULL_RANGE or frame.color_range == ColorRange.JPEG
    height, width = luma.shape
    planes = [luma, *(_doubled(plane)[:height, :width] for plane in (blue, red))]
    picture: Picture = cv2.transform(cv2.merge(planes), _to_bgr(colorspace, full=full))
    return picture


def _planes(frame: VideoFrame) -> list[NDArray[np.uint8]]:
    """Luma, Cb and Cr of ``frame`` themselves."""
    return [
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]  # type: ignore[call-overload]
        for plane in frame.planes
    ]


def _doubled(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each value of ``plane`` as a square of four; `cv2.resize` takes eight times as long."""
    wide: NDArray[np.uint8] = (plane * np.uint16(0x0101)).view(np.uint8)
    return wide.repeat(2, axis=0)


@cache
def _from_bgr() -> NDArray[np.float32]:
    """`_matrix` of BT.709 in studio range, for `cv2.transform`."""
    return _matrix(Colorspace.ITU709, full=False).astype(np.float32)[:3]


@cache
def _to_bgr(colorspace: int, *, full: bool) -> NDArray[np.float32]:
    """The inverse of `_matrix`, for `cv2.transform`."""
    return np.linalg.inv(_matrix(colorspace, full=full)).astype(np.float32)[:3]


def _matrix(colorspace: int, *, full: bool) -> NDArray[Any]:
    """From blue, green, red and 1, 0-255, to Y', Cb, Cr and 1: ITU-R BT.709, 3.3 and 3.4."""
    red, blue = _SHARES[colorspace]
    luma = np.array([blue, 1 - blue - red, red])
    excursion, chroma, black = (255, 255, 0) if full else (219, 224, 16)
    return np.array(
        [
            [*(excursion / 255 * luma), black],
            [*(chroma / 255 / 2 * ([1, 0, 0] - luma) / (1 - blue)), 128],
            [*(chroma / 255 / 2 * ([0, 0, 1] - luma) / (1 - red)), 128],
            [0, 0, 0, 1],
        ]
    )
