"""The heat of a cell lands on the pixels that the cell saw, at any aspect ratio."""

from __future__ import annotations

import numpy as np
import pytest

from onnxcam.contract import Preprocess
from onnxcam.runtime.geometry import Rectangle, place, project


def spot(rows: int, columns: int, row: int, column: int) -> np.ndarray:
    cam = np.zeros((rows, columns), np.float32)
    cam[row, column] = 1
    return cam


@pytest.mark.parametrize(
    ("resize", "ratio", "picture", "source", "target"),
    [
        ("crop", 1.0, (30, 50), Rectangle(0, 10, 30, 30), Rectangle(0, 0, 20, 20)),
        ("crop", 0.5, (50, 30), Rectangle(17, 7, 15, 15), Rectangle(0, 0, 20, 20)),
        ("stretch", 0.5, (50, 30), Rectangle(0, 0, 50, 30), Rectangle(0, 0, 20, 20)),
        ("letterbox", 0.5, (50, 30), Rectangle(0, 0, 50, 30), Rectangle(0, 4, 20, 12)),
        ("letterbox", 0.5, (10, 40), Rectangle(0, 0, 10, 40), Rectangle(7, 0, 5, 20)),
    ],
)
def test_what_the_model_sees(resize, ratio, picture, source, target):
    placement = place(*picture, Preprocess(height=20, width=20, resize=resize, crop_ratio=ratio))
    assert placement.source.height == pytest.approx(source.height, abs=1)
    assert (placement.source, placement.target) == (source, target)


def test_stretch_puts_a_cell_where_it_came_from():
    placement = place(70, 35, Preprocess(height=20, width=20, resize="stretch"))
    heat = project(spot(7, 7, 1, 5), placement)
    assert heat.shape == (70, 35)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert (row, column) in {(14, 27), (15, 27)}  # the cell covers rows 10-19 and columns 25-29
    assert heat[30:].max() == 0
    assert heat[:, :20].max() == 0


def test_crop_shows_no_heat_where_the_model_saw_nothing():
    placement = place(35, 71, Preprocess(height=20, width=20, resize="crop"))  # sees columns 18 to 52
    heat = project(np.ones((7, 7), np.float32), placement)
    assert heat[:, :18].max() == 0
    assert heat[:, 53:].max() == 0
    np.testing.assert_allclose(heat[:, 18:53], 1, rtol=1e-6)
    corner = project(spot(7, 7, 0, 6), placement)
    row, column = np.unravel_index(corner.argmax(), corner.shape)
    assert row <= 2
    assert 48 <= column <= 52


def test_letterbox_cuts_the_padding_off_within_a_cell():
    # 10×40 in 20×20: rows 7 to 11 of the input, so of 4 cells of 5 rows the second covers rows 5-9
    placement = place(10, 40, Preprocess(height=20, width=20, resize="letterbox"))
    ramp = np.repeat(np.arange(4, dtype=np.float32)[:, None], 4, axis=1)
    heat = project(ramp, placement)
    # picture row r has its centre at input row 7 + (r + 0.5)/2, that is cell (7 + (r + 0.5)/2)/5 - 0.5
    np.testing.assert_allclose(heat[:, 20], (7 + (np.arange(10) + 0.5) / 2) / 5 - 0.5, rtol=1e-5)
