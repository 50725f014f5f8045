"""Several views of a picture, brought back to it."""

from __future__ import annotations

import numpy as np
import pytest

import onnxcam
from onnxcam import Perturbation
from onnxcam.errors import MethodError
from onnxcam.runtime.augmentation import View, averaged, views
from onnxcam.runtime.geometry import interpolation

from .small_models import HEIGHT, WIDTH, attached, picture

RAMP = np.arange(6, dtype=np.float32)


def test_the_views_are_all_combinations_and_the_picture_as_it_is_comes_first():
    assert views(()) == [View()]
    assert views(["flip"]) == [View(), View(flip=True)]
    assert [(v.flip, v.scale) for v in views(["scale", "flip"])] == [
        (False, 1.0), (False, 0.9), (False, 1.1), (True, 1.0), (True, 0.9), (True, 1.1),
    ]  # fmt: skip
    assert len(views(["flip", "scale", "intensity"])) == 18
    with pytest.raises(MethodError, match="no augmentation 'flipp': did you mean 'flip'"):
        views(["flipp"])


def test_a_view_by_hand():
    row = RAMP.reshape(1, 1, 6)
    np.testing.assert_array_equal(View(flip=True).of(row), [[[5, 4, 3, 2, 1, 0]]])
    np.testing.assert_allclose(View(intensity=0.9).of(row), 0.9 * row)
    # twice as large about the middle: pixel centres .5, 1.5, … fall on 3 + (.5 - 3)/2 = 1.75, 2.25, …, less .5
    np.testing.assert_allclose(View(scale=2).of(row), [[[1.25, 1.75, 2.25, 2.75, 3.25, 3.75]]])
    # half as large: centres fall on 3 + (.5 - 3)·2 = -2, 0, 2, 4, 6, 8, less .5; beyond the border its pixel goes on
    np.testing.assert_allclose(View(scale=0.5).of(row), [[[0, 0, 1.5, 3.5, 5, 5]]])


def test_a_map_comes_back_to_where_it_was():
    # a bump at row and column 5 of 24 is brought to where each view shows it, and back
    at = np.exp(-((np.arange(24) - 5.0) ** 2) / 18).astype(np.float32)
    bump = np.outer(at, at).astype(np.float32)
    for view in views(["flip", "scale"]):
        seen = view.of(bump[None])[0]
        cam, inside = view.back(seen, (24, 24))
        assert np.unravel_index(cam.argmax(), cam.shape) == (5, 5), view
        assert np.abs(cam - bump)[inside > 0].max() < 0.07  # from interpolating twice
        if view.scale == 1:
            np.testing.assert_array_equal(cam, bump)


def test_places_that_a_larger_view_cut_off_are_those_of_the_others():
    # 1.1 shows 20/1.1 = 18.2 of 20 pixels, so the outer one at each side is only in the other view
    _, inside = View(scale=1.1).back(np.ones((2, 2), np.float32), (20, 20))
    assert inside[10].tolist() == [0] + [1] * 18 + [0]
    both = averaged([View(), View(scale=1.1)], [np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)], (20, 20))
    assert both[10, [0, 1, 18, 19]].tolist() == [0, 0.5, 0.5, 0]


def test_views_of_one_scale_keep_the_map_s_size():
    cams = [np.float32([[1, 2, 3]]), np.float32([[10, 20, 30]])]
    np.testing.assert_array_equal(averaged(views(["flip"]), cams, (20, 20)), [[15.5, 11, 6.5]])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = attached(tmp_path_factory.mktemp("network"), "network", method=["gradcam", "hirescam"])
    with onnxcam.load(path) as model:
        yield model


def test_augmented_maps_are_the_mean_of_the_maps_of_each_view(model):
    image = picture()
    plain, mirrored = model.explain([image, image[:, ::-1]], class_index=1, method="hirescam")
    got = model.explain(image, class_index=1, method="hirescam", augment=["flip"])
    np.testing.assert_allclose(got.cam, (plain.cam + mirrored.cam[:, ::-1]) / 2, rtol=1e-4, atol=1e-6)
    assert np.abs(got.cam - plain.cam).max() > 1e-3
    assert set(got.cams) == {"gradcam", "hirescam"}
    np.testing.assert_array_equal(got.scores, plain.scores)


def test_the_class_is_that_of_the_picture_as_it_is(model):
    for image in (picture(1), picture(2), picture(3)):
        plain = model.explain(image, class_index=-2)
        got = model.explain(image, class_index=-2, augment=["intensity", "flip"])
        assert got.class_index == plain.class_index
        named = model.explain(image, class_index=plain.class_index, augment=["intensity", "flip"])
        np.testing.assert_array_equal(got.cam, named.cam)


def test_scales_give_a_map_as_large_as_the_input(model):
    got = model.explain(picture(), augment=["scale"])
    assert got.cam.shape == (HEIGHT, WIDTH)
    assert got.heatmap.shape == (HEIGHT, WIDTH)
    rows, columns = (interpolation(cells, n, 0, n, n) for cells, n in ((4, HEIGHT), (4, WIDTH)))
    plain = rows @ model.explain(picture()).cam @ columns.T
    assert np.corrcoef(got.cam.ravel(), plain.ravel())[0, 1] > 0.9


def test_a_batch_is_each_alone_and_any_method_takes_views(model):
    pictures = [picture(1), picture(2)]
    how = {"method": "scorecam", "augment": ["flip"], "perturbation": Perturbation(batch=3)}
    together = model.explain(pictures, class_index=[0, 1], **how)
    for i, image in enumerate(pictures):
        alone = model.explain(image, class_index=i, **how)
        np.testing.assert_allclose(together[i].cam, alone.cam, rtol=1e-5)
        sides = model.explain([image, image[:, ::-1]], class_index=i, method="scorecam")
        np.testing.assert_allclose(alone.cam, (sides[0].cam + sides[1].cam[:, ::-1]) / 2, rtol=1e-4)
