"""What each key does."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from onnxcam.errors import OutputError
from onnxcam.runtime import load
from onnxcam.runtime.live.controls import Controls, Settings
from onnxcam.runtime.live.keys import HELP, Keys

FRAME = SimpleNamespace(
    number=7,
    drawn=np.full((6, 8, 3), 90, np.uint8),
    explanation=SimpleNamespace(class_index=285, name="Egyptian cat"),
)


@pytest.fixture
def keys(tmp_path):
    with load() as model:
        yield Keys(Controls(model, Settings(method="gradcam")), record=lambda: "recording", folder=tmp_path)


def settings(keys):
    return keys._controls.settings


def test_every_key_that_help_names_does_something(keys):
    for names, _ in HELP:
        for name in names.replace("space", "␣").replace("Esc", "\x1b").replace(", ", " ").split():
            key = name.replace("␣", " ")
            assert len(key) == 1
            keys.quit = False
            before = (settings(keys), keys.quit, keys.help)
            said = keys.press(key, FRAME)
            assert said or (settings(keys), keys.quit, keys.help) != before, names


def test_other_keys_and_keys_before_the_first_frame_do_nothing(keys):
    before = settings(keys)
    assert [keys.press(key, FRAME) for key in ("", "x", "\n")] == ["", "", ""]
    assert keys.press("c", None) == ""
    assert settings(keys) == before


def test_the_next_class_wraps_and_lock_and_free_go_both_ways(keys):
    ranks = []
    for _ in range(6):
        keys.press("n", FRAME)
        ranks.append(settings(keys).class_choice)
    assert ranks == [-2, -3, -4, -5, -1, -2]
    assert keys.press("l", FRAME) == "locked: Egyptian cat"
    assert settings(keys).class_choice == 285
    keys.press("n", FRAME)
    assert settings(keys).class_choice == -1
    keys.press("l", FRAME)
    keys.press("f", FRAME)
    assert settings(keys).class_choice == -1


def test_opacity_stays_within_its_limits(keys):
    assert [keys.press("]", FRAME) for _ in range(6)][-2:] == ["opacity 100%", "opacity 100%"]
    assert [keys.press("[", FRAME) for _ in range(11)][-2:] == ["opacity 0%", "opacity 0%"]


def test_choices_go_round(keys):
    layouts = []
    for _ in range(3):
        keys.press("v", FRAME)
        layouts.append(settings(keys).layout)
    assert layouts == ["side-by-side", "heatmap", "overlay"]
    assert keys.press("m", FRAME) == "method: gradcam"  # it has one
    assert keys.press("c", FRAME) == "colour map: jet"


def test_a_pause_ends_with_the_same_key(keys):
    assert (keys.press(" ", FRAME), settings(keys).paused) == ("paused", True)
    assert (keys.press(" ", FRAME), settings(keys).paused) == ("live", False)


def test_a_snapshot_is_what_is_shown(keys, tmp_path):
    said = keys.press("s", FRAME)
    (path,) = tmp_path.iterdir()
    assert said == f"saved {path.name}"
    np.testing.assert_array_equal(cv2.imread(str(path)), FRAME.drawn)


def test_what_cannot_be_done_is_said(keys):
    def full():
        raise OutputError("the disk is full")

    keys._record = full
    assert keys.press("r", FRAME) == "the disk is full"
