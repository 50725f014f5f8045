"""Videos explained, with an artifact whose classes are red, green and blue."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onnxcam.errors import ClassError, InputError, OutputError
from onnxcam.runtime.calm import Calm
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.video import WrittenFrame, explain_video

from .clips import BLUE, GREEN, RED, color_artifact, packets, pictures, plain, times, write_clip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CamModel]:
    with CamModel(color_artifact(tmp_path_factory.mktemp("model") / "colors.cam.onnx"), providers="cpu") as loaded:
        yield loaded


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Four red frames, three green, three blue; 0.4 s."""
    return write_clip(
        tmp_path / "clip.mp4", [plain(RED)] * 4 + [plain(GREEN)] * 3 + [plain(BLUE)] * 3, sound="aac", crf="4"
    )


def test_every_frame_is_explained_in_its_place(tmp_path: Path, model: CamModel, clip: Path) -> None:
    seen: list[WrittenFrame] = []
    summary = explain_video(model, clip, tmp_path / "out.mp4", on_frame=seen.append)
    assert [frame.label for frame in seen] == ["red"] * 4 + ["green"] * 3 + ["blue"] * 3
    assert [frame.index for frame in seen] == list(range(10))
    assert [frame.time for frame in seen] == pytest.approx([0.04 * i for i in range(10)])
    assert [frame.class_index for frame in seen] == [0] * 4 + [1] * 3 + [2] * 3
    assert all(frame.score > 0.95 for frame in seen)
    assert (summary.frames, summary.explained, summary.problem, summary.interrupted) == (10, 10, None, False)
    assert summary.duration == pytest.approx(0.4)
    assert summary.output == tmp_path / "out.mp4"
    assert times(summary.output) == times(clip)
    assert packets(summary.output) == packets(clip)


def test_a_class_of_ones_own(tmp_path: Path, model: CamModel, clip: Path) -> None:
    seen: list[WrittenFrame] = []
    explain_video(model, clip, tmp_path / "out.mp4", class_index="green", on_frame=seen.append)
    assert [frame.label for frame in seen] == ["green"] * 10
    assert [round(frame.score, 1) for frame in seen] == [0] * 4 + [1] * 3 + [0] * 3


def test_between_explanations_the_last_one_stands(tmp_path: Path, model: CamModel, clip: Path) -> None:
    seen: list[WrittenFrame] = []
    summary = explain_video(model, clip, tmp_path / "out.mp4", every=3, caption=False, alpha=0, on_frame=seen.append)
    assert [frame.label for frame in seen] == ["red"] * 6 + ["green"] * 3 + ["blue"]
    assert (summary.frames, summary.explained) == (10, 4)
    for frame, color in zip(pictures(summary.output), [RED] * 4 + [GREEN] * 3 + [BLUE] * 3, strict=True):
        assert np.abs(frame.mean(axis=(0, 1)) - color).max() < 8  # the pictures themselves go on


def test_the_heat_lies_where_the_colour_is(tmp_path: Path, model: CamModel) -> None:
    picture = plain((20, 20, 20))
    picture[:, :17] = RED
    clip = write_clip(tmp_path / "clip.mp4", [picture] * 3)
    summary = explain_video(
        model, clip, tmp_path / "out.mp4", class_index="red", alpha=1, colormap="gray", caption=False
    )
    drawn = pictures(summary.output)[1]
    assert drawn[:, :12].min() > 230  # white hides the red
    assert drawn[:, -12:].max() < 60


def test_side_by_side_is_twice_as_wide(tmp_path: Path, model: CamModel, clip: Path) -> None:
    summary = explain_video(model, clip, tmp_path / "out.mp4", layout="side-by-side")
    assert pictures(summary.output)[0].shape == (24, 68, 3)


def test_equal_heat_looks_equal_though_a_frame_is_weaker(tmp_path: Path, model: CamModel) -> None:
    """Red fades by half within a video: scaled by its own maximum, every frame would be as hot as the first."""

    def striped(level: int) -> np.ndarray:
        picture = plain((0, 0, 0))
        picture[:, :17, 2] = level
        return picture

    clip = write_clip(tmp_path / "clip.mp4", [striped(250), striped(125), striped(250)], crf="1")
    summary = explain_video(
        model,
        clip,
        tmp_path / "out.mp4",
        class_index="red",
        alpha=1,
        colormap="gray",
        caption=False,
        calm=Calm(smoothing=0),
    )
    green = [frame[:, 4:12, 1].mean() for frame in pictures(summary.output)]
    assert green == pytest.approx([255, 0.5 * 128, 255], abs=10)  # half the heat, half as opaque


def test_a_file_that_ends_early_is_explained_as_far_as_it_goes(tmp_path: Path, model: CamModel) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 24, 34, 3), np.uint8)
    clip = write_clip(tmp_path / "clip.mp4", list(noise), faststart=True, g="5")
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 3 // 5])
    summary = explain_video(model, clip, tmp_path / "out.mp4")
    assert 15 < summary.frames < 30
    assert summary.problem == f"the file ends early: {summary.frames} of 40 frames could be read"
    assert len(times(summary.output)) == summary.frames


def test_ctrl_c_keeps_what_was_done(tmp_path: Path, model: CamModel) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [plain(RED)] * 50, sound="aac")

    def interrupt(frame: WrittenFrame) -> None:
        if frame.index == 10:
            raise KeyboardInterrupt

    summary = explain_video(model, clip, tmp_path / "out.mp4", on_frame=interrupt)
    assert summary.interrupted
    assert 11 <= summary.frames <= 20
    assert times(summary.output) == times(clip)[: summary.frames]
    assert packets(summary.output)[-1][0] / 44100 <= summary.duration
    assert not list(tmp_path.glob(".*"))


def test_an_error_on_the_way_ends_everything(
    tmp_path: Path, model: CamModel, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BangError(Exception):
        pass

    def bang(*_: object, **__: object) -> None:
        raise BangError

    for victim in ("prepare", "run"):
        with monkeypatch.context() as patch:
            patch.setattr(model, victim, bang)
            with pytest.raises(BangError):
                explain_video(model, clip, tmp_path / "out.mp4")
    with pytest.raises(BangError):
        explain_video(model, clip, tmp_path / "out.mp4", on_frame=bang)
    with pytest.raises(BangError):
        explain_video(model, clip, tmp_path / "out.mp4", on_start=bang)
    assert list(tmp_path.iterdir()) == [clip]


def test_what_cannot_work_is_refused_before_the_work(tmp_path: Path, model: CamModel, clip: Path) -> None:
    started: list[object] = []
    for error, arguments, options in (
        (ClassError, (clip, tmp_path / "out.mp4"), {"class_index": "purple"}),
        (InputError, (clip, tmp_path / "out.mp4"), {"every": 0}),
        (InputError, (tmp_path / "missing.mp4", tmp_path / "out.mp4"), {}),
        (OutputError, (clip, clip), {"overwrite": True}),
        (OutputError, (clip, tmp_path / "out.webm"), {}),
    ):
        with pytest.raises(error):
            explain_video(model, *arguments, on_start=started.append, **options)  # type: ignore[arg-type]
    assert started == []
    assert list(tmp_path.iterdir()) == [clip]
