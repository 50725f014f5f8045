"""What keys and page may set, and what is refused."""

from __future__ import annotations

import pytest

from onnxcam.errors import ClassError, MethodError, OnnxCamError
from onnxcam.runtime import load
from onnxcam.runtime.live.controls import Controls, Settings


@pytest.fixture(scope="module")
def controls():
    with load() as model:
        yield Controls(model, Settings(method=model.methods[0]))


def test_a_change_is_in_force_at_once(controls):
    controls.change(alpha=0.25, class_choice="espresso", layout="heatmap")
    assert (controls.settings.alpha, controls.settings.class_choice, controls.settings.layout) == (
        0.25,
        "espresso",
        "heatmap",
    )


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"method": "gradcan"}, MethodError, "there is no method 'gradcan': did you mean 'gradcam'?"),
        ({"colormap": "turbow"}, OnnxCamError, "there is no colour map 'turbow': did you mean 'turbo'?"),
        ({"layout": "over"}, OnnxCamError, "there is no layout 'over'"),
        ({"alpha": 1.5}, OnnxCamError, "alpha is 1.5: it takes a number from 0 to 1"),
        ({"class_choice": 5000}, ClassError, "there is no class 5000"),
        ({"class_choice": "expresso"}, ClassError, "expresso"),
    ],
)
def test_what_does_not_exist_is_refused_and_nothing_changes(controls, change, error, words):
    before = controls.settings
    with pytest.raises(error) as caught:
        controls.change(**({"colormap": "jet"} | change))
    assert words in str(caught.value)
    assert controls.settings == before
