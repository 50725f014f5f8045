"""Maps over time: smoothed, on one scale, of one class, and all anew after a cut. Times are in seconds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from onnxcam.contract import Preprocess
from onnxcam.errors import OnnxCamError
from onnxcam.runtime.calm import Calm, Calmer, CutDetector, HeatScale
from onnxcam.runtime.explanation import Explanation
from onnxcam.runtime.geometry import place
from onnxcam.runtime.preprocess import Picture

GREY = np.full((36, 64, 3), 128, np.uint8)
OFF = Calm(smoothing=0, scale=0, hold=0, cut=0)


def explained(value: float, class_index: int = 0, scores: tuple[float, ...] = (0.6, 0.4)) -> Explanation:
    """An explanation whose map is ``value`` and 0."""
    cam = np.array([[value, 0]], np.float32)
    preprocess = Preprocess(height=2, width=4, resize="stretch", mean=(0.0,) * 3, std=(1.0,) * 3)
    return Explanation(
        class_index=class_index,
        label=None,
        score=scores[class_index],
        scores=np.array(scores, np.float32),
        cam=cam,
        activations=None,
        gradients=None,
        picture=GREY,
        placement=place(36, 64, preprocess),
        method="gradcam",
        cams={"gradcam": cam, "layercam": 2 * cam},
    )


def fed(calmer: Calmer, given: Explanation, time: float, picture=GREY) -> tuple[float, float]:
    """The map's first value and its peak, for a model that answers the same whatever is asked."""
    shown, peak = calmer.explain(picture, time, lambda held: given)
    assert shown.cams["layercam"][0, 0] == pytest.approx(2 * shown.cam[0, 0])
    return float(shown.cam[0, 0]), peak


def test_with_everything_off_maps_are_as_they_come():
    calmer = Calmer(OFF, holding=True)
    assert [fed(calmer, explained(v), t) for t, v in enumerate((4, 1, 0))] == [(4, 4), (1, 1), (0, 0)]


def test_without_smoothing_a_weak_map_after_a_strong_one_is_the_same_to_the_bit():
    calmer = Calmer(OFF, holding=False)
    fed(calmer, explained(1e6), 0.0)
    assert np.float32(fed(calmer, explained(0.1), 1.0)[0]) == np.float32(0.1)  # 1e6 + (0.1 - 1e6) is 0.125


def test_a_step_is_reached_by_63_percent_after_the_time_constant_whatever_the_frame_rate():
    for frames in (1, 5, 50):
        calmer = Calmer(replace(OFF, smoothing=0.5), holding=False)
        fed(calmer, explained(0), 0.0)
        for step in range(1, frames + 1):
            value, _ = fed(calmer, explained(10), 0.5 * step / frames)
        assert value == pytest.approx(10 * (1 - math.exp(-1)), rel=1e-5)


def test_uneven_steps_are_weighted_by_their_length():
    calmer = Calmer(replace(OFF, smoothing=1.0), holding=False)
    fed(calmer, explained(8), 0.0)
    assert fed(calmer, explained(0), math.log(2))[0] == pytest.approx(4)  # half after ln 2
    assert fed(calmer, explained(0), 3 * math.log(2))[0] == pytest.approx(1)  # a quarter of that after twice as long


def test_the_map_of_another_class_begins_anew():
    calmer = Calmer(replace(OFF, smoothing=1.0), holding=False)
    fed(calmer, explained(8), 0.0)
    assert fed(calmer, explained(2, class_index=1), 0.1)[0] == 2
    assert fed(calmer, explained(6), 0.2)[0] == 6


def test_each_of_several_classes_has_a_mean_of_its_own_wherever_it_stands():
    calmer = Calmer(replace(OFF, smoothing=1.0), holding=False)
    first = replace(explained(8), others=(explained(4, class_index=1),))
    second = replace(explained(0, class_index=1), others=(explained(2),))
    calmer.explain(GREY, 0.0, lambda held: first)
    shown, _ = calmer.explain(GREY, math.log(2), lambda held: second)
    assert [(each.class_index, each.cam[0, 0]) for each in shown.classes] == [(1, 2), (0, 5)]


def test_a_map_of_another_size_begins_anew():
    calmer = Calmer(replace(OFF, smoothing=1.0), holding=False)
    fed(calmer, explained(8), 0.0)
    finer = np.full((3, 5), 2, np.float32)
    shown, _ = calmer.explain(GREY, 0.1, lambda held: replace(explained(2), cam=finer, cams={"gradcam": finer}))
    np.testing.assert_array_equal(shown.cam, finer)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_map_that_is_not_finite_breaks_its_own_frame_alone(broken):
    calmer = Calmer(replace(OFF, smoothing=1.0, scale=2.0), holding=False)
    fed(calmer, explained(8), 0.0)
    calmer.explain(GREY, 1.0, lambda held: explained(broken))
    assert fed(calmer, explained(4), 2.0)[0] == 4
    assert fed(calmer, explained(0), 2.0 + math.log(2))[0] == pytest.approx(2)


