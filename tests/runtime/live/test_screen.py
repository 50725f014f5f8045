"""What stands in the window beside the live picture."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from onnxcam.runtime import load
from onnxcam.runtime.live import screen
from onnxcam.runtime.live.controls import Controls, Settings
from onnxcam.runtime.live.screen import Screen
from onnxcam.runtime.live.statistics import Ages

FRAME = SimpleNamespace(number=1, taken=0.0, drawn=np.zeros((90, 160, 3), np.uint8), explanation=None)


class Window:
    """Keeps what it is shown, and gives the keys it was told."""

    def __init__(self, title):
        self.shown, self.keys, self.closed = 0, [], False

    def show(self, picture):
        self.shown += 1

    def key(self, milliseconds):
        return self.keys.pop(0) if self.keys else ""

    def close(self):
        self.closed = True


@pytest.fixture
def window(monkeypatch):
    """A screen on a `Window` and a clock, with what it writes on the picture."""
    clock, written = [100.0], []
    monkeypatch.setattr(screen, "Window", Window)
    monkeypatch.setattr(screen, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(screen, "caption", lambda picture, notes, corner: written.append(list(notes)) or picture)
    tape = SimpleNamespace(recording=False, switch=lambda: "recording")
    with load() as model, Screen("camera", Controls(model, Settings(method="gradcam")), tape, Ages()) as shown:
        shown.publish(FRAME)
        shown.refresh()
        yield SimpleNamespace(screen=shown, window=shown._window, tape=tape, clock=clock, written=written)


def press(window, key):
    window.window.keys.append(key)
    window.screen.refresh()
    window.screen.refresh()


def test_what_a_key_did_is_said_for_two_seconds(window):
    press(window, "c")
    assert window.written[-1][0].startswith("colour map: ")
    shown = window.window.shown
    window.clock[0] += 2.1
    window.screen.refresh()
    assert (window.window.shown, len(window.written)) == (shown + 1, 1)  # once more, without it
    window.screen.refresh()
    assert window.window.shown == shown + 1


def test_that_it_is_recorded_and_paused_is_said_as_long_as_it_is(window):
    window.tape.recording = True
    press(window, " ")
    assert window.written[-1] == ["paused", "REC"]
    window.clock[0] += 60
    window.screen.refresh()
    assert window.written[-1] == ["REC", "paused"]
    window.tape.recording = False
    press(window, " ")
    assert window.written[-1] == ["live"]


def test_help_is_shown_though_the_picture_stands_still(window):
    shown = window.window.shown
    press(window, "?")
    assert window.window.shown == shown + 1


def test_it_ends_with_its_key(window):
    window.window.keys.append("q")
    assert window.screen.refresh() is False
