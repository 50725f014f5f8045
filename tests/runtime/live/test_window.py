"""A real window, on a screen that nobody sees."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onnxcam.errors import OutputError
from onnxcam.runtime.live import window

SAMPLES = Path(__file__).parents[3] / "models" / "samples"
COMMAND = f"import sys; sys.path[:] = {sys.path!r}; from onnxcam.cli import main; main()"


def test_without_a_screen_it_is_refused_with_the_way_out(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(OutputError, match=r"there is no screen here: .*onnxcam webcam --serve"):
        window.Window("nothing")


def test_an_opencv_without_windows_is_told(monkeypatch):
    monkeypatch.delattr(window.cv2, "imshow", raising=False)
    assert window.screen_problem() == "this OpenCV was built without windows"


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="needs Xvfb, an X server without a screen")
def test_frames_are_shown_in_a_window(tmp_path):
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "800x600x24", "-nolisten", "tcp"],
        pass_fds=[write], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    try:
        with os.fdopen(read) as told:
            display = f":{told.readline().strip()}"
        clip = str(SAMPLES / "cat_to_coffee.mp4")
        result = subprocess.run(
            [sys.executable, "-c", COMMAND, "webcam", clip, "--loop", "--seconds", "3", "--json"],
            env={**os.environ, "DISPLAY": display}, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    finally:
        server.terminate()
        server.wait(10)
    assert result.returncode == 0, result.stderr
    assert '"shown": 0' not in result.stdout
    assert "Traceback" not in result.stderr
