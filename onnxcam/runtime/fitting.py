"""Pictures brought to the size of a video's first."""

from __future__ import annotations

__all__ = ["fitted"]

import cv2
import numpy as np

from onnxcam.runtime.geometry import fit
from onnxcam.runtime.preprocess import Picture


def fitted(picture: Picture, height: int, width: int) -> Picture:
    """``picture`` (uint8 BGR) as large as it fits into ``height × width`` pixels, in the middle, black around it."""
    rows, columns = picture.shape[:2]
    if (rows, columns) == (height, width):
        return picture
    place = fit(rows, columns, height, width)
    whole = np.zeros((height, width, 3), np.uint8)
    whole[place.slices] = cv2.resize(picture, (place.width, place.height), interpolation=cv2.INTER_AREA)
    return whole
