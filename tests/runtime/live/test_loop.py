"""The live loop: newest frames, settings that change on the way, and its end."""

from __future__ import annotations

import threading
from fractions import Fraction

import numpy as np
import pytest

from onnxcam.runtime import load
from onnxcam.runtime.calm import Calm
from onnxcam.runtime.live.controls import Controls, Settings
from onnxcam.runtime.live.loop import Live
from onnxcam.runtime.sources import Frame

from ..clips import BLUE, GREEN, RED, color_artifact, plain  # noqa: TID252 tests are no package

OFF = Calm(smoothing=0, scale=0, hold=0, cut=0)


class Given:
    """A grabber that gives these pictures and ends, or waits for ``more``."""

    def __init__(self, *pictures, more=None):
        self.left = [Frame(i, 40 * i, 0, Fraction(1, 1000), p, 100.0 + i) for i, p in enumerate(pictures)]
        self.more = more

    def next(self, timeout):
        if self.left:
            return self.left.pop(0)
        if self.more is not None:
            self.more.wait(timeout)
        return None

    @property
    def ended(self):
        return not self.left and self.more is None


@pytest.fixture
def model(tmp_path):
    with load(color_artifact(tmp_path / "colors.cam.onnx")) as found:
        yield found


def controls(model):
    return Controls(model, Settings(method="gradcam"))


def run(model, grabber, settings, *views):
    with Live(model, grabber, settings, views, calm=OFF) as live:
        assert live.ended.wait(20)
    live.raise_error()
    return live


def test_each_frame_goes_to_every_view_with_its_class_and_age(model):
    first, second = [], []
    live = run(model, Given(plain(RED), plain(GREEN), plain(BLUE)), controls(model), first.append, second.append)
    assert [frame.explanation.label for frame in first] == ["red", "green", "blue"]
    assert [(frame.number, frame.taken) for frame in first] == [(0, 100.0), (1, 101.0), (2, 102.0)]
    assert first == second
    assert live.explained == 3
    np.testing.assert_array_equal(first[0].explanation.picture, plain(RED))


def test_settings_hold_from_the_next_frame_on(model):
    settings, shown = controls(model), []

    def view(frame):
        shown.append(frame)
        settings.change(class_choice="blue", layout="side-by-side", figures=True)

    run(model, Given(plain(RED), plain(RED)), settings, view)
    assert [frame.explanation.label for frame in shown] == ["red", "blue"]
    assert shown[1].drawn.shape[1] == 2 * shown[0].drawn.shape[1]


def test_a_standing_picture_shows_what_is_changed(model):
    settings, shown, more = controls(model), [], threading.Event()

    def view(frame):
        shown.append(frame)
        if len(shown) == 1:
            settings.change(paused=True)
        elif len(shown) == 2:
            settings.change(layout="side-by-side")
        else:
            more.set()

    with Live(model, Given(plain(RED), plain(BLUE), more=more), settings, [view], calm=OFF):
        assert more.wait(20)
    assert {frame.explanation.label for frame in shown} == {"red"}  # the blue one waits
    assert shown[2].drawn.shape[1] == 2 * shown[1].drawn.shape[1]


def test_an_error_ends_it_and_is_raised_where_it_is_waited_for(model):
    def view(_):
        raise RuntimeError("the view is gone")

    with Live(model, Given(plain(RED), more=threading.Event()), controls(model), [view], calm=OFF) as live:
        assert live.ended.wait(20)
    with pytest.raises(RuntimeError, match="the view is gone"):
        live.raise_error()


def test_leaving_it_ends_the_thread(model):
    with Live(model, Given(plain(RED), more=threading.Event()), controls(model), [], calm=OFF):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "onnxcam-live"]
