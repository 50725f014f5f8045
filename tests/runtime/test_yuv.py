"""Colours as encoders take them, against BT.709 in float64."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from onnxcam.runtime.yuv import yuv420p

KR, KG, KB = 0.2126, 0.7152, 0.0722


def planes(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = picture.shape[:2]
    whole = yuv420p(picture).to_ndarray()
    blue, red = whole[height:].reshape(2, height // 2, width // 2)
    return whole[:height], blue, red


def exact(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y' at each pixel, Cb and Cr at each square of four."""
    b, g, r = np.moveaxis(picture / 255, -1, 0)
    luma = KR * r + KG * g + KB * b

    def mean(plane: np.ndarray) -> np.ndarray:
        height, width = plane.shape
        return plane.reshape(height // 2, 2, width // 2, 2).mean((1, 3))

    cb, cr = (b - luma) / (2 - 2 * KB), (r - luma) / (2 - 2 * KR)
    return 16 + 219 * luma, 128 + 224 * mean(cb), 128 + 224 * mean(cr)


@pytest.mark.parametrize("shape", [(90, 160), (2, 2), (6, 10)])
def test_each_value_is_within_one_of_the_exact_one(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (9, 16, 3), np.uint8), shape[::-1], interpolation=cv2.INTER_CUBIC)
    for picture in (smooth, rng.integers(0, 256, (*shape, 3), np.uint8)):
        for found, expected in zip(planes(picture), exact(picture), strict=True):
            assert np.abs(found - expected).max() <= 1
            assert abs((found - expected).mean()) <= (0.5 if found.size < 100 else 0.1)


def test_grey_has_no_colour() -> None:
    ramp = np.arange(256, dtype=np.uint8).repeat(2)[None, :, None].repeat(2, axis=0).repeat(3, axis=2)
    luma, blue, red = planes(ramp)
    assert (luma[0, 0], luma[0, -1]) == (16, 235)
    assert set(blue.ravel()) | set(red.ravel()) == {128}


def test_a_view_of_a_picture_is_taken_as_it_is_seen() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    for view in (picture[:, ::-1], picture[::-1], picture[2:6, 4:10]):
        assert np.array_equal(yuv420p(view).to_ndarray(), yuv420p(view.copy()).to_ndarray())
