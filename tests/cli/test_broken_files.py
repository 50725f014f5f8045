"""A file that breaks off while ``onnxcam webcam`` plays it once: what came before is kept, and the status says it."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from typing import Any

import av
import pytest
from click.testing import CliRunner

from onnxcam.cli import main
from onnxcam.errors import InputError
from onnxcam.runtime.sources import VideoSource

from ..runtime.clips import RED, color_artifact, plain, write_clip  # noqa: TID252 tests are no package

FRAMES = 8


@pytest.mark.timeout(20)
@pytest.mark.parametrize("frame", [0, FRAMES // 2, FRAMES - 1], ids=["start", "middle", "end"])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InputError("the cable is loose: plug it in"), "Error: the cable is loose: plug it in"),
        (RuntimeError("device error 0x1f"), "Error: RuntimeError: device error 0x1f; this should not happen"),
    ],
    ids=["planned", "unplanned"],
)
def test_a_file_that_breaks_off_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str, frame: int
) -> None:
    write_clip(tmp_path / "clip.mp4", [plain(RED)] * FRAMES)
    color_artifact(tmp_path / "colors.cam.onnx")
    monkeypatch.chdir(tmp_path)
    calls, read = itertools.count(), VideoSource._picture

    def broken(*arguments: Any) -> Any:
        if next(calls) >= frame:
            raise error
        return read(*arguments)

    monkeypatch.setattr(VideoSource, "_picture", broken)
    result = CliRunner().invoke(
        main, ["webcam", "clip.mp4", "--serve", "0", "--record", "out.mp4", "-m", "colors.cam.onnx", "--json"]
    )
    assert result.exit_code == 1
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert said.startswith(told)
    counts = json.loads(result.stdout)
    assert (counts["seen"], counts["explained"], counts["dropped"]) == (frame, frame, 0)
    kept = ["clip.mp4", "colors.cam.onnx", *(["out.mp4"] if frame else [])]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    if frame:
        with av.open("out.mp4") as video:
            assert sum(1 for _ in video.decode(video=0)) == frame
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("onnxcam")]
