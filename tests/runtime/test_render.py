"""Rendered pictures, pixel by pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from onnxcam.errors import OnnxCamError
from onnxcam.runtime.render import boxed, caption, colorize, overlay, side_by_side
from onnxcam.runtime.style import COLORMAPS

FRAME = np.random.default_rng(7).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def heat(*values: float) -> np.ndarray:
    """A heat map as large as FRAME, its columns these values and 0."""
    columns = np.zeros(7, np.float32)
    columns[: len(values)] = values
    return np.tile(columns, (5, 1))


def test_without_heat_the_picture_stands_bit_for_bit():
    every_value = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    np.testing.assert_array_equal(overlay(every_value, np.zeros((16, 16), np.float32), alpha=1), every_value)
    np.testing.assert_array_equal(overlay(FRAME, heat(1, 0.5), alpha=0.7)[:, 2:], FRAME[:, 2:])
    np.testing.assert_array_equal(overlay(FRAME, heat(1, 1, 1), alpha=0), FRAME)


def test_the_share_of_the_colour_is_alpha_times_the_heat():
    grey = np.full((5, 7, 3), 100, np.uint8)
    mixed = overlay(grey, heat(1, 0.6), alpha=0.5, colormap="gray")
    # full heat: 0.5 * 255 + 0.5 * 100 = 177.5; heat 0.6: 0.3 * 153 + 0.7 * 100 = 115.9
    np.testing.assert_allclose(mixed[0, :3, 1], [177.5, 115.9, 100], atol=1)
    assert overlay(grey, heat(1), alpha=1, colormap="turbo")[0, 0].tolist() == colorize(heat(1), "turbo")[0, 0].tolist()


def test_equal_heat_looks_equal_whatever_else_is_in_the_frame():
    grey = np.full((5, 7, 3), 100, np.uint8)
    assert overlay(grey, heat(0.4))[0, 0].tolist() == overlay(grey, heat(0.4, 1))[0, 0].tolist()


@pytest.mark.parametrize("name", COLORMAPS)
def test_every_colour_map_is_the_one_it_is_named_after(name):
    ramp = np.arange(256, dtype=np.uint8)[None]
    flag = getattr(cv2, f"COLORMAP_{name.upper()}", None)
    expected = np.repeat(ramp[..., None], 3, 2) if flag is None else cv2.applyColorMap(ramp, flag)
    np.testing.assert_array_equal(colorize(ramp.astype(np.float32) / 255, name), expected)


def test_unknown_names_and_alphas_are_refused():
    with pytest.raises(OnnxCamError, match="no colour map 'virdis': did you mean 'viridis'"):
        colorize(heat(1), "virdis")
    with pytest.raises(OnnxCamError, match=r"alpha is 1\.5"):
        overlay(FRAME, heat(1), alpha=1.5)


def test_side_by_side_is_the_picture_and_the_other():
    both = side_by_side(FRAME, 255 - FRAME)
    np.testing.assert_array_equal(both[:, :7], FRAME)
    np.testing.assert_array_equal(both[:, 7:], 255 - FRAME)


@pytest.mark.parametrize("ground", [0, 255])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (45, 301), (720, 1280)])
def test_a_caption_is_white_on_dark_on_any_ground_and_size(ground, height, width):
    image = np.full((height, width, 3), ground, np.uint8)
    shown = caption(image, ["43%  tabby"])
    assert (image == ground).all()  # the picture itself is left alone
    box = shown[: height // 3, : width // 2]
    assert box.max() > 200
    assert box.min() < 100
    assert (shown[2 * height // 3 :] == ground).all()


def test_a_caption_at_the_bottom_leaves_the_rest():
    ground = np.full((120, 200, 3), 90, np.uint8)
    drawn = caption(ground, ["REC"], corner="bottom")
    changed = np.argwhere((drawn != ground).any(2))
    assert changed.min(0)[0] > 60
    assert tuple(changed.max(0)) < (120, 100)
    assert changed.max(0)[0] == 119


def test_a_long_caption_is_cut_before_the_edge_but_never_within_its_number():
    blank = np.zeros((100, 120, 3), np.uint8)
    cut = caption(blank, ["43%  " + "supercalifragilistic" * 5])
    assert cut.max() > 200
    assert cut[:, -3:].max() == 0
    whole = caption(np.zeros((40, 60, 3), np.uint8), ["43%"])
    shown = {width: caption(np.zeros((40, width, 3), np.uint8), ["43%"]) for width in range(8, 60)}
    assert shown[8].max() == 0  # no room for the number, so none of it
    for width, image in shown.items():
        assert image.max() == 0 or (image == whole[:, :width]).all()


def test_a_caption_in_other_letters_is_shown_in_ascii():
    blank = np.zeros((200, 400, 3), np.uint8)
    np.testing.assert_array_equal(caption(blank, ["Bär ‘Größe’ – œuf"]), caption(blank, ["Bar 'Grosse' - oeuf"]))
    np.testing.assert_array_equal(caption(blank, ["猫"]), caption(blank, ["?"]))


def test_what_is_at_a_box_stands_above_it_or_within_at_the_upper_edge():
    blank = np.full((100, 160, 3), 200, np.uint8)
    boxes = np.array([[20, 40, 60, 80], [100, 0, 140, 30], [150, 95, 170, 120]], np.float32)
    plain = boxed(blank, boxes)
    shown = (boxed(blank, boxes, ["93%  cat", "5.0%  cat", "8%  cat"]) != plain).any(2)
    above, within, beside = shown[20:40, 18:90], shown[:25, 95:], shown[75:96, 80:]
    assert above.any()
    assert within.any()
    assert beside.any()  # moved to the left, where it fits
    assert shown.sum() == above.sum() + within.sum() + beside.sum()
    one = boxed(blank, boxes[:1], ["93%  cat"])[30:40, 20:60]
    assert one.max() > 240  # white
    assert one.min() < 70  # on dark
    np.testing.assert_array_equal(boxed(blank, boxes[:0], []), blank)
    assert boxed(blank[:4, :4], boxes[:1] / 20, ["93%  cat"]).shape == (4, 4, 3)


def test_a_tall_picture_is_mixed_as_a_small_one():
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (201, 19, 3), dtype=np.uint8)
    warm = np.zeros((201, 19), np.float32)
    warm[5:190, 2:17] = rng.random((185, 15))
    rows = [overlay(picture[i : i + 1], warm[i : i + 1]) for i in range(201)]
    np.testing.assert_array_equal(overlay(picture, warm), np.concatenate(rows))
