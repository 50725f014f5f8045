"""The model's input, number by number."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from onnxcam.contract import Preprocess
from onnxcam.errors import InputError
from onnxcam.runtime.geometry import place
from onnxcam.runtime.preprocess import as_bgr, model_input

IMAGENET = Preprocess(height=1, width=2, resize="stretch")
PIXELS = np.array([[[0, 51, 255], [255, 102, 0]]], np.uint8)  # BGR


def fed(picture: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    return model_input(picture, place(picture.shape[0], picture.shape[1], preprocess), preprocess)


def test_mean_and_deviation_stand_in_the_order_of_the_colours():
    expected = [
        [[(1 - 0.485) / 0.229, (0 - 0.485) / 0.229]],
        [[(0.2 - 0.456) / 0.224, (0.4 - 0.456) / 0.224]],
        [[(0 - 0.406) / 0.225, (1 - 0.406) / 0.225]],
    ]
    np.testing.assert_allclose(fed(PIXELS, IMAGENET), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_the_type_is_what_the_model_takes(dtype):
    plain = Preprocess(
        height=1, width=2, resize="stretch", scale=1.0, mean=(0,) * 3, std=(1,) * 3, layout="nhwc", dtype=dtype
    )
    values = fed(PIXELS, plain)
    assert values.dtype == dtype
    assert values.tolist() == PIXELS[..., ::-1].tolist()


def test_grey_is_one_channel_weighted_as_the_eye_does():
    grey = Preprocess(height=1, width=2, resize="stretch", scale=1.0, mean=(10,), std=(2,), color="gray")
    # 0.114 B + 0.587 G + 0.299 R: 106.2 and 88.9
    np.testing.assert_allclose(fed(PIXELS, grey), [[[(106 - 10) / 2, (89 - 10) / 2]]])


def test_shrinking_averages_over_the_area_unless_told_not_to():
    stripes = np.zeros((4, 8, 3), np.uint8)
    stripes[:, ::4] = 200  # one column in four
    half = {"height": 1, "width": 2, "resize": "stretch", "scale": 1.0, "mean": (0,) * 3, "std": (1,) * 3}
    assert fed(stripes, Preprocess(**half))[0].tolist() == [[50, 50]]
    assert fed(stripes, Preprocess(**half, antialias=False))[0].tolist() == [[0, 0]]
    assert fed(stripes, Preprocess(**half, interpolation="nearest"))[0].tolist() == [[200, 200]]


@pytest.mark.parametrize("size", [(500, 630), (945, 1131), (1260, 1890), (900, 2600), (2625, 2701)])
def test_shrinking_by_a_fraction_keeps_places_and_averages(size):
    height, width = size
    wanted = Preprocess(height=210, width=224, resize="stretch", scale=1.0, mean=(0,) * 3, std=(1,) * 3)
    ratios = height / 210, width / 224

    def shrunk(plane):
        return fed(plane.repeat(3, axis=2).astype(np.uint8), wanted)[0]

    for axis, ratio in enumerate(ratios):  # a ramp stays what it is at the middle of each pixel
        ramp = np.linspace(0, 255, size[axis]).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        middles = ((np.arange((210, 224)[axis]) + 0.5) * ratio - 0.5) * 255 / (size[axis] - 1)
        found = shrunk(np.broadcast_to(ramp, (*size, 1)).round()).mean(1 - axis)
        assert np.abs(found - middles)[2:-2].max() < 1
    noise = np.random.default_rng(0).normal(128, 40, (*size, 1)).clip(0, 255)
    assert shrunk(noise).std() == pytest.approx(noise.std() / np.sqrt(np.prod(ratios)), rel=0.25)
    exact = cv2.resize(noise.astype(np.uint8), (224, 210), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk(noise) - exact).mean() < 0.35 * exact.std()


def test_the_crop_takes_the_middle():
    columns = np.repeat(np.arange(7, dtype=np.uint8)[None, :, None] * 10, 3, axis=0).repeat(3, axis=2)
    crop = Preprocess(height=3, width=3, resize="crop", scale=1.0, mean=(0,) * 3, std=(1,) * 3)
    assert fed(columns, crop)[0].tolist() == [[20, 30, 40]] * 3


def test_grey_opacity_and_sixteen_bits_become_plain_colour():
    assert as_bgr(np.full((1, 2), 9, np.uint8)).tolist() == [[[9, 9, 9], [9, 9, 9]]]
    assert as_bgr(np.full((1, 2, 3), 65535, np.uint16))[0, 0].tolist() == [255, 255, 255]
    half = np.array([[[0, 100, 255, 51]]], np.uint8)  # a fifth of the colour, four fifths of white
    assert as_bgr(half)[0, 0].tolist() == [204, 224, 255]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 3, 3)), "not float64"),
        (np.zeros((2, 3, 2), np.uint8), r"not \[2, 3, 2\]"),
        (np.zeros((0, 3, 3), np.uint8), r"not \[0, 3, 3\]"),
        ("cat.jpg", "not str"),
    ],
)
def test_what_is_no_picture_is_refused(image, message):
    with pytest.raises(InputError, match=message):
        as_bgr(image)
