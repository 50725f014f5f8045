"""Frames explained calmly: which class is held, and what begins anew when something else is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxcam.runtime.calm import Calm
from onnxcam.runtime.explainer import ExplainedFrame, Explainer, Look
from onnxcam.runtime.preprocess import Picture
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.sources import Frame

from .clips import color_artifact, plain
from .small_models import HEIGHT, WIDTH, attached

OFF = {"smoothing": 0.0, "scale": 0.0, "hold": 0.0, "cut": 0.0}
RATHER_RED, RATHER_GREEN, CLEARLY_GREEN = plain((10, 130, 140)), plain((10, 140, 130)), plain((10, 200, 120))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CamModel]:
    with CamModel(color_artifact(tmp_path_factory.mktemp("model") / "colors.cam.onnx"), providers="cpu") as loaded:
        yield loaded


def explained(explainer: Explainer, model: CamModel, picture: Picture, time: int = 0) -> ExplainedFrame:
    """What is to be drawn for ``picture`` at that second."""
    frame = Frame(time, time, 1, Fraction(1), picture)
    return explainer.explain(frame, model.prepare(picture))


@pytest.mark.parametrize(
    ("choice", "hold", "labels"),
    [
        ({}, 0.1, ["red", "red", "green", "green"]),
        ({"class_index": None}, 0.1, ["red", "red", "green", "green"]),
        ({"class_index": -1}, 0.1, ["red", "red", "green", "green"]),
        ({}, 0.0, ["red", "green", "green", "red"]),
        ({"class_index": -2}, 0.1, ["red", "green", "green", "red"]),  # this artifact takes any rank for the first
        ({"class_index": "blue"}, 0.1, ["blue"] * 4),
        ({"class_index": 0}, 0.1, ["red"] * 4),
    ],
)
def test_only_the_likeliest_class_is_held(
    model: CamModel, choice: Mapping[str, Any], hold: float, labels: list[str]
) -> None:
    explainer = Explainer(model, lambda: Look(choice=choice), Calm(**{**OFF, "hold": hold}))
    pictures = (RATHER_RED, RATHER_GREEN, CLEARLY_GREEN, RATHER_RED)
    explanations = [explained(explainer, model, picture).explanation for picture in pictures]
    assert [each.label for each in explanations] == labels
    for each in explanations:
        assert each.class_index is not None
        assert each.score == each.scores[each.class_index]
        assert each.cam == pytest.approx(each.score, abs=1e-6)  # a colour's map is its plane, its score the mean


@pytest.mark.parametrize(
    ("how", "indices"), [({}, [0, 0]), ({"explain": "counterfactual"}, [0, 1]), ({"classes": 2}, [0, 1])]
)
def test_what_is_no_single_class_for_itself_is_not_held(
    tmp_path: Path, how: Mapping[str, Any], indices: list[int]
) -> None:
    """Logits are a tenth of red and of green: 41 % and 37 %, or the other way round."""
    weights = np.zeros((3, 6), np.float32)
    weights[0, 0] = weights[1, 2] = 0.1
    with CamModel(attached(tmp_path, "linear", weights, **how), providers="cpu") as model:
        explainer = Explainer(model, Look, Calm(**{**OFF, "hold": 0.2}))
        pictures = plain((1, 5, 6), HEIGHT, WIDTH), plain((1, 6, 5), HEIGHT, WIDTH)
        assert [explained(explainer, model, picture).explanation.class_index for picture in pictures] == indices


def test_when_another_class_is_wanted_all_begins_anew(model: CamModel) -> None:
    look = Look(choice={"class_index": "red"})
    explainer = Explainer(model, lambda: look, Calm(smoothing=1e6, scale=1e6, hold=0, cut=0))

    def shown(color: tuple[int, int, int], time: int) -> tuple[float, float]:
        frame = explained(explainer, model, plain(color), time)
        return float(frame.explanation.cam.mean()), frame.peak

    assert shown((0, 0, 255), 0) == pytest.approx((1, 1))
    assert shown((0, 51, 0), 1) == pytest.approx((1, 1), abs=1e-5)
    look = Look(choice={"class_index": "green"})
    assert shown((0, 51, 0), 2) == pytest.approx((0.2, 0.2))
    look = Look(choice={"class_index": "red"})
    assert shown((0, 0, 51), 3) == pytest.approx((0.2, 0.2))
