"""Maps that go along with the picture, whatever part of it the model sees."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from onnxcam.contract import Preprocess
from onnxcam.runtime.geometry import Placement, place
from onnxcam.runtime.motion import Motion
from onnxcam.runtime.preprocess import Picture

HEIGHT, WIDTH = 240, 400


def placed(resize: str, height: int = HEIGHT, width: int = WIDTH) -> Placement:
    preprocess = Preprocess(height=160, width=200, resize=resize, crop_ratio=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)  # type: ignore[arg-type]
    return place(height, width, preprocess)


def texture(down: int = 0, right: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Picture:
    """A picture of soft blots, moved by so many pixels."""
    rng = np.random.default_rng(0)
    blots = cv2.resize(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8), (900, 600), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(blots[100 - down : 100 - down + height, 200 - right : 200 - right + width])


@pytest.mark.parametrize(
    ("resize", "down", "right"),
    [  # a cell of a map of 8 × 10 is 30 × 40 pixels of a picture stretched, 30 × 30 of one cropped, 40 × 40 in bars
        ("stretch", 15, 0),
        ("stretch", 0, -20),
        ("crop", -15, 15),
        ("letterbox", 0, 20),
    ],
)
def test_heat_goes_with_what_moves(resize: str, down: int, right: int) -> None:
    placement = placed(resize)
    cell = {"stretch": (30, 40), "crop": (30, 30), "letterbox": (40, 40)}[resize]
    cam = np.random.default_rng(1).random((8, 10), np.float32)
    motion = Motion()
    motion.follow(texture(), placement)
    motion.follow(texture(down, right), placement)
    expected = cv2.warpAffine(cam, np.float32([[1, 0, right / cell[1]], [0, 1, down / cell[0]]]), (10, 8))
    inner = slice(3, -3), slice(2, -2)  # off the bars, and off what comes into the picture
    np.testing.assert_allclose(motion.carried(cam)[inner], expected[inner], atol=0.12)
    assert np.abs(cam - expected)[inner].max() > 0.4  # standing still would not do


def test_where_nothing_moves_maps_stay_as_they_are_to_the_bit() -> None:
    cam = np.random.default_rng(1).random((7, 5), np.float32)
    for picture in (texture(), np.full((HEIGHT, WIDTH, 3), 90, np.uint8)):
        motion = Motion()
        np.testing.assert_array_equal(motion.carried(cam), cam)  # before any frame
        for _ in range(2):
            motion.follow(picture, placed("crop"))
            np.testing.assert_array_equal(motion.carried(cam), cam)


def test_a_frame_of_another_size_is_the_first() -> None:
    cam = np.random.default_rng(1).random((7, 5), np.float32)
    motion = Motion()
    motion.follow(texture(), placed("stretch"))
    motion.follow(texture(30, 30, 200, 400), placed("stretch", 200, 400))
    np.testing.assert_array_equal(motion.carried(cam), cam)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4000), (4000, 1), (3, 5)])
def test_pictures_of_any_size_are_followed(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    for resize in ("stretch", "crop", "letterbox"):
        motion = Motion()
        for _ in range(3):
            motion.follow(rng.integers(0, 255, (height, width, 3), dtype=np.uint8), placed(resize, height, width))
            assert np.isfinite(motion.carried(np.ones((2, 3), np.float32))).all()
