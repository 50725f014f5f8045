"""The table of faults and stages: whatever fails, at whichever frame, nothing hangs, and nothing half done is left."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from click.testing import CliRunner, Result

from onnxcam.cli import main
from onnxcam.errors import InputError, OutputError
from onnxcam.runtime import explainer, sources
from onnxcam.runtime.live.screen import Screen
from onnxcam.runtime.server.hub import Hub
from onnxcam.runtime.session import CamModel
from onnxcam.runtime.sinks import VideoSink

from .runtime.clips import RED, color_artifact, plain, write_clip

FRAMES = 12
WHEN = {"start": 0, "middle": FRAMES // 2, "end": FRAMES - 1}
PLANNED = InputError("the cable is loose: plug it in")
UNPLANNED = RuntimeError("device error 0x1f")
STAGES = {
    "source": (sources.VideoSource, "_picture"),
    "model": (CamModel, "run"),
    "renderer": (explainer, "render"),
    "encoder": (VideoSink, "write"),
    "viewer": (Hub, "publish"),
}

pytestmark = pytest.mark.timeout(40)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A clip and an artifact; afterwards no thread of ours may be left."""
    write_clip(tmp_path / "clip.mp4", [plain(RED)] * FRAMES)
    color_artifact(tmp_path / "colors.cam.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("onnxcam.runtime.live.window.screen_problem", lambda: "there is no screen here")
    yield tmp_path
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("onnxcam")]
    assert not left


def break_at(monkeypatch: pytest.MonkeyPatch, stage: str, frame: int, error: Exception) -> None:
    """Let that stage raise ``error`` at its ``frame``-th call, and from then on."""
    owner, name = STAGES[stage]
    work: Any = getattr(owner, name)
    calls = itertools.count()

    def broken(*arguments: Any, **options: Any) -> Any:
        if next(calls) >= frame:
            raise error
        return work(*arguments, **options)

    monkeypatch.setattr(owner, name, broken)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "-m", "colors.cam.onnx"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("error", [PLANNED, UNPLANNED], ids=["planned", "unplanned"])
@pytest.mark.parametrize("stage", ["source", "model", "renderer", "encoder"])
def test_a_video_is_written_whole_or_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stage: str, error: Exception, when: str
) -> None:
    break_at(monkeypatch, stage, WHEN[when], error)
    result = call("video", "clip.mp4")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert str(error) in result.stderr
    assert result.stderr.count("\n") == 1
    assert names(folder) == ["clip.mp4", "colors.cam.onnx"]


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("error", [PLANNED, UNPLANNED], ids=["planned", "unplanned"])
@pytest.mark.parametrize("stage", ["model", "renderer", "viewer"])
def test_a_live_view_ends_with_a_sentence_and_its_recording_is_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stage: str, error: Exception, when: str
) -> None:
    break_at(monkeypatch, stage, WHEN[when], error)
    result = call("webcam", "clip.mp4", "--serve", "0", "--record", "out.mp4", "--log-format", "json")
    assert result.exit_code == 1
    (said,) = [told for told in map(json.loads, result.stderr.splitlines()) if told["event"] == "error"]
    assert str(error) in said["text"]
    recorded = WHEN[when] + (stage == "viewer")  # the recording comes before the page
    assert names(folder) == ["clip.mp4", "colors.cam.onnx", *(["out.mp4"] if recorded else [])]
    if recorded:
        with av.open(str(folder / "out.mp4")) as video:
            assert sum(1 for _ in video.decode(video=0)) == recorded


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("error", [OutputError("the disk is full"), UNPLANNED], ids=["planned", "unplanned"])
def test_a_recording_that_fails_leaves_the_view_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, when: str
) -> None:
    break_at(monkeypatch, "encoder", WHEN[when], error)
    result = call("webcam", "clip.mp4", "--serve", "0", "--record", "out.mp4", "--log-format", "json")
    assert result.exit_code == 1
    assert f"{FRAMES} frames explained" in result.stdout
    (said,) = [told for told in map(json.loads, result.stderr.splitlines()) if told["event"] == "recording failed"]
    assert str(error) in said["reason"]
    assert "out.mp4" not in names(folder)


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("error", [PLANNED, UNPLANNED], ids=["planned", "unplanned"])
def test_a_camera_that_fails_is_opened_again_for_as_long_as_it_is_wanted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, when: str
) -> None:
    break_at(monkeypatch, "source", WHEN[when], error)
    result = call("webcam", "clip.mp4", "--loop", "--serve", "0", "--seconds", "1.5", "--log-format", "json")
    assert result.exit_code == 0, result.stderr
    assert re.match(rf"{WHEN[when]} frames seen", result.stdout)
    lost = [told for told in map(json.loads, result.stderr.splitlines()) if told["event"] == "lost"]
    assert lost
    assert all(str(error) in told["reason"] for told in lost)


def test_a_window_that_fails_ends_the_view(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Screen):
        def __init__(self, *_: object) -> None:
            self._frames = 0

        def publish(self, _: object) -> None: ...

        def refresh(self) -> bool:
            self._frames += 1
            if self._frames > 3:
                raise UNPLANNED
            return True

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("onnxcam.runtime.live.window.screen_problem", lambda: None)
    monkeypatch.setattr("onnxcam.runtime.live.screen.Screen", Broken)
    result = call("webcam", "clip.mp4", "--loop", "--record", "out.mp4")
    assert result.exit_code == 1
    assert str(UNPLANNED) in result.stderr
    assert not [name for name in names(folder) if "recording" in name]
