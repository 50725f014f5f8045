"""Colours as codecs have them, against the standards in float64."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from onnxcam.runtime.yuv import picture_of, yuv420p

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


def frame_of(luma: np.ndarray, blue: np.ndarray, red: np.ndarray, name: str = "yuv420p") -> VideoFrame:
    height, width = luma.shape
    frame = VideoFrame(width, height, name)
    for plane, values in zip(frame.planes, (luma, blue, red), strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = values
        plane.update(rows.tobytes())
    return frame


@pytest.mark.parametrize(
    ("colorspace", "kr", "kb"),
    [(Colorspace.ITU709, KR, KB), (Colorspace.ITU601, 0.299, 0.114), (6, 0.299, 0.114), (9, 0.2627, 0.0593)],
)
@pytest.mark.parametrize("full", ["", "tagged", "yuvj420p"])
@pytest.mark.parametrize(("height", "width"), [(90, 160), (7, 5), (2, 66)])
def test_each_pixel_is_within_one_of_the_exact_one(
    colorspace: int, kr: float, kb: float, full: str, height: int, width: int
) -> None:
    rng = np.random.default_rng(0)
    coarse = -(-height // 2), -(-width // 2)
    luma, blue, red = (rng.integers(16, 236, shape, np.uint8) for shape in ((height, width), coarse, coarse))
    frame = frame_of(luma, blue, red, "yuvj420p" if full == "yuvj420p" else "yuv420p")
    if full == "tagged":
        frame.color_range = ColorRange.JPEG
    y = luma / 255 if full else (luma - 16.0) / 219
    cb, cr = (
        ((plane - 128.0) / (255 if full else 224)).repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
        for plane in (blue, red)
    )
    r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    expected = 255 * np.stack([b, (y - kr * r - kb * b) / (1 - kr - kb), r], axis=-1).clip(0, 1)
    found = picture_of(frame, colorspace)
    assert found is not None
    assert found.shape == (height, width, 3)
    assert np.abs(found - expected).max() <= 1


def test_what_goes_through_both_ways_comes_out_as_it_was() -> None:
    rng = np.random.default_rng(0)
    luma = cv2.resize(rng.integers(60, 190, (9, 16), np.uint8), (160, 90), interpolation=cv2.INTER_CUBIC)
    blue, red = (cv2.resize(rng.integers(110, 146, (9, 16), np.uint8), (80, 45)) for _ in range(2))
    frame = frame_of(luma, blue, red)
    picture = picture_of(frame, Colorspace.ITU709)
    assert picture is not None
    for found, given in zip(planes(picture), (luma, blue, red), strict=True):
        error = found.astype(int) - given
        assert np.abs(error).max() <= 1
        assert abs(error.mean()) < 0.1


def test_other_formats_and_matrices_are_left_to_others() -> None:
    assert picture_of(VideoFrame(4, 4, "yuv444p"), Colorspace.ITU709) is None
    assert picture_of(VideoFrame(4, 4, "yuv420p"), Colorspace.SMPTE240M) is None