class Model:
    """Explains class ``held``, or the likeliest of ``scores``; counts its runs."""

    def __init__(self):
        self.scores = (0.5, 0.5)
        self.runs = 0

    def __call__(self, held):
        self.runs += 1
        return explained(1, int(np.argmax(self.scores)) if held is None else held, self.scores)


def test_a_class_is_held_at_a_near_tie_and_let_go_where_another_is_clearly_likelier():
    calmer, model = Calmer(replace(OFF, hold=0.1), holding=True), Model()
    shown = []
    for model.scores in ((0.52, 0.48), (0.46, 0.54), (0.451, 0.549), (0.44, 0.56), (0.5, 0.5)):
        explanation, _ = calmer.explain(GREY, 0.0, model)
        shown.append(explanation.class_index)
    assert shown == [0, 0, 0, 1, 1]
    assert model.runs == 6  # the frame on which it changed was explained again


def test_where_nothing_is_likely_a_class_is_held_until_another_is_twice_as_likely():
    calmer, model = Calmer(replace(OFF, hold=0.1), holding=True), Model()
    shown = []
    for model.scores in ((0.08, 0.01), (0.03, 0.059), (0.03, 0.061), (0.059, 0.03)):
        shown.append(calmer.explain(GREY, 0.0, model)[0].class_index)
    assert shown == [0, 0, 1, 1]


def test_a_class_that_was_asked_for_is_not_held():
    calmer, model = Calmer(Calm(hold=0.5), holding=False), Model()
    for model.scores in ((0.52, 0.48), (0.46, 0.54)):
        explanation, _ = calmer.explain(GREY, 0.0, model)
    assert explanation.class_index == 1


def test_a_cut_begins_everything_anew():
    calmer, model = Calmer(Calm(smoothing=1.0, hold=0.2), holding=True), Model()
    model.scores = (0.55, 0.45)
    calmer.explain(GREY, 0.0, model)
    model.scores = (0.45, 0.55)
    assert calmer.explain(GREY, 0.1, model)[0].class_index == 0
    assert calmer.explain(GREY // 4, 0.2, model)[0].class_index == 1
    other = Calmer(replace(OFF, smoothing=1.0, scale=2.0, cut=0.1), holding=False)
    fed(other, explained(8), 0.0)
    assert fed(other, explained(2), 0.1, GREY // 4) == (2, 2)


def blocks(seed: int, columns: int = 16) -> Picture:
    """A picture of squares of 40 pixels in colours of their own, 360 pixels high."""
    colors = np.random.default_rng(seed).integers(0, 256, (9, columns, 3), np.uint8)
    return np.kron(colors, np.ones((40, 40, 1), np.uint8))


def test_a_cut_is_told_from_motion():
    wide, detector = blocks(0, columns=40), CutDetector(0.1)
    assert not any(detector.cut(wide[:, x : x + 640]) for x in range(0, 300, 10))
    assert detector.cut(255 - wide[:, 300:940])
    assert not detector.cut(255 - wide[:, 310:950])


def test_light_that_comes_and_goes_is_no_cut():
    scene, detector = blocks(0), CutDetector(0.1)
    assert not any(detector.cut(each) for each in [scene, scene // 3, scene, 255 - (255 - scene) // 3] * 5)
    assert detector.cut(blocks(1))


def test_a_new_picture_in_every_frame_is_a_cut_in_every_frame():
    detector = CutDetector(0.1)
    assert [detector.cut(blocks(seed)) for seed in range(30)] == [False] + 29 * [True]


def test_a_flat_picture_has_no_structure_to_stay():
    detector = CutDetector(0.1)
    assert [detector.cut(each) for each in (GREY, GREY + 20, GREY // 3, GREY // 3, blocks(0))] == [
        False,
        False,
        True,
        False,
        True,
    ]


def test_without_a_threshold_nothing_is_a_cut():
    detector = CutDetector(0)
    assert not any(detector.cut(each) for each in (GREY, GREY // 4, GREY))


@pytest.mark.parametrize("wrong", [{"smoothing": -1}, {"hold": 1.5}, {"cut": -0.1}, {"scale": math.nan}])
def test_numbers_that_mean_nothing_are_refused(wrong):
    with pytest.raises(OnnxCamError, match=next(iter(wrong))):
        Calm(**wrong)


def test_heat_scale_holds_and_fades_with_time_not_frames() -> None:
    scale = HeatScale(half_life=2)
    assert scale.update(8, 0, 0.0) == 8
    assert scale.update(1, 0, 2.0) == pytest.approx(4)
    for step in range(1, 9):
        last = scale.update(1, 0, 2 + step / 4)
    assert last == pytest.approx(2)
    assert scale.update(1, 0, 60.0) == 1
    assert scale.update(3, 0, 60.1) == 3


def test_heat_scale_of_one_class_says_nothing_of_another() -> None:
    scale = HeatScale(half_life=2)
    scale.update(100, 0, 0.0)
    assert scale.update(1, 7, 0.1) == 1
    assert scale.update(50, 0, 2.0) == 50
