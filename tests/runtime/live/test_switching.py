"""Class and method switched while frames come, of artifacts that hold several."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxcam.runtime import load
from onnxcam.runtime.calm import Calm
from onnxcam.runtime.live.controls import Controls, Settings
from onnxcam.runtime.live.frames import LiveFrame
from onnxcam.runtime.live.keys import Keys
from onnxcam.runtime.live.loop import Live
from onnxcam.runtime.live.newest import Grabber
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.sources import Frame, VideoInfo

from ..small_models import HEIGHT, WIDTH, attached, picture  # noqa: TID252 tests are no package

OFF = Calm(smoothing=0, scale=0, hold=0, cut=0)
FRAMES = 4


class Still:
    """A source of one picture, again and again."""

    info = VideoInfo(
        width=WIDTH, height=HEIGHT, average_rate=Fraction(25), time_base=Fraction(1, 25), frames=FRAMES, duration=None,
        has_audio=False,
    )  # fmt: skip
    problem = None

    def __enter__(self) -> Still:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __iter__(self) -> Iterator[Frame]:
        return (Frame(index, index, 1, Fraction(1, 25), picture()) for index in range(FRAMES))


def pressed(model: CamModel, *keys: str) -> tuple[list[LiveFrame], list[str]]:
    """The frames that were shown, one of those keys being pressed at each; and what was said."""
    controls = Controls(model, Settings(method=model.methods[0]))
    board, shown, said = Keys(controls, record=lambda: ""), list[LiveFrame](), list[str]()

    def view(frame: LiveFrame) -> None:
        shown.append(frame)
        if len(shown) <= len(keys):
            said.append(board.press(keys[len(shown) - 1], frame))

    with (
        Grabber(lambda: Still(), every=True, again=False) as grabber,  # type: ignore[arg-type, return-value]
        Live(model, grabber, controls, [view], calm=OFF) as live,
    ):
        assert live.ended.wait(20)
    live.raise_error()
    return shown, said


def model(folder: Path, **how: Any) -> CamModel:
    return load(attached(folder, "network", **how), providers="cpu")


def test_methods_come_in_turn_each_with_its_own_map(tmp_path: Path) -> None:
    with model(tmp_path, method=["gradcam", "layercam", "hirescam"]) as three:
        shown, said = pressed(three, "m", "m", "m")
        expected = [three.explain(picture(), method=name).cam for name in ("gradcam", "layercam", "hirescam")]
    assert said == ["method: layercam", "method: hirescam", "method: gradcam"]
    assert [frame.explanation.method for frame in shown] == ["gradcam", "layercam", "hirescam", "gradcam"]
    for frame, cam in zip(shown, [*expected, expected[0]], strict=True):
        np.testing.assert_allclose(frame.explanation.cam, cam, rtol=1e-6)
    assert not np.allclose(expected[0], expected[1])


@pytest.mark.parametrize("classes", [1, 2], ids=["one class", "two classes"])
def test_classes_come_in_order_are_locked_and_freed(tmp_path: Path, classes: int) -> None:
    with model(tmp_path, classes=classes) as several:
        ranking = [index for index, _, _ in several.explain(picture()).top(3)]
        shown, said = pressed(several, "n", "l", "f")
    assert said == ["likeliest class number 2", f"locked: class {ranking[1]}", "the likeliest class"]
    assert [frame.explanation.class_index for frame in shown] == [ranking[0], ranking[1], ranking[1], ranking[0]]


def test_the_class_after_the_last_is_the_first(tmp_path: Path) -> None:
    with model(tmp_path) as three:
        shown, said = pressed(three, "n", "n", "n")
    assert said[2] == "likeliest class number 1"
    assert shown[3].explanation.class_index == shown[0].explanation.class_index
    assert len({frame.explanation.class_index for frame in shown}) == 3
