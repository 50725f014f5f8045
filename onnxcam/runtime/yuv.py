"""Pictures as video encoders take them: BT.709, studio range, 4:2:0."""

from __future__ import annotations

__all__ = ["yuv420p"]

import cv2
import numpy as np
from av.video.frame import VideoFrame

from onnxcam.runtime.preprocess import Picture

_RED, _BLUE = 0.2126, 0.0722  # their shares of luma: ITU-R BT.709, 3.2
_LUMA = np.array([_BLUE, 1 - _BLUE - _RED, _RED])
_MATRIX = np.vstack(
    [
        [*(219 / 255 * _LUMA), 16],
        [*(112 / 255 * ([1, 0, 0] - _LUMA) / (1 - _BLUE)), 128],
        [*(112 / 255 * ([0, 0, 1] - _LUMA) / (1 - _RED)), 128],
    ]
).astype(np.float32)
"""From blue, green, red and 1, 0-255, to Y' in 16-235, Cb and Cr in 16-240: ITU-R BT.709, 3.3 and 3.4."""


def yuv420p(picture: Picture) -> VideoFrame:
    """``picture`` (uint8 BGR, its sides even); of four pixels the colour is the mean.

    Within 1 of 255 of the exact value, as swscale's with ``ACCURATE_RND`` is, which takes four times as long.
    """
    height, width = picture.shape[:2]
    frame = VideoFrame(width, height, "yuv420p")
    luma, blue, red = (
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]  # type: ignore[call-overload]
        for plane in frame.planes
    )
    coarse = cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    chroma = cv2.transform(coarse, _MATRIX)
    cv2.extractChannel(cv2.transform(picture, _MATRIX), 0, luma)
    cv2.extractChannel(chroma, 1, blue)
    cv2.extractChannel(chroma, 2, red)
    return frame
