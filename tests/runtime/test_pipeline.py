"""Stages one after another: how far they run ahead, where errors come out, and that they end as a whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxcam.runtime.calm import Calm
from onnxcam.runtime.explainer import DrawnFrame, Explainer, Look
from onnxcam.runtime.pipeline import ahead, in_turn, pipeline
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.sources import Frame

from .clips import BLUE, GREEN, RED, color_artifact, plain


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def numbers(count: int, made: list[int], fail_at: int | None = None) -> Generator[int, None, None]:
    for number in range(1, count + 1):
        if number == fail_at:
            raise ValueError("bang")
        made.append(number)
        yield number


def test_ahead_keeps_the_order_and_never_runs_far() -> None:
    made: list[int] = []
    with closing(ahead(lambda x: x * x, numbers(6, made))) as squares:
        first = next(squares)
        assert len(made) <= 4
        assert [first, *squares] == [1, 4, 9, 16, 25, 36]
    assert made == [1, 2, 3, 4, 5, 6]


def test_in_turn_makes_none_before_it_is_asked_for() -> None:
    made: list[int] = []
    with closing(in_turn(lambda x: x * x, numbers(6, made))) as squares:
        assert [next(squares), next(squares)] == [1, 4]
        assert made == [1, 2]


@pytest.mark.parametrize("stage", [ahead, in_turn])
def test_an_error_comes_out_in_its_place(stage: Callable[..., Any]) -> None:
    items = stage(str, stage(abs, numbers(6, [], fail_at=4)))
    assert [next(items), next(items), next(items)] == ["1", "2", "3"]
    with pytest.raises(ValueError, match="bang"):
        next(items)


@pytest.mark.parametrize("stage", [ahead, in_turn])
def test_closed_early_the_whole_chain_is_closed(stage: Callable[..., Any]) -> None:
    made: list[int] = []
    source = numbers(1000, made)
    chain = stage(str, stage(abs, source))
    assert next(chain) == "1"
    chain.close()
    assert source.gi_frame is None
    assert len(made) < 10


@pytest.mark.parametrize("overlapping", [True, False])
def test_a_pipeline_gives_the_same_frames_however_its_stages_work(tmp_path: Path, overlapping: bool) -> None:
    pictures = [plain(color) for color in (RED, GREEN, BLUE, GREEN)]
    frames = (Frame(i, i, 1, Fraction(1, 25), picture) for i, picture in enumerate(pictures))
    with CamModel(color_artifact(tmp_path / "colors.cam.onnx"), providers="cpu") as model:
        explainer = Explainer(model, lambda: Look(style={"alpha": 0.0, "caption": False}), Calm(smoothing=0, hold=0))
        with closing(pipeline(frames, model, explainer, _kept, every=2, overlapping=overlapping)) as shown:
            drawn = list(shown)
    assert [each.explanation.label for each in drawn] == ["red", "red", "blue", "blue"]
    for each, picture in zip(drawn, pictures, strict=True):
        np.testing.assert_array_equal(each.frame.picture, picture)
        np.testing.assert_array_equal(each.explanation.picture, picture)


def _kept(drawn: DrawnFrame) -> DrawnFrame:
    return drawn
