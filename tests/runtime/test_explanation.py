"""Heat, probabilities and captions of one answer."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from onnxcam.contract import Preprocess
from onnxcam.errors import OutputError
from onnxcam.runtime import Explanation
from onnxcam.runtime.geometry import place
from onnxcam.runtime.probabilities import probabilities


def explained(cam: list[list[float]], score: float = 0.431, label: str | None = "tabby, tabby cat") -> Explanation:
    """A picture as large as its map, so that the heat map can be read off."""
    height, width = np.shape(cam)
    return Explanation(
        class_index=1,
        label=label,
        score=score,
        scores=np.array([0.2, score, 0.3], np.float32),
        cam=np.array(cam, np.float32),
        activations=None,
        gradients=None,
        picture=np.full((height, width, 3), 90, np.uint8),
        placement=place(height, width, Preprocess(height=height, width=width, resize="stretch")),
    )


def test_heat_is_the_positive_part_over_its_maximum():
    heat = explained([[-3, 0, 1], [2, 4, np.nan]]).heatmap
    np.testing.assert_allclose(heat, [[0, 0, 0.25], [0.5, 1, 0]])
    assert explained([[-3, 0, 1], [2, 4, 3]]).peak == 4


def test_a_few_pixels_do_not_hide_the_others_of_a_fine_map():
    # of 200 pixels, five are 4 and one is 100: 1 in 100 may exceed the scale
    fine = np.ones((10, 20))
    fine[3, 2:7], fine[0, 0] = 4, 100
    explanation = explained(fine.tolist())
    assert explanation.peak == 4
    np.testing.assert_allclose(explanation.heatmap, np.minimum(fine / 4, 1))
    coarse = replace(explanation, cam=fine[:5, :10].astype(np.float32))
    assert coarse.peak == 100, "a place of a layer is no outlier"
    lone = explained((fine * (fine == 100)).tolist())
    assert (lone.peak, lone.heatmap[0, 0]) == (100, 1)


@pytest.mark.parametrize("value", [0, 5, -2, np.nan, np.inf, 1e-45])
def test_a_flat_map_says_nothing_about_where(value):
    explanation = explained([[value] * 3] * 2)
    np.testing.assert_array_equal(explanation.heatmap, np.zeros((2, 3)))
    np.testing.assert_array_equal(explanation.overlay(), explanation.picture)


def test_one_peak_for_many_frames():
    explanation = explained([[0, 1, 4]])
    np.testing.assert_allclose(explanation.scaled_heatmap(8), [[0, 0.125, 0.5]])
    np.testing.assert_allclose(explanation.scaled_heatmap(2), [[0, 0.5, 1]])
    np.testing.assert_array_equal(explanation.scaled_heatmap(0), [[0, 0, 0]])


def test_probabilities_do_not_overflow():
    logits = np.array([[1000, 1000, -1000], [0, np.log(3), -np.inf]], np.float32)
    np.testing.assert_allclose(probabilities(logits, "softmax"), [[0.5, 0.5, 0], [0.25, 0.75, 0]], rtol=1e-6)
    np.testing.assert_allclose(
        probabilities(np.float32([[-1e4, 0, np.log(3)]]), "sigmoid"), [[0, 0.5, 0.75]], rtol=1e-6
    )
    np.testing.assert_array_equal(probabilities(np.float32([[0.25, 0.75]]), "identity"), [[0.25, 0.75]])


@pytest.mark.parametrize(
    ("score", "label", "text"),
    [(0.431, "tabby, tabby cat", "43%  tabby"), (0.0123, "crane", "1.2%  crane"), (1.0, None, "100%  class 1")],
)
def test_the_caption_is_short(score, label, text):
    assert explained([[0, 1]], score, label).caption == text


def test_the_likeliest_classes_come_first():
    assert [index for index, _, _ in explained([[0, 1]]).top(2)] == [1, 2]


def test_it_is_saved_as_a_notebook_shows_it(tmp_path):
    explanation = explained(np.arange(40 * 61).reshape(40, 61).tolist())
    explanation.save(tmp_path / "x.png")
    shown = cv2.imdecode(np.frombuffer(explanation._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "x.png")), shown)
    assert not np.array_equal(shown, explanation.overlay())  # the caption
    with pytest.raises(OutputError, match=r"not as '\.pgn': did you mean '\.png'"):
        explanation.save(tmp_path / "x.pgn")
